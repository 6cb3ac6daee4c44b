"""A settings file to begin with: every setting with its default and meaning, the required ones marked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from posttrain.config.by_command import CONFIGS
from posttrain.config.document import annotated
from posttrain.config.flags import did_you_mean
from posttrain.config.leaf import expected, group_of
from posttrain.config.load import make_config
from posttrain.config.schema import json_schema
from posttrain.config.shared import Settings
from posttrain.errors import ConfigError, Problem

PRESETS = Path(__file__).parent / "presets"

# What stands where a value is required. All of them are to be replaced.
_PLACES = {
    "model": "HuggingFaceTB/SmolLM2-135M",
    "data": "train.jsonl",
    "prompts": "prompts.jsonl",
    "reward": "runs/reward",
    "score": "rewards.py:gold",
}
_TRAINED = {
    "ppo": "runs/sft",
    "dpo": "runs/sft",
    "online-dpo": "runs/sft",
    "rlhf": "runs/sft",
    "sample": "runs/sft",
    "chat": "runs/dpo",
    "eval": "runs/sft",
    "check": "runs/sft",
}
# What needs no saying beside a value that shows it.
_PLAIN = ("1", "text", "text or null", "true or false", "a list of texts", "a share such as 10%")
_DATA = {"reward": "feedback.db", "dpo": "feedback.db", "eval": "held_out.jsonl", "classify": "labelled.jsonl"}


def printed(command: str, *, schema: bool, preset: str) -> str:
    """What `posttrain init` prints: the JSON schema of a command, a preset, or every setting at its default.

    Raises ConfigError for a command or a preset that there is not.
    """
    if command not in CONFIGS:
        hint = did_you_mean(command, list(CONFIGS)) or f"; there are {', '.join(CONFIGS)}"
        raise ConfigError(f"no settings are named '{command}'{hint}")
    if preset:
        return preset_yaml(command, preset)
    config = CONFIGS[command]
    return json.dumps(json_schema(config), indent=2) + "\n" if schema else starter_yaml(config)


def presets(command: str) -> list[str]:
    """The names of the published recipes that `init --preset` prints for a command."""
    return sorted(file.stem for file in PRESETS.glob("*.yaml")) if command == "ppo" else []


def preset_yaml(command: str, name: str) -> str:
    """A published recipe as a settings file, each value with its source. Raises ConfigError when there is none."""
    names = presets(command)
    if name not in names:
        there = did_you_mean(name, names) or (f"; there are {', '.join(names)}" if names else "")
        raise ConfigError([Problem(place="--preset", what=f"{command} has no preset '{name}'{there}")])
    return (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")


def starter_yaml(config: type[Settings]) -> str:
    """YAML of every setting of a command with its default; it loads once the files that it names exist."""
    required = {name for name, info in config.model_fields.items() if info.is_required()}
    settings = make_config(config, {name: _place(config.command, name) for name in sorted(required)})
    return _head(config) + annotated(settings, remark=_remark)


def _place(command: str, name: str) -> str:
    """A value of the right form for a required setting."""
    if name == "out":
        return f"runs/{command}"
    if name == "model" and command in _TRAINED:
        return _TRAINED[command]
    return _DATA.get(command, _PLACES[name]) if name == "data" else _PLACES[name]


def _head(config: type[Settings]) -> str:
    command = config.command
    about = (config.__doc__ or "").splitlines()[0]
    return (
        f"# Settings of `posttrain {command}`: {about[0].lower()}{about[1:]}\n"
        f"# Run it with:    posttrain {command} {command}.yaml    (flags of the same names win over this file)\n"
        "# Set what is marked REQUIRED. All else stands at its default: change it, or delete the line.\n"
        f"# To have an editor check this file: posttrain init {command} --schema > {command}.schema.json,\n"
        f"# and make the first line read      # yaml-language-server: $schema={command}.schema.json\n\n"
    )


def _remark(info: FieldInfo) -> str:
    """The comment beside a setting: what it is, and what else it may be where that is not plain."""
    about = info.description or ""
    if info.is_required():
        return f"REQUIRED: {about}"
    group = group_of(info)
    if group is not None:
        defaults = {name: part.get_default(call_default_factory=True) for name, part in group.model_fields.items()}
        shown = {name: value for name, value in defaults.items() if not isinstance(value, Settings)}
        parts = ", ".join(f"{name}: {_example(name, value)}" for name, value in shown.items())
        return f"{about} (for example {{{parts}}})"
    says = expected(info)
    return about if says in _PLAIN else f"{about} ({says})"


def _example(name: str, value: object) -> object:
    """What stands in an example for a part of a group: its default, or a file where one is required."""
    if value is PydanticUndefined:
        return _PLACES[name]
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, cast('tuple[object, ...]', value)))}]"
    return "null" if value is None else value
