"""A settings file to begin with: every setting with its default and meaning, the required ones marked."""

from __future__ import annotations

from pydantic.fields import FieldInfo

from posttrain.config.document import annotated
from posttrain.config.leaf import expected, group_of
from posttrain.config.load import make_config
from posttrain.config.shared import Settings

# What stands where a value is required. All of them are to be replaced.
_PLACES = {
    "model": "HuggingFaceTB/SmolLM2-135M",
    "data": "train.jsonl",
    "prompts": "prompts.jsonl",
    "reward": "runs/reward",
}
_TRAINED = {
    "ppo": "runs/sft",
    "dpo": "runs/sft",
    "online-dpo": "runs/sft",
    "sample": "runs/sft",
    "eval": "runs/sft",
    "check": "runs/sft",
}
# What needs no saying beside a value that shows it.
_PLAIN = ("1", "text", "text or null", "true or false", "a list of texts", "a share such as 10%")
_DATA = {"reward": "feedback.db", "dpo": "feedback.db", "eval": "held_out.jsonl", "classify": "labelled.jsonl"}


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
        parts = ", ".join(f"{name}: {part.default}" for name, part in group.model_fields.items())
        return f"{about} (for example {{{parts}}})"
    says = expected(info)
    return about if says in _PLAIN else f"{about} ({says})"
