"""What every method's settings are made of: the value types, and the settings that all training methods share."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Clash(ValueError):
    """Settings that exclude each other; `setting` is the one to point at."""

    def __init__(self, setting: str, message: str) -> None:
        self.setting = setting
        super().__init__(message)


class _Told(type(BaseModel)):
    """Makes a class of settings raise ConfigError, in our words, where it is called: `pt.Lora(rank=-1)`."""

    if not TYPE_CHECKING:

        def __call__(cls, **given: object) -> object:
            return import_module("posttrain.config.load").make_config(cls, given)


class Settings(BaseModel, metaclass=_Told):
    """Settings that refuse unknown keys, convert nothing but int to float, and cannot be changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)
    command: ClassVar[str] = ""
    positional: ClassVar[str] = ""  # the setting that may stand without its flag; "": a settings file stands there
    family: ClassVar[bool] = False  # in a class that commands share: its settings stand among each command's own


_LONGEST_NAME, _LONGEST_PATH = 255, 4000  # bytes, on all common file systems

# --- value types ------------------------------------------------------------------------------------------------


def _as_text(value: object) -> object:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _as_place(value: object) -> object:
    """A path as it is meant: `~` is the home folder; a variable is an error, since only a shell would fill it in."""
    value = _as_text(value)
    if not isinstance(value, str):
        return value
    if re.search(r"\$\{?[A-Za-z_]", value):
        raise ValueError(
            f"{value!r} holds a variable, which only a shell fills in; write the path, or give it as a flag"
        )
    name = os.path.expanduser(value)
    try:
        written = os.fsencode(name)
    except UnicodeEncodeError as error:
        raise ValueError(f"{value!r:.60} holds half of a character, which no file's name can") from error
    if b"\0" in written:
        raise ValueError(f"{value!r:.60} holds a zero byte, which no file's name can")
    if len(written) > _LONGEST_PATH or max(map(len, written.split(b"/"))) > _LONGEST_NAME:
        raise ValueError(f"{value!r:.60}… is longer than a file's name may be")
    return name


def as_texts(value: object) -> object:
    """One text as a list of one."""
    return (value,) if isinstance(value, str) else value


def _as_items(value: object) -> object:
    """A list of items from what people write: a path, one mapping, or a list of either."""
    many: Sequence[object] = value if isinstance(value, list | tuple) else (value,)  # pyright: ignore[reportUnknownVariableType]
    if not many:
        raise ValueError("names no source")
    return tuple({"path": os.fspath(item)} if isinstance(item, str | os.PathLike) else item for item in many)  # pyright: ignore[reportUnknownArgumentType]


Text: TypeAlias = Annotated[str, BeforeValidator(_as_text), Field(min_length=1)]
Place: TypeAlias = Annotated[str, BeforeValidator(_as_place), Field(min_length=1)]
_OneOrMany: TypeAlias = Annotated[str, Field(min_length=1)] | list[Annotated[str, Field(min_length=1)]]
Texts: TypeAlias = Annotated[
    tuple[Text, ...], Field(strict=False), BeforeValidator(as_texts, json_schema_input_type=_OneOrMany)
]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
NotNegative: TypeAlias = Annotated[float, Field(ge=0)]
Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Count: TypeAlias = Annotated[int, Field(ge=1)]
SHARE = r"^(100(\.0+)?|\d{1,2}(\.\d+)?|\.\d+)\s*%$"
Percent: TypeAlias = Annotated[str, Field(pattern=SHARE)]
Every: TypeAlias = Percent | Count


class DataItem(Settings):
    """One source of rows."""

    path: Place = Field(description="a file, a folder, or a run's own output")
    weight: Positive = Field(default=1.0, description="how often its rows are drawn, relative to the other sources")
    columns: Mapping[str, str] | None = Field(
        default=None, description="our name: the file's name, for columns that are not recognised"
    )
    subset: Text | None = Field(default=None, description="the subset (configuration) of a hub data set; null: its own")
    split: Text | None = Field(default=None, description="the split of a hub data set; null: train")


_Source: TypeAlias = Annotated[str, Field(min_length=1)] | DataItem
Data: TypeAlias = Annotated[
    tuple[DataItem, ...],
    Field(strict=False),
    BeforeValidator(_as_items, json_schema_input_type=_Source | Annotated[list[_Source], Field(min_length=1)]),
]


