"""The settings of the preference family: on rows that were compared or labelled, and on the policy's own answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from posttrain.config.rewards import Functions, Rewards, refuse_idle_functions
from posttrain.config.shared import (
    BEST,
    Clash,
    Count,
    Data,
    Every,
    NotNegative,
    Passes,
    Place,
    Positive,
    Settings,
    Shown,
    Texts,
    Training,
)

WITHOUT_REFERENCE = ("simpo", "orpo")
"""The losses that compare the policy's answers with one another alone."""
_PAIRS_AGAINST_REFERENCE = ("sigmoid", "ipo", "hinge", "robust")
_PAIRS = (*_PAIRS_AGAINST_REFERENCE, *WITHOUT_REFERENCE)
# setting: the losses in which it has a meaning
_OF_LOSS: dict[str, tuple[str, ...]] = {
    "beta": (*_PAIRS_AGAINST_REFERENCE, "simpo", "kto"),
    "label_smoothing": ("sigmoid", "robust"),
    "length_normalize": _PAIRS_AGAINST_REFERENCE,
    "gamma": ("simpo",),
    "lam": ("orpo",),
    "nll": (*_PAIRS_AGAINST_REFERENCE, "simpo"),
    "desirable_weight": ("kto",),
    "undesirable_weight": ("kto",),
    "ties": _PAIRS,
    "pair_weight": _PAIRS,
}
# what to do instead, where that is more than choosing another loss
_INSTEAD = {
    ("length_normalize", "simpo"): "leave it out: simpo takes means per token as it is",
    ("length_normalize", "orpo"): "leave it out: orpo takes means per token as it is",
    ("beta", "orpo"): "set lam, the weight of its odds ratio",
    ("nll", "orpo"): "leave it out: orpo has the chosen answers' likelihood in it, and lam weighs the rest",
    ("nll", "kto"): "leave it out: desirable_weight raises the weight of good answers",
}


class Preferences(Settings):
    """What the losses of the family share, on data and on samples."""

    family: ClassVar[bool] = True

    beta: Positive | Literal["auto"] = Field(
        default="auto", description="how strongly the policy is held to the reference; auto: 0.1, for simpo 2"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.0, description="assumed share of swapped labels (sigmoid and robust)"
    )
    length_normalize: bool = Field(
        default=False, description="log-ratios as means per token, not sums (sigmoid, ipo, hinge and robust)"
    )
    gamma: NotNegative = Field(default=0.5, description="the margin that simpo asks for")
    lam: Positive = Field(default=0.1, description="weight of orpo's odds ratio beside its likelihood")
    nll: NotNegative = Field(
        default=0.0, description="weight of an added negative log-likelihood per token of the best answers"
    )
    reference: Place = Field(
        default="auto",
        description="what the policy is held to: start (the model) or a model; auto: start, for simpo and orpo none",
    )

    @model_validator(mode="after")
    def _every_setting_has_a_meaning(self) -> Preferences:
        loss: str = getattr(self, "loss")  # noqa: B009 - each command has its own list of losses
        for name in self._meaningless(loss):
            instead = _INSTEAD.get((name, loss)) or f"leave it out, or use loss {' or '.join(_OF_LOSS[name])}"
            raise Clash(name, f"loss {loss} has no {name}; {instead}")
        if loss in WITHOUT_REFERENCE and self.reference not in ("auto", "none"):
            raise Clash("reference", f"loss {loss} compares the policy with no reference; leave it out")
        if loss not in WITHOUT_REFERENCE and self.reference == "none":
            what = f"loss {loss} holds the policy to a reference"
            raise Clash("reference", f"{what}; give start or a model, or use loss {' or '.join(WITHOUT_REFERENCE)}")
        return self

    def _meaningless(self, loss: str) -> Iterator[str]:
        """The settings that were changed and that the loss does not have."""
        for name, losses in _OF_LOSS.items():
            field = type(self).model_fields.get(name)
            if field is not None and loss not in losses and getattr(self, name) != field.default:
                yield name


