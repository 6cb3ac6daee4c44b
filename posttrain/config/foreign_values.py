"""Values of other libraries in our words: shares, schedules, lists of data sets, adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from posttrain.config.foreign_names import RENAMED


class NoValueError(ValueError):
    """Their value has none here; the message, when there is one, says what instead."""


def shown(value: object) -> str:
    """A plain value as it is written in YAML, on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        items = cast("Mapping[str, object]", value).items()
        return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown(item) for item in cast("list[object]", value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def translated(name: str, given: Mapping[str, object]) -> object:
    """The value of one of their options as it is written here. Raises NoValueError when it cannot be told."""
    key = name if name in RENAMED else name.rsplit(".", 1)[-1]
    value = given.get(name)
    if value == "" or name not in given or key in _NO_VALUE:
        raise NoValueError
    if key in _WORDS:
        table = _WORDS[key]
        if not isinstance(value, str | bool) or value not in table:
            raise NoValueError
        return table[value]
    try:
        return _MAKERS[key](value, given) if key in _MAKERS else value
    except OverflowError as error:
        raise NoValueError from error


def switch(name: str) -> bool:
    """Whether the option of theirs is one that is turned on or off."""
    return True in _WORDS.get(name, {}) or name.startswith("use_")


# What they hold says something else than the setting that is named.
_NO_VALUE = (
    "total_episodes", "num_episodes", "train.num_episodes", "dataset_config", "dataset_train_split",
    "dataset_test_split", "dataset_text_field", "dataset_dir", "interleave_probs", "data.dataset_probs", "input_key",
    "data.input_key", "data.dataset_split", "data.prompt_split", "data.prompt_probs", "eval.split",
    "chat_template_jinja", "peft_config", "lora_config", "per_device_eval_batch_size", "eval_batch_size",
    "micro_train_batch_size", "train.micro_batch_size", "generation_batch_size", "reward_funcs", "resize_vocab",
    "reward_weights",
    "reward.remote_url",
    "train.enable_ema", "ckpt.best_metric_key",
)  # fmt: skip
ROWS = ("per_device_train_batch_size", "micro_batch_size", "gradient_accumulation_steps")
_TYPES: dict[str | bool, object] = {
    "bfloat16": "bf16", "bf16": "bf16", "float32": "fp32", "auto": "auto", "float16": "fp16", "fp16": "fp16",
    "half": "fp16",
}  # fmt: skip
_SMALL_ADAM = ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit", "adamw_torch_8bit")
_ADAM: dict[str | bool, object] = {
    **dict.fromkeys(_SMALL_ADAM, "adamw8bit"),
    **dict.fromkeys(
        ("adamw_torch", "adamw_torch_fused", "adamw_hf", "paged_adamw", "paged_adamw_32bit", "adamw_apex_fused"),
        "adamw",
    ),
}
_PRECISION: dict[str | bool, object] = {True: "bf16", False: "auto", "auto": "auto"}
_PACKING: dict[str | bool, object] = {True: "auto", False: "auto"}
_FALLING: dict[str | bool, object] = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
    "cosine_with_min_lr": "cosine",
    "cosine_with_restarts": "cosine",
}
_NEVER: dict[str | bool, object] = {"no": None, False: None}
_COMPARED: dict[str | bool, object] = {
    "gae": "critic",
    "rloo": "rloo",
    "group_norm": "group",
    "reinforce": "none",
}
_SCALED: dict[str | bool, object] = {True: "running", False: None}
_WORDS: dict[str, dict[str | bool, object]] = {
    "train_on_inputs": {True: "all", False: "assistant"},
    "train_on_prompt": {True: "all", False: "assistant"},
    "mask_history": {True: "completion", False: "assistant"},
    "assistant_only_loss": {True: "assistant", False: "all"},
    "completion_only_loss": {True: "completion", False: "all"},
    "bf16": _PRECISION,
    "fp16": {True: "fp16", False: "auto"},
    "bfloat16": _PRECISION,
    "float16": {True: "fp16", False: "auto"},
    "float32": {True: "fp32", False: "auto"},
    "pure_bf16": {True: "bf16", False: "auto"},
    **dict.fromkeys(("dtype", "torch_dtype", "param_dtype", "ds.param_dtype"), _TYPES),
    **dict.fromkeys(
        ("sample_packing", "neat_packing", "padding_free", "packing_samples", "ds.packing_samples"), _PACKING
    ),
    **dict.fromkeys(("lr_scheduler_type", "lr_scheduler"), _FALLING),
    **dict.fromkeys(("eval_strategy", "evaluation_strategy", "save_strategy"), _NEVER),
    **dict.fromkeys(("advantage_estimator", "algo.advantage.estimator"), _COMPARED),
    "torch_compile": {True: True, False: False, "auto": True},
    "disable_gradient_checkpointing": {True: False, False: True},
    "algo.kl.use_loss": {True: "loss", False: "reward"},
    **dict.fromkeys(("ppo_score_norm", "normalize_reward", "reward.normalize_enable"), _SCALED),
    "excess_length_strategy": {"drop": "drop", "truncate": "truncate", "raise": "error"},
    "truncation_mode": {"keep_start": "truncate"},
    "chat_template": {"tokenizer_default": None},
    "lora_target_linear": {True: "all-linear"},
    "create_new_adapter": {True: "new", False: "continue"},
    "load_in_4bit": {True: "4bit"},
    "ds.load_in_4bit": {True: "4bit"},
    "load_in_8bit": {True: "8bit"},
    "optim": _ADAM,
    "adam_offload": {True: "optimizer"},
    "ds.adam_offload": {True: "optimizer"},
    "ref.offload": {True: "frozen"},
    "reward.offload": {True: "frozen"},
    "use_tensorboard": {True: "tensorboard"},
    "use_mlflow": {True: "mlflow"},
    "use_trackio": {True: "trackio"},
}