class Lora(Settings):
    """Low-rank adapters in place of training all weights."""

    rank: Count | None = Field(default=32, description="rank of the update; null: with start continue, the adapter's")
    alpha: Positive | None = Field(
        default=64.0, description="the update is scaled by alpha / rank; null: with start continue, the adapter's"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.0, description="dropout before the adapter")
    targets: Literal["all-linear"] | Texts | None = Field(
        default="all-linear",
        description="the layers that get an adapter: all-linear, or names of modules; null: with start continue",
    )
    rank_pattern: Mapping[str, Count] | None = Field(
        default=None, description="other ranks for some layers: {o_proj: 8}; null: one rank"
    )
    alpha_pattern: Mapping[str, Positive] | None = Field(
        default=None, description="other alphas for some layers: {o_proj: 16}; null: one alpha"
    )
    rslora: bool = Field(default=False, description="scale the update by alpha / sqrt(rank)")
    dora: bool = Field(default=False, description="learn the length of every row of a weight apart (DoRA)")
    start: Literal["new", "continue"] = Field(
        default="new", description="a new adapter, on top of the model's own; continue: the model's own adapter goes on"
    )

    @model_validator(mode="before")
    @classmethod
    def _continuing_takes_the_shape_as_it_is(cls, values: Any) -> Any:
        """With `start: continue` what gives a new adapter its shape is null, so that the settings say what happens."""
        if isinstance(values, Mapping) and values.get("start") == "continue":  # pyright: ignore[reportUnknownMemberType]
            return {**dict.fromkeys(_SHAPE), **values}
        return values

    @model_validator(mode="after")
    def _shape_and_start_agree(self) -> Lora:
        given = [name for name in _SHAPE if getattr(self, name) is not None]
        if self.start == "new" and len(given) < len(_SHAPE):
            missing = next(name for name in _SHAPE if name not in given)
            raise Clash(missing, "null is for start continue, where the model's own adapter has it")
        if self.start == "continue":
            given += [name for name in ("rank_pattern", "alpha_pattern", "rslora", "dora") if getattr(self, name)]
            if given:
                raise Clash(given[0], "start continue keeps the adapter's own shape: leave this out")
        if self.dora and self.dropout > 0:
            raise Clash("dropout", "with dora it would act on the base's part of a layer too; use 0")
        return self


_SHAPE = ("rank", "alpha", "targets")


BEST = "measure of the weights kept in run/best; auto: eval_loss, in a run of several passes; null: none"
"""Of evaluations; each command has its own list of them."""

# --- settings of every training method ----------------------------------------------------------------------------