class DPOConfig(Training, Passes, Shown, Preferences):
    """Direct preference optimisation on pairs, rankings or labelled answers. A row of `batch_size` is a row of data."""

    command: ClassVar[str] = "dpo"

    loss: Literal["sigmoid", "ipo", "hinge", "robust", "simpo", "orpo", "kto"] = Field(
        default="sigmoid",
        description="of pairs against a reference, of pairs alone (simpo, orpo), or of labelled answers (kto)",
    )
    ties: Literal["soft", "drop"] = Field(default="drop", description="ties as a target of one half, or left out")
    pair_weight: Literal["pair", "prompt"] = Field(
        default="pair", description="every pair counts the same, or every prompt does"
    )
    desirable_weight: Positive = Field(default=1.0, description="weight of the answers labelled good (kto)")
    undesirable_weight: Positive = Field(default=1.0, description="weight of the answers labelled bad (kto)")
    best: Literal["auto", "eval_loss", "eval_accuracy", "eval_margin"] | None = Field(default="auto", description=BEST)

    @model_validator(mode="after")
    def _kto_has_others_to_compare_with_and_no_pairs(self) -> DPOConfig:
        if self.loss == "kto" and self.batch_size < 2:
            raise Clash("batch_size", "kto compares the rows of a step with one another: use 2 or more, better 32")
        if self.loss == "kto" and self.best == "eval_margin":
            raise Clash("best", "loss kto has no pairs, and so no margin; there are eval_loss, eval_accuracy")
        return self


class OnlineDPOConfig(Training, Preferences):
    """DPO on the policy's own answers, which are sampled, scored and paired in every step."""

    command: ClassVar[str] = "online-dpo"

    reward: Rewards = Field(
        description="the reward: a run of `reward`, a model, rewards.py:function, or a list of {reward, weight}"
    )
    functions: Functions = Field(default_factory=Functions, description="how Python functions among rewards are called")
    prompts: Data = Field(description="prompts to answer: a path, or a list of {path, weight, columns}")
    loss: Literal["sigmoid", "ipo", "hinge", "robust", "simpo", "orpo"] = Field(
        default="sigmoid", description="of pairs against a reference, or of pairs alone (simpo, orpo)"
    )
    pairs: Literal["best_worst", "all"] = Field(
        default="best_worst", description="of a prompt's answers: the best against the worst, or all that differ"
    )
    steps: Count = Field(default=300, description="rounds of sampling, scoring and one update")
    rollouts: Count = Field(default=64, description="answers per step, over all devices together")
    group: Annotated[int, Field(ge=2)] = Field(default=4, description="answers per prompt")
    max_new_tokens: Count = Field(default=256, description="longest answer in tokens")
    temperature: Positive = Field(default=1.0, description="divides the logits of policy and reference alike")
    stop: Texts = Field(default=(), description="texts that end an answer, besides the end of turn")
    missing_eos_penalty: NotNegative = Field(
        default=1.0, description="subtracted from the score of an answer cut by max_new_tokens"
    )
    best: Literal["score", "reward"] | None = Field(
        default=None, description="measure of the weights kept in run/best: score, or it less the penalty; null: none"
    )
    rollouts_every: Every | None = Field(default=10, description="keep a prompt's answers for reading; null: never")

    @property
    def layout(self) -> str:
        """How the models are held: a reward adapter stands on the policy's base where that is not trained."""
        return "separate" if self.lora is None else "adapters"

    @model_validator(mode="after")
    def _groups_are_whole_and_functions_called(self) -> OnlineDPOConfig:
        if self.rollouts % self.group:
            raise Clash("rollouts", f"{self.rollouts} answers do not divide into groups of {self.group}")
        refuse_idle_functions(self.reward, self.functions, "reward")
        return self