def batch_rows(given: Mapping[str, object]) -> int:
    """Rows per step on one device: rows of a forward, times the steps of accumulation."""
    a_forward = given.get("per_device_train_batch_size", given.get("micro_batch_size"))
    times = given.get("gradient_accumulation_steps", 1)
    if not isinstance(a_forward, int) or not isinstance(times, int):
        raise NoValueError
    return a_forward * times


def _share(value: object, given: Mapping[str, object]) -> str | None:
    """A part of one as a share: 0.02 is 2%; of a number of rows there is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or value >= 1:
        raise NoValueError("a share such as 2%, or a file")
    return f"{value * 100:g}%" if value else None


def _interval(value: object, given: Mapping[str, object]) -> object:
    """Steps stay steps; a part of one is a share of the run."""
    return _share(value, given) if isinstance(value, float) and value < 1 else value


def _times_an_epoch(value: object, given: Mapping[str, object]) -> str:
    epochs = given.get("num_epochs", given.get("num_train_epochs", given.get("epochs", 1)))
    if not isinstance(value, int | float) or not isinstance(epochs, int | float) or value * epochs < 1:
        raise NoValueError
    return f"{100 / (value * epochs):.3g}%"


def _answers(value: object, given: Mapping[str, object]) -> int:
    """Answers of a step: their prompts of a step times the answers of a prompt."""
    each = given.get("n_samples_per_prompt", given.get("rollout.n_samples_per_prompt", 1))
    if not isinstance(value, int) or not isinstance(each, int):
        raise NoValueError
    return value * each


def _warmup(value: object, given: Mapping[str, object]) -> float:
    """Steps of warm-up as a share of the steps, where both are known."""
    steps = given.get("max_steps", given.get("steps"))
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise NoValueError
    if value < 1:
        return float(value)
    if not isinstance(steps, int) or steps < value:
        raise NoValueError
    return float(f"{value / steps:.3g}")


def _sources(value: object, given: Mapping[str, object]) -> object:
    """Their data sets as ours: a path alone, or a list of what each says that we use."""
    sources = cast("list[object]", value) if isinstance(value, list) else [value]
    items = [_source(source) for source in sources]
    return items[0] if len(items) == 1 and isinstance(items[0], str) else items


def _source(source: object) -> object:
    names = {"path": "path", "split": "split", "name": "subset", "weight": "weight"}
    if isinstance(source, str) and "," not in source:
        return source
    if not isinstance(source, Mapping) or "path" not in source:
        raise NoValueError
    given = cast("Mapping[str, object]", source)
    item = {names[key]: given[key] for key in names.keys() & given.keys() if given[key] is not None}
    return item["path"] if set(item) == {"path"} else {key: item[key] for key in names.values() if key in item}


def _adapter(value: object, given: Mapping[str, object]) -> object:
    """What turns adapters on or off there."""
    if value in (True, "lora", "dora"):
        return {"rank": 32}
    if value in (False, None, "full", "none"):
        return None
    if value == "qlora":
        raise NoValueError("lora: {rank: 32}, with quantize: 4bit")
    raise NoValueError("lora: {rank: 32}")


def _bits(value: object, given: Mapping[str, object]) -> str:
    if value not in (4, 8):
        raise NoValueError("4bit or 8bit")
    return f"{value}bit"


_MEASURES = {"rewards/accuracies": "accuracy", "rewards/margins": "margin", "f1": "macro_f1"}


def _best(value: object, given: Mapping[str, object]) -> str:
    """Their measure as ours: of what is held out, the loss where none is named."""
    name = str(value).removeprefix("eval_")
    return f"eval_{_MEASURES.get(name, name)}"


def _load_best(value: object, given: Mapping[str, object]) -> str | None:
    return _best(given.get("metric_for_best_model", "loss"), given) if value else None


def _targets(value: object, given: Mapping[str, object]) -> object:
    if value in ("all", "all-linear", ["all"], ["all-linear"]):
        return "all-linear"
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _tracker(value: object, given: Mapping[str, object]) -> object:
    names = cast("list[object]", value) if isinstance(value, list) else [value]
    if len(names) > 1:
        raise NoValueError("one of them")
    return None if names in ([], ["none"], [None]) else names[0]


def _wandb(value: object, given: Mapping[str, object]) -> str:
    if not value:
        raise NoValueError
    return "wandb"


def _single(value: object, given: Mapping[str, object]) -> object:
    """The only item of a list, or the value itself."""
    return (
        cast("list[object]", value)[0] if isinstance(value, list) and len(cast("list[object]", value)) == 1 else value
    )


_MAKERS: dict[str, Callable[[Any, Mapping[str, object]], object]] = {
    **dict.fromkeys(("val_size", "val_set_size", "test_split_size"), _share),
    **dict.fromkeys(("eval_steps", "eval.steps", "save_steps", "ckpt.save_steps"), _interval),
    **dict.fromkeys(("evals_per_epoch", "saves_per_epoch"), _times_an_epoch),
    "warmup_steps": _warmup,
    **dict.fromkeys(("rollout_batch_size", "rollout.batch_size"), _answers),
    **dict.fromkeys(("datasets", "dataset", "test_datasets"), _sources),
    **dict.fromkeys(("adapter", "use_peft", "use_lora", "finetuning_type"), _adapter),
    **dict.fromkeys(("lora_target", "lora_target_modules", "target_modules"), _targets),
    "quantization_bit": _bits,
    "add_special_tokens": lambda value, given: str(value).split(","),
    "report_to": _tracker,
    "metric_for_best_model": _best,
    "load_best_model_at_end": _load_best,
    "roles_to_train": _single,
    **dict.fromkeys(("loss_type", "dpo_loss_type"), _single),
    **dict.fromkeys(("use_wandb", "wandb_project"), _wandb),
}


# --- values of theirs under a name that is the same here --------------------------------------------------------------

_PACKED = "write auto: here packing changes the speed, never the results"
_VALUES: dict[str, Callable[[Any], str]] = {
    "packing": lambda value: _PACKED if isinstance(value, bool) else "",
    "lora": lambda value: _lora(value),
    "beta": lambda value: f"write {{coef: {shown(value)}}}" if _is_number(value) else "",
    "precision": lambda value: f"write {_TYPES[value]}" if value in _TYPES else "write fp16" if value == 16 else "",
    "optimizer": lambda value: f"write {_ADAM[value]}" if value in _ADAM else "",
    "quantize": lambda value: f"write {value}bit" if value in (4, 8) else "write 4bit" if value == "nf4" else "",
    "schedule": lambda value: f"write {_FALLING[value]}" if value in _FALLING else "",
    "loss": lambda value: _loss(value),
    "warmup": lambda value: "it is a share of the steps: 100 of 1000 is 0.1" if _is_number(value) and value > 1 else "",
}
_LOSSES = "sigmoid is the usual choice"
_OTHER_LOSSES = {
    "sigmoid_norm": "write loss: sigmoid and length_normalize: true",
    "dpo": "write sigmoid",
    "cdpo": "write loss: sigmoid and label_smoothing",
    "kto_pair": "write kto",
    "rpo": "write loss: sigmoid and nll: 1",
    "sft": "nll adds the likelihood of the best answers to a loss",
}
_ABSENT_LOSSES = ("cpo", "apo_zero", "sppo_hard", "bco_pair", "exo_pair", "nca_pair")


def foreign_value(name: str, value: object) -> str:
    """What to write for a value that another library has under the name of a setting here, or nothing."""
    plain = value is None or isinstance(value, str | int | float)
    return _VALUES[name](value) if name in _VALUES and plain else ""


def _loss(value: object) -> str:
    if value in _ABSENT_LOSSES:
        return f"not in this version: {_LOSSES}"
    return _OTHER_LOSSES.get(value, "") if isinstance(value, str) else ""


def _lora(value: object) -> str:
    if value is True or value == "lora":
        return "write {rank: 32}"
    if value is False:
        return "write null"
    return f"write {{rank: {value}}}" if isinstance(value, int) else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
