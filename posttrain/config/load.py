"""Settings from a YAML file, flags or keywords: strict, and with every problem at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from posttrain.config.document import Document, Loc, Tree, read, scalar
from posttrain.config.foreign import foreign, translation
from posttrain.config.foreign_values import shown as spelled
from posttrain.config.hints import hint, value_hint
from posttrain.config.leaf import ITEMS, Leaf, expected, group_of, item_of, leaves
from posttrain.config.places import check_settings_file
from posttrain.config.shared import Clash, Settings
from posttrain.errors import ConfigError, Problem

ConfigT = TypeVar("ConfigT", bound=Settings)
Overrides: TypeAlias = "Mapping[str, str | Sequence[str]]"

# How long to train is said in one of two ways; a flag for one replaces the file's other.
_INSTEAD = {"steps": "epochs", "epochs": "steps"}
_LARGEST = 2**63
# From this many on, what other libraries' names say is shown once more as a settings file.
_WORTH_COPYING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """What was given, and where each value stands: a line of `file`, a flag, or a keyword."""

    values: Tree
    file: Path | None = None
    lines: Mapping[Loc, int] = field(default_factory=dict[Loc, int])
    flags: frozenset[str] = frozenset()
    keywords: bool = False

    def line(self, loc: Loc) -> int:
        """The line of `loc`, or of the nearest thing around it; 0 when it stands nowhere."""
        return next((self.lines[loc[:end]] for end in range(len(loc), 0, -1) if loc[:end] in self.lines), 0)

    def flag(self, loc: Loc) -> str:
        """The flag that set `loc`, or the empty string."""
        names = (_dotted(loc[:end]) for end in range(len(loc), 0, -1))
        return next((f"--{name}" for name in names if name in self.flags), "")

    def place(self, loc: Loc) -> str:
        """`sft.yaml:4`, or `--learning_rate`, or nothing for a keyword."""
        if self.flag(loc) or self.keywords:
            return self.flag(loc)
        if self.file is None:
            return f"--{_dotted(loc)}"
        line = self.line(loc)
        return f"{self.file}:{line}" if line else str(self.file)


def load_config(config: type[ConfigT], path: Path | str | None, overrides: Overrides) -> ConfigT:
    """Settings from a YAML file and flags; a flag (dotted name, text as typed) wins over the file.

    Raises ConfigError with all problems: unknown keys with the nearest name, wrong types in plain words, clashes.
    """
    file = Path(path) if path is not None else None
    if file is not None:
        check_settings_file(config.command, file)
    document = read(file) if file is not None else Document()
    known = {leaf.name: leaf for leaf in leaves(config)}
    values = document.values
    for name, other in _INSTEAD.items():
        if name in overrides and other not in overrides:
            values.pop(other, None)
    for name, text in sorted(overrides.items()):
        if name in known:
            _place_value(values, name.split("."), _flag_value(known[name], text))
    given = _Given(values=values, file=file, lines=document.lines, flags=frozenset(overrides))
    return _checked(config, given, _unknown_flags(config, {n: t for n, t in overrides.items() if n not in known}))


def make_config(config: type[ConfigT], keywords: Mapping[str, object]) -> ConfigT:
    """Settings from Python keywords. Raises ConfigError with all problems."""
    return _checked(config, _Given(values=dict(keywords), keywords=True), [])


def _unknown_flags(config: type[Settings], flags: Overrides) -> list[Problem]:
    given = {name: scalar(text) if isinstance(text, str) else text for name, text in flags.items()}
    said = ((name, hint(config, name, form="--{}", given=given)) for name in flags)
    return [Problem(place=f"--{name}", what=f"unknown flag{told}") for name, told in said]


# --- putting flags into the tree ----------------------------------------------------------------------------------


def _flag_value(leaf: Leaf, text: str | Sequence[str]) -> object:
    """The value of a flag: text where the setting takes text, otherwise what YAML makes of it."""
    if not isinstance(text, str):
        return [_flag_value(leaf, item) for item in text] if len(text) != 1 else _flag_value(leaf, text[0])
    as_it_stands = leaf.takes_text and text not in ("null", "") and not text.startswith(("[", "{"))
    return text if as_it_stands else scalar(text)


def _place_value(tree: Tree, parts: Sequence[str], value: object) -> None:
    """Set `tree[a][b] = value` for parts (a, b); whatever stood at `a` and is not a group is replaced by one."""
    for part in parts[:-1]:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    tree[parts[-1]] = value


# --- from pydantic's errors to ours -------------------------------------------------------------------------------


def _checked(config: type[ConfigT], given: _Given, problems: list[Problem]) -> ConfigT:
    unusable = [
        Problem(place=given.place(loc), what=f"{ascii(_dotted(loc))[1:-1]}: {why}")
        for loc, why in _unusable(given.values)
    ]
    if unusable:
        raise ConfigError(unusable)
    try:
        made = config.model_validate(given.values)
    except ValidationError as error:
        raise ConfigError(list(_problems(config, given, error.errors())) + problems) from None
    if problems:
        raise ConfigError(problems)
    return made


def _unusable(values: object) -> Iterator[tuple[Loc, str]]:
    """Where stands what no setting takes, and why: numbers with which nothing can be computed, and half characters."""
    waiting: list[tuple[object, Loc]] = [(values, ())]
    while waiting:
        value, loc = waiting.pop()
        if isinstance(value, int) and abs(value) >= _LARGEST:
            yield loc, "a whole number this large is more than any setting takes"
        elif isinstance(value, str) and _is_cut(value):
            yield loc, f"{value!a:.60} holds half of a character"
        elif isinstance(value, Mapping):
            inner = cast("Mapping[str, object]", value)
            yield from (((*loc, name), "its name holds half of a character") for name in inner if _is_cut(name))
            waiting += [(part, (*loc, name)) for name, part in inner.items()]
        elif isinstance(value, list | tuple):
            waiting += [(part, (*loc, place)) for place, part in enumerate(cast("Sequence[object]", value))]


def _is_cut(text: str) -> bool:
    """Whether a text can stand in no file; the bytes of a file's name in another encoding are no such text."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return True
    return False