class Training(Settings):
    """What SFT, reward, PPO and DPO share."""

    version: Literal[1] = Field(default=1, description="version of this layout of settings")
    model: Place = Field(description="the model to start from: a run, a Hugging Face folder or a hub id")
    out: Place = Field(description="the run folder to write; it becomes a model folder")
    template: Place | None = Field(
        default=None, description="chat template: null (the model's own, or plain), plain, notes, or a file"
    )
    max_length: Count | Literal["auto"] = Field(
        default="auto", description="longest conversation in tokens; auto: the model's context, at most 2048"
    )
    lora: Lora | None = Field(default=None, description="adapters (rank, alpha, ...); null: train all weights")
    quantize: Literal["8bit", "4bit"] | None = Field(
        default=None, description="the frozen weights beneath adapters in few bits, to save memory; null: as they are"
    )
    micro_batch_tokens: Count | Literal["auto"] = Field(
        default="auto", description="tokens per forward and backward: memory, not results; auto: what fits, printed"
    )
    activation_checkpointing: bool = Field(
        default=False, description="layers run a second time in backward: less memory, more time, the same results"
    )
    compile: bool = Field(
        default=False, description="decoder layers through torch.compile, for a GPU: a slower start, and rounds apart"
    )
    learning_rate: Positive | Literal["auto"] = Field(
        default="auto", description="peak learning rate; auto: by method and size, printed"
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="how the learning rate falls after the warm-up"
    )
    warmup: Fraction = Field(default=0.03, description="share of the steps in which the learning rate rises")
    optimizer: Literal["adamw", "adamw8bit"] = Field(
        default="adamw", description="what updates the weights; adamw8bit: a quarter of its memory, with bitsandbytes"
    )
    offload: Literal["optimizer", "frozen", "all"] | None = Field(
        default=None,
        description="what waits in CPU memory: the optimizer's numbers, models that are only read, both; null: nothing",
    )
    weight_decay: NotNegative = Field(default=0.0, description="AdamW's decoupled decay")
    grad_clip: Positive | None = Field(default=1.0, description="largest norm of the gradient; null: not clipped")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="of weights; auto: bf16 on a GPU that has it, else fp32; fp16: for older GPUs"
    )
    packing: Literal["auto", "off"] = Field(
        default="auto", description="several sequences in one forward; off: one at a time, slower, the same results"
    )
    max_bad: Percent = Field(default="5%", description="more bad rows than this share stop the run; fewer are left out")
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="of order, splits, new weights and samples")
    deterministic: bool = Field(
        default=False, description="on a GPU the same bits every time, by slower kernels; on a CPU they always are"
    )

    save_every: Every | None = Field(
        default="25%", description="a checkpoint every so many steps, or share of the run; null: only when interrupted"
    )
    keep: Count = Field(default=2, description="checkpoints kept while the run goes on; none is left when it is done")
    track: Literal["tensorboard", "wandb", "trackio", "mlflow"] | None = Field(
        default=None, description="where metrics also go (wandb offline unless WANDB_MODE is set); null: nowhere"
    )

    @model_validator(mode="after")
    def _few_bits_only_beneath_adapters(self) -> Training:
        if self.quantize is not None and self.lora is None:
            raise Clash("quantize", "weights in few bits cannot be trained: set lora, for example lora: {rank: 32}")
        if self.offload in ("frozen", "all") and self.command in ("sft", "classify", "reward"):
            raise Clash("offload", f"{self.command} has no model that is only read; use optimizer")
        if self.compile and self.packing == "off":
            raise Clash("compile", "layers that run one sequence at a time are not compiled: leave packing out")
        return self

    @model_validator(mode="after")
    def _dropout_only_where_it_does_no_harm(self) -> Training:
        if self.command not in ("sft", "classify") and self.lora is not None and self.lora.dropout > 0:
            raise Clash("lora.dropout", f"{self.command} compares log-probs or scores, which dropout blurs; use 0")
        return self


def steps_alone(values: Any) -> Any:
    """What was given, with no epochs where it names steps alone."""
    if isinstance(values, Mapping) and values.get("steps") is not None and "epochs" not in values:  # pyright: ignore[reportUnknownMemberType]
        return {**values, "epochs": None}
    return values


class Passes(Settings):
    """What the methods share that go over a data set: SFT, reward and DPO."""

    data: Data = Field(description="what to train on: a path, or a list of {path, weight, columns}")
    overlong: Literal["drop", "truncate", "error"] = Field(
        default="drop", description="what happens to rows longer than max_length; counted and printed"
    )
    epochs: Positive | None = Field(default=1.0, description="passes over the data; set this or steps")
    steps: Count | None = Field(default=None, description="optimizer steps; set this or epochs")
    batch_size: Count = Field(default=32, description="rows per optimizer step, over all devices together")
    eval_data: Percent | Place | None = Field(
        default="2%", description="held-out rows: a share of the data, split by prompt, or a file; null: none"
    )
    eval_every: Every | None = Field(default="10%", description="evaluate every so many steps, or share of the run")

    @model_validator(mode="before")
    @classmethod
    def _steps_replace_the_default_epochs(cls, values: Any) -> Any:
        """Giving `steps` alone means no epochs, so that the resolved settings name exactly one of the two."""
        return steps_alone(values)

    @model_validator(mode="after")
    def _a_share_is_no_file(self) -> Passes:
        if self.eval_data is not None and self.eval_data.endswith("%") and not re.match(SHARE, self.eval_data):
            raise Clash("eval_data", f"expected a share up to 100%, got {self.eval_data!r}")
        return self

    @model_validator(mode="after")
    def _the_best_is_evaluated(self) -> Passes:
        best: str | None = getattr(self, "best")  # noqa: B009 - each command has its own measures
        if best not in (None, "auto") and (self.eval_data is None or self.eval_every is None):
            raise Clash("best", f"{best} needs eval_data and eval_every, for example eval_data: 2%")
        return self

    @model_validator(mode="after")
    def _one_length(self) -> Passes:
        if (self.epochs is None) == (self.steps is None):
            raise Clash("steps", "set either epochs or steps, the other null")
        return self


class Shown(Settings):
    """What the methods share whose model writes answers that a person may read along: SFT and DPO."""

    samples: Texts = Field(default=(), description="prompts answered at every evaluation, to read along")
