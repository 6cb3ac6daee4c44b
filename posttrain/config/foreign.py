"""What to write here for an option of another library: its name, and its value where that can be told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast

from pydantic import ValidationError

from posttrain.config.foreign_absent import FAMILIES, LATER, MISSING, UNNEEDED
from posttrain.config.foreign_names import OWNERS, RENAMED, Foreign
from posttrain.config.leaf import group_of
from posttrain.config.methods import CONFIGS
from posttrain.config.shared import Settings


class NoValueError(ValueError):
    """Their value has none here; the message, when there is one, says what instead."""


def foreign(config: type[Settings], name: str, given: Mapping[str, object], *, form: str) -> str:
    """`; that is TRL's name, here: epochs: 3`, or why there is none; the empty string for a name of nobody.

    `given` holds all that was given, by name: options are read together where only together they mean something
    (rows of a device and steps of accumulation), and the library that most of the names are from is the one named.
    `form` is `--{}` when flags were typed.
    """
    if name in LATER:
        return f"; not in this version: {LATER[name]}"
    owners, told = _told(config, name, given, form)
    return f"; that is {_owner(owners, given)}'s name, {told}" if told else ""


def _told(config: type[Settings], name: str, given: Mapping[str, object], form: str) -> tuple[str, str]:
    """The owners of a name and what is said of it."""
    last = name.rsplit(".", 1)[-1]
    renamed = RENAMED.get(name) or RENAMED.get(last)
    if renamed is not None:
        return renamed.owners, _here(config, name, renamed, given, form)
    unneeded = UNNEEDED.get(name) or UNNEEDED.get(last)
    if unneeded is not None:
        return unneeded.owners, f"not needed here: {_other_command(config, given.get(name)) or unneeded.note}"
    missing = MISSING.get(name) or MISSING.get(last)
    if missing is not None:
        off = given.get(name, "") in (None, False)
        return missing.owners, _OFF if off else f"not in this version: {missing.note}"
    for start, (owners, why) in FAMILIES.items():
        if name.startswith(start):
            return owners, f"not needed here: {why}"
    return "", ""


_OFF = "and off: leave the line out"
_COMMANDS = {
    **dict.fromkeys(("sft", "pt", "pretrain"), "sft"),
    **dict.fromkeys(("rm", "reward", "reward_trainer"), "reward"),
    **dict.fromkeys(("ppo", "grpo", "rloo", "gdpo"), "ppo"),
    **dict.fromkeys(("dpo", "ipo", "simpo", "orpo", "kto"), "dpo"),
}


def _other_command(config: type[Settings], value: object) -> str:
    """What is said when the method that a value names is another command's."""
    command = _COMMANDS.get(value) if isinstance(value, str) else None
    return f"{value} is the command posttrain {command}" if command not in (None, config.command) else ""


def _owner(owners: str, given: Mapping[str, object]) -> str:
    """The library of a name; of several the one that most of what was given is from."""
    tables = (RENAMED, UNNEEDED, MISSING)
    counts = Counter(letter for name in given for table in tables if name in table for letter in table[name].owners)
    most = max(owners, key=lambda letter: (counts[letter], -owners.index(letter)))
    return OWNERS[most]


def _here(config: type[Settings], name: str, entry: Foreign, given: Mapping[str, object], form: str) -> str:
    """`here: max_length: 512 (note)`, with the value only where it is a right one."""
    if name in _ROWS and "batch_size" in config.model_fields:
        return _batch(given, form)
    key = entry.here.split(".")[0]
    if key not in config.model_fields:
        owners = [command for command, other in CONFIGS.items() if key in other.model_fields]
        return f"a setting of {', '.join(owners)}: {entry.here}" if owners else f"not in this version: {entry.note}"
    try:
        value = _checked(config, entry.here, translated(name, given))
    except NoValueError as error:
        if given.get(name, "") in (None, False):
            return _OFF
        note = str(error) or entry.note
        here = f"--{entry.here}" if form.startswith("--") else entry.here
        return f"here: {here}" + (f" ({note})" if note else "")
    note = "" if entry.note.startswith(f"{entry.here}:") else f" ({entry.note})" if entry.note else ""
    if form.startswith("--"):
        return f"here: --{entry.here} {shown(value)}{note}"
    if value is not None and group_of(config.model_fields[key]) is not None:
        value = _merged(config, key, given)
    return f"here: {key}: {shown(value)}{note}"


def _batch(given: Mapping[str, object], form: str) -> str:
    """Rows of a forward and steps of accumulation are two things here: memory, and rows of an optimizer step."""
    try:
        rows = f"--batch_size {_rows(given)}" if form.startswith("--") else f"batch_size: {_rows(given)}"
    except NoValueError:
        rows = "--batch_size" if form.startswith("--") else "batch_size"
    return f"here: micro_batch_tokens for memory, and {rows} for rows per optimizer step, over all devices together"


def translation(config: type[Settings], given: Mapping[str, object]) -> dict[str, object]:
    """What all given options of other libraries together are here: settings with values that are right."""
    found: dict[str, object] = {}
    for name in given:
        key = RENAMED[name].here.split(".")[0] if name in RENAMED else ""
        if key not in config.model_fields or key in found:
            continue
        with suppress(NoValueError):
            value = _rows(given) if name in _ROWS else _checked(config, RENAMED[name].here, translated(name, given))
            grouped = value is not None and group_of(config.model_fields[key]) is not None
            found[key] = _merged(config, key, given) if grouped else value
    return found