def _problems(config: type[Settings], given: _Given, errors: Sequence[ErrorDetails]) -> Iterator[Problem]:
    """One problem for each setting that is wrong, in the order of the file; a union's several errors become one.

    A required setting that another library's name gives is not missing: what to write is said at that name.
    """
    told = translation(config, given.values)
    found: dict[Loc, Problem] = {}
    for error in errors:
        loc, info = _written(config, error["loc"])
        clash = error.get("ctx", {}).get("error")
        if isinstance(clash, Clash):
            loc = (*loc, clash.setting)
        if error["type"] == "missing" and loc[-1] in told and len(loc) == 1:
            continue
        found.setdefault(loc, Problem(place=given.place(loc), what=_what(config, given, error, loc, info)))
        if error["type"] == "extra_forbidden":
            inside = dict(_inside(config, given, loc))
            if inside:
                what = f"unknown key '{_dotted(loc)}'; what stands in it is set at the top here"
                found[loc] = Problem(place=given.place(loc), what=what)
            found |= inside
    yield from (found[loc] for loc in sorted(found, key=lambda loc: (given.flag(loc), given.line(loc))))
    names = sum(name not in config.model_fields for name in given.values)
    if names >= _WORTH_COPYING and len(told) >= _WORTH_COPYING and given.file is not None:
        lines = "".join(f"\n  {name}: {spelled(value)}" for name, value in told.items())
        yield Problem(place=str(given.file), what=f"as settings of {config.command}, as far as it can be told:{lines}")


def _inside(config: type[Settings], given: _Given, loc: Loc) -> Iterator[tuple[Loc, Problem]]:
    """A problem for each known name inside an unknown group, such as axolotl's `trl: {num_generations: 8}`."""
    group = _value_at(given.values, loc)
    if not isinstance(group, Mapping) or len(loc) != 1 or foreign(config, _dotted(loc), given.values, form=""):
        return
    inner = cast("Mapping[str, object]", group)
    for name in inner:
        here = "; here it stands at the top" if name in config.model_fields else ""
        said = here or foreign(config, name, {**given.values, **inner}, form="{}")
        if said:
            place = (*loc, name)
            yield place, Problem(place=given.place(place), what=f"unknown key '{_dotted(place)}'{said}")


def _what(config: type[Settings], given: _Given, error: ErrorDetails, loc: Loc, info: FieldInfo | None) -> str:
    name = _dotted(loc)
    if error["type"] == "extra_forbidden":
        word, form = ("keyword", "{}") if given.keywords else ("key", "'{}'")
        return f"unknown {word} '{name}'{hint(config, name, form=form, given=given.values)}"
    if error["type"] == "missing":
        subject = "is" if given.place(loc).startswith("--") else f"{name} is"
        return f"{subject} missing: {info.description if info else ''}"
    shown = "" if given.place(loc).startswith("--") else f"{name}: "
    if error["type"] == "value_error":
        return shown + str(error.get("ctx", {}).get("error"))
    says = expected(info) if info and not isinstance(loc[-1], int) else _item(info)
    value = _value_at(given.values, loc)
    got = spelled(value) if says.startswith("a mapping") and isinstance(value, Mapping) else _got(value)
    return f"{shown}expected {says}, got {got}{value_hint(name, says, value)}"


def _item(info: FieldInfo | None) -> str:
    """What an item of a list is expected to be: one of the names that the list takes, or what it is of."""
    item = item_of(info) if info else None
    if item is not None:
        return ITEMS[item]
    names = expected(info).removeprefix("a list of ") if info else "texts"
    return " or ".join(names.split(", ")) if ", " in names else "text"


def _written(config: type[Settings], loc: Loc) -> tuple[Loc, FieldInfo | None]:
    """The part of pydantic's `loc` that the user wrote, and the field there.

    Pydantic puts names of union members and of classes into a location; they are left out.
    """
    walked: list[str | int] = []
    inside: type[Settings] | None = config
    info: FieldInfo | None = None
    for part in loc:
        if isinstance(part, int):
            walked.append(part)
        elif inside is not None and part in inside.model_fields:
            walked.append(part)
            info = inside.model_fields[part]
            inside = item_of(info) or group_of(info)
        elif inside is not None and part != inside.__name__:
            walked.append(part)
            inside = None
    return tuple(walked), info


def _value_at(values: Any, loc: Loc) -> object:
    """What was given at `loc`; a list index into something that is no list stays where it is."""
    for part in loc:
        if isinstance(values, Mapping) and part in values:
            values = values[part]
        elif isinstance(values, list | tuple) and isinstance(part, int) and part < len(values):
            values = cast("Any", values)[part]
    return values


def _got(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a group of settings"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    return repr(value) if isinstance(value, str | int | float) else "a value with a tag"


def _dotted(loc: Loc) -> str:
    return ".".join(part for part in loc if isinstance(part, str))
