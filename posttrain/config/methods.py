"""The settings of each command, one class each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from posttrain.config.rewards import Functions, Rewards, refuse_idle_functions
from posttrain.config.shared import (
    BEST,
    Clash,
    Count,
    Data,
    Fraction,
    NotNegative,
    Passes,
    Percent,
    Place,
    Settings,
    Shown,
    Text,
    Texts,
    Training,
)
from posttrain.config.tasks import Compared, Measured, Measures


class SFTConfig(Training, Passes, Shown, Measured):
    """Supervised finetuning on conversations or text."""

    command: ClassVar[str] = "sft"

    loss_on: Literal["assistant", "completion", "all"] = Field(
        default="assistant", description="trained tokens: every assistant turn, only the last one, or every token"
    )
    add_tokens: Texts = Field(
        default=(), description="special tokens that the vocabulary gets; their rows begin as the mean of the others"
    )
    best: (
        Literal[
            "auto", "eval_loss", "eval_exact_match", "eval_token_f1", "eval_bleu", "eval_chrf", "eval_rouge1",
            "eval_rouge2", "eval_rougeL",
        ]
        | None
    ) = Field(default="auto", description=BEST)  # fmt: skip

    @model_validator(mode="after")
    def _the_best_is_measured(self) -> SFTConfig:
        name = (self.best or "auto").removeprefix("eval_")
        if name not in ("auto", "loss", *self.measures):
            raise Clash("best", f"{self.best} is of {name}, which measures do not name; add it")
        return self

    @model_validator(mode="after")
    def _new_rows_are_weights_of_the_base(self) -> SFTConfig:
        if self.add_tokens and self.lora is not None:
            what = "rows for new tokens are weights of the base, which adapters leave alone"
            raise Clash("add_tokens", f"{what}; set lora: null, and train adapters on the model that comes of it")
        return self


class Annotators(Settings):
    """How much the rankings of each annotator weigh, besides the weights of the rows themselves."""

    weights: Mapping[Text, NotNegative] = Field(
        default_factory=dict[str, float], description="an annotator's name: a weight; 0 leaves the rankings out"
    )
    others: NotNegative = Field(default=1.0, description="the weight of all others, and of rankings that name nobody")


class RewardConfig(Training, Passes):
    """A reward model from ranked answers. A row of `batch_size` is a prompt with all of its answers."""

    command: ClassVar[str] = "reward"

    loss: Literal["pairwise", "plackett_luce"] = Field(
        default="pairwise", description="all pairs of a prompt, or the likelihood of the whole order"
    )
    ties: Literal["soft", "drop"] = Field(default="soft", description="ties as a target of one half, or left out")
    score_at: Literal["last", "mean"] = Field(
        default="last", description="the score: at the last token of the answer, or its mean over the answer"
    )
    center: Place | None = Field(
        default=None, description="demonstrations whose mean score becomes 0; null: the training answers"
    )
    annotators: Annotators = Field(
        default_factory=Annotators, description="weights of annotators, on top of those of rows"
    )
    best: Literal["auto", "eval_loss", "eval_accuracy", "eval_margin"] | None = Field(default="auto", description=BEST)


class Sampling(Settings):
    """What `sample` and `eval` share."""

    positional: ClassVar[str] = "model"

    model: Place = Field(description="the model: a run, a Hugging Face folder or a hub id")
    template: Place | None = Field(
        default=None, description="chat template: null (the model's own, or plain), plain, notes, or a file"
    )
    max_new_tokens: Count = Field(default=256, description="longest answer in tokens")
    temperature: NotNegative = Field(default=1.0, description="divides the logits; 0: always the likeliest token")
    stop: Texts = Field(default=(), description="texts that end an answer, besides the end of turn")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="of weights; auto: bf16 on a GPU that has it, else fp32; fp16: for older GPUs"
    )
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="of the samples")


class Narrowed(Sampling):
    """Sampling that may leave out unlikely tokens: what `sample` and `chat` share."""

    family: ClassVar[bool] = True

    top_k: Annotated[int, Field(ge=0)] = Field(default=0, description="keep only the likeliest tokens; 0: all")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(default=1.0, description="keep this share of probability")
    min_p: Fraction = Field(default=0.0, description="drop tokens below this share of the likeliest token's")


class SampleConfig(Narrowed):
    """Answers to prompts, written as JSON lines."""

    command: ClassVar[str] = "sample"

    prompts: Data = Field(description="prompts to answer: a path, or a list of {path, weight, columns}")
    out: Place = Field(default="pool.jsonl", description="the file to write")
    k: Count = Field(default=1, description="answers per prompt")


class ChatConfig(Narrowed):
    """A conversation with a model in the terminal, or with two of them, blind, side by side."""

    command: ClassVar[str] = "chat"

    against: Place | None = Field(
        default=None, description="a second model: both answer in random order, and you vote; null: one answers"
    )
    db: Place = Field(default="feedback.db", description="with against: the ranking store that takes the votes")
    annotator: Text = Field(default="chat", description="with against: the name that stands with the votes")
    system: Text | None = Field(default=None, description="the system message of every conversation; null: none")

    @model_validator(mode="after")
    def _votes_are_between_two(self) -> ChatConfig:
        fields = type(self).model_fields
        for name in ("db", "annotator"):
            if self.against is None and getattr(self, name) != fields[name].default:
                raise Clash(name, "is of votes, which are between two models: set against, or leave it out")
        return self


class EvalConfig(Sampling, Compared):
    """Measures of a model, alone or against another."""

    command: ClassVar[str] = "eval"

    data: Data = Field(description="held-out rows: conversations, text, rankings or prompts")
    against: Place | None = Field(default=None, description="another model: answers are compared, with an interval")
    judge: Rewards | None = Field(
        default=None, description="what scores answers: as the reward of ppo, a list of {reward, weight} too"
    )
    functions: Functions = Field(default_factory=Functions, description="how Python functions among judges are called")
    measures: Measures = Field(
        default=("exact_match",), description="measures of answers beside their references, where rows have one"
    )
    out: Place | None = Field(default=None, description="a JSON file for the result; null: only printed")
    max_length: Count | Literal["auto"] = Field(
        default="auto", description="longest conversation in tokens; auto: the model's context, at most 2048"
    )
    micro_batch_tokens: Count = Field(default=8192, description="tokens per forward; memory, not results")
    packing: Literal["auto", "off"] = Field(
        default="auto", description="several sequences in one forward; off: one at a time, slower, the same results"
    )

    @model_validator(mode="after")
    def _functions_are_called(self) -> EvalConfig:
        refuse_idle_functions(self.judge or (), self.functions, "judge")
        return self


class CheckConfig(Settings):
    """What a training run would make of a data file."""

    command: ClassVar[str] = "check"
    positional: ClassVar[str] = "data"

    data: Data = Field(description="rows of any kind: a path, or a list of {path, columns}")
    model: Place | None = Field(
        default=None, description="the model whose tokenizer and template are used; null: only what needs neither"
    )
    template: Place | None = Field(
        default=None, description="chat template: null (the model's own, or plain), plain, notes, or a file"
    )
    loss_on: Literal["assistant", "completion", "all"] = Field(
        default="assistant", description="trained tokens: every assistant turn, only the last one, or every token"
    )
    max_length: Count | Literal["auto"] = Field(
        default="auto", description="longest conversation in tokens; auto: the model's context, at most 2048"
    )
    max_bad: Percent = Field(default="5%", description="more bad rows than this share stop a run; fewer are left out")
    eval_data: Place | None = Field(default=None, description="held-out rows, whose prompts should not be in data")
    rows: Annotated[int, Field(ge=0)] = Field(default=3, description="how many rows are shown with their mask")
    out: Place | None = Field(default=None, description="a JSON-lines file for all problems; null: only counted")


class MergeConfig(Settings):
    """An adapter's folder as a model of full weights."""

    command: ClassVar[str] = "merge"
    positional: ClassVar[str] = "model"

    model: Place = Field(description="the adapter: a run or a folder")
    out: Place = Field(description="the folder to write; it must not exist")