def _merged(config: type[Settings], group: str, given: Mapping[str, object]) -> object:
    """The whole group that all given options together make: `{rank: 8, alpha: 16}`."""
    parts: dict[str, object] = {}
    for name in given:
        here = RENAMED[name].here if name in RENAMED else ""
        if here.startswith(f"{group}."):
            with suppress(NoValueError):
                parts[here.removeprefix(f"{group}.")] = _checked(config, here, translated(name, given))
    return parts or {"rank": 32}


def _checked(config: type[Settings], name: str, value: object) -> object:
    """The value when the setting takes it. Raises NoValueError otherwise."""
    tree = value
    for part in reversed(name.split(".")):
        tree = {part: tree}
    try:
        config.model_validate(tree)
    except ValidationError as error:  # what else is missing says nothing of this setting
        if any(problem["loc"][0] == name.split(".")[0] for problem in error.errors()):
            raise NoValueError from error
    return value


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


# --- their values in our words ----------------------------------------------------------------------------------------


def translated(name: str, given: Mapping[str, object]) -> object:
    """The value of one of their options as it is written here. Raises NoValueError when it cannot be told."""
    key = name if name in RENAMED else name.rsplit(".", 1)[-1]
    value = given.get(name)
    if value == "" or name not in given:
        raise NoValueError
    if key in _WORDS:
        table = _WORDS[key]
        if not isinstance(value, str | bool) or value not in table:
            raise NoValueError
        return table[value]
    return _MAKERS[key](value, given) if key in _MAKERS else value


_ROWS = ("per_device_train_batch_size", "micro_batch_size", "gradient_accumulation_steps")
_TYPES: dict[str | bool, object] = {"bfloat16": "bf16", "bf16": "bf16", "float32": "fp32", "auto": "auto"}
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
_WORDS: dict[str, dict[str | bool, object]] = {
    "train_on_inputs": {True: "all", False: "assistant"},
    "train_on_prompt": {True: "all", False: "assistant"},
    "mask_history": {True: "completion", False: "assistant"},
    "assistant_only_loss": {True: "assistant", False: "all"},
    "completion_only_loss": {True: "completion", False: "all"},
    "bf16": _PRECISION,
    "fp16": {False: "auto"},
    "bfloat16": _PRECISION,
    "float16": {False: "auto"},
    "float32": {True: "fp32", False: "auto"},
    "pure_bf16": {True: "bf16", False: "auto"},
    **dict.fromkeys(("dtype", "torch_dtype", "param_dtype", "ds.param_dtype"), _TYPES),
    **dict.fromkeys(
        ("sample_packing", "neat_packing", "padding_free", "packing_samples", "ds.packing_samples"), _PACKING
    ),
    **dict.fromkeys(("lr_scheduler_type", "lr_scheduler"), _FALLING),
    **dict.fromkeys(("eval_strategy", "evaluation_strategy", "save_strategy"), _NEVER),
    **dict.fromkeys(("advantage_estimator", "algo.advantage.estimator"), _COMPARED),
    "excess_length_strategy": {"drop": "drop", "truncate": "truncate", "raise": "error"},
    "truncation_mode": {"keep_start": "truncate"},
    "chat_template": {"tokenizer_default": None},
    "lora_target_linear": {True: "all-linear"},
    "use_tensorboard": {True: "tensorboard"},
    "use_mlflow": {True: "mlflow"},
    "use_trackio": {True: "trackio"},
}


def _rows(given: Mapping[str, object]) -> int:
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
    raise NoValueError("lora: {rank: 32}; a quantized base is not in this version")


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
    **dict.fromkeys(("datasets", "dataset", "test_datasets"), _sources),
    **dict.fromkeys(("adapter", "use_peft", "use_lora", "finetuning_type"), _adapter),
    **dict.fromkeys(("lora_target", "lora_target_modules", "target_modules"), _targets),
    "report_to": _tracker,
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
    "precision": lambda value: (
        f"write {_TYPES[value]}"
        if value in _TYPES
        else "half precision is not used for training"
        if value in _HALF
        else ""
    ),
    "schedule": lambda value: f"write {_FALLING[value]}" if value in _FALLING else "",
    "reward": lambda value: f"not in this version: {_ONE_REWARD}" if isinstance(value, list) else "",
    "loss": lambda value: f"not in this version: {_LOSSES}" if value in _ABSENT_LOSSES else "",
    "warmup": lambda value: "it is a share of the steps: 100 of 1000 is 0.1" if _is_number(value) and value > 1 else "",
}
_HALF = ("fp16", "float16", "half", 16)
_ONE_REWARD = "one reward; a function rewards.py:score may add several up"
_LOSSES = "sigmoid is the usual choice"
_ABSENT_LOSSES = ("simpo", "orpo", "kto", "cpo", "apo_zero", "sppo_hard", "bco_pair", "exo_pair", "nca_pair", "sft")


def foreign_value(name: str, value: object) -> str:
    """What to write for a value that another library has under the name of a setting here, or nothing."""
    return _VALUES[name](value) if name in _VALUES and not isinstance(value, dict) else ""


def _lora(value: object) -> str:
    if value is True or value == "lora":
        return "write {rank: 32}"
    if value is False:
        return "write null"
    return f"write {{rank: {value}}}" if isinstance(value, int) else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
