"""What was probably meant: the nearest name, another library's name, or the value in its right form."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import cast

from posttrain.config.by_command import CONFIGS
from posttrain.config.document import scalar
from posttrain.config.foreign import foreign
from posttrain.config.foreign_values import foreign_value, shown
from posttrain.config.leaf import group_of, item_of, leaves
from posttrain.config.shared import Settings
from posttrain.config.stages import Stage


def hint(config: type[Settings], name: str, *, form: str, given: Mapping[str, object]) -> str:
    """`; did you mean 'max_length'?`, or whose name it is, or which command has it, or nothing.

    `given` is all that was given beside it, by name; `form` is how a name is written: `'{}'` in a file, `--{}`.
    """
    within = _of_stage(config, name, form, given)
    if within is not None:
        return within
    told = foreign(config, name, given, form=form)
    if told:
        return told
    if name in config.model_fields:
        parts = (form.format(leaf.name) for leaf in leaves(config) if leaf.name.startswith(f"{name}."))
        return f"; its parts are set one by one: {', '.join(parts)}"
    group, _, part = name.partition(".")
    if name in given and name in {leaf.name for leaf in leaves(config)}:
        return f"; write {group}: {{{part}: {shown(given[name])}}}"
    near = nearest(name.replace("-", "_"), _names(config))
    if near:
        return f"; did you mean {form.format(near)}?"
    owners = [command for command, other in CONFIGS.items() if name in {leaf.name for leaf in leaves(other)}]
    return f"; that is a setting of {', '.join(owners)}" if owners else ""


def _of_stage(config: type[Settings], name: str, form: str, given: Mapping[str, object]) -> str | None:
    """What the command itself says of a name in its stage `ppo: {…}`; None where the name stands in no stage."""
    group, _, part = name.partition(".")
    stage = group_of(config.model_fields[group]) if part and group in config.model_fields else None
    if stage is None or not issubclass(stage, Stage):
        return None
    if part in stage.filled:
        return f"; {config.command} fills it in"
    inner = given.get(group)
    beside = cast("Mapping[str, object]", inner) if isinstance(inner, Mapping) else {}
    return hint(stage.whole, part, form=form.format(f"{group}.{{}}"), given=beside)


def _names(config: type[Settings]) -> list[str]:
    """Every setting, groups and their parts, and the parts of a source of rows."""
    lists = {name: item_of(field) for name, field in config.model_fields.items()}
    items = [f"{name}.{part}" for name, item in lists.items() if item for part in item.model_fields]
    return list(dict.fromkeys([*(leaf.name for leaf in leaves(config)), *config.model_fields, *items]))


def nearest(name: str, names: Sequence[str]) -> str:
    """The known name most like `name`: by the whole dotted name, then by its last part."""
    whole = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    if whole:
        return whole[0]
    by_last = {known.rsplit(".", 1)[-1]: known for known in reversed(names)}
    close = difflib.get_close_matches(name.rsplit(".", 1)[-1], list(by_last), n=1, cutoff=0.75)
    return by_last[close[0]] if close else ""


def value_hint(name: str, expects: str, value: object) -> str:
    """`; write 10%`: the value as it was meant, where its form tells; otherwise nothing."""
    told = foreign_value(name, value)
    if told:
        return f"; {told}"
    if isinstance(value, str):
        return _text_hint(expects, value.strip())
    if isinstance(value, bool):
        return ""
    if isinstance(value, float) and "a share" in expects and 0 < value < 1:
        return f"; write {value * 100:g}%"
    if isinstance(value, float) and "whole number" in expects and value.is_integer():
        return f"; write {value:.0f}"
    if isinstance(value, int | float) and expects in ("text", "text or null"):
        return f"; write it in quotes: '{value}'"
    if value is None and expects.endswith(" or auto"):
        return "; write auto, or leave it out"
    if value is None and expects == "a list of texts":
        return "; write []"
    return "; this posttrain reads version 1" if name == "version" else ""


def _text_hint(expects: str, value: str) -> str:
    """What a text was meant to be where something else is expected."""
    words = {"yes": "true", "on": "true", "no": "false", "off": "false", "true": "true", "false": "false"}
    if "true or false" in expects and value.lower() in words:
        return f"; write {words[value.lower()]}"
    if value.lower() in ("none", "nil", "~") and "null" in expects:
        return "; write null"
    choices = [word for word in expects.replace(" or ", "|").split("|") if " " not in word]
    if value.lower() in choices:
        return f"; write {value.lower()}"
    if "whole number" in expects and re.fullmatch(r"\d+[kK]", value):
        return f"; write {value[:-1]}000"
    if "number" in expects:
        plain = scalar(value.rstrip("% "))
        if isinstance(plain, int | float) and not isinstance(plain, bool):
            return _number_hint(expects, value, plain)
    if "a share" in expects and value.endswith("%"):
        return "; at most 100%"
    near = difflib.get_close_matches(value.lower(), choices, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _number_hint(expects: str, value: str, plain: float) -> str:
    if value.endswith("%"):
        return f"; write {plain / 100:g}" if "at most 1" in expects and plain <= 100 else ""
    return f"; write it without quotes: {value}"
