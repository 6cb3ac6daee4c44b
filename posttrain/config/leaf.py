"""The settings of a class as flat, dotted names, and in words what each of them accepts."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from posttrain.config.rewards import RewardItem
from posttrain.config.shared import DataItem, Percent, Settings

ITEMS: Mapping[type[Settings], str] = {
    DataItem: "a path or {path, weight, columns}",
    RewardItem: "a reward or {reward, weight}",
}
"""The classes of what stands in lists, and what an item may be."""
_LEADING = ("version", "model", "against", "reward", "prompts", "data", "eval_data", "out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One setting: its dotted name, its pydantic field, and whether it heads a group that may be null."""

    name: str
    field: FieldInfo
    group: bool = False

    @property
    def expects(self) -> str:
        """What the setting accepts, in words: "a number above 0, or auto"."""
        return expected(self.field)

    @property
    def default(self) -> object:
        return self.field.get_default(call_default_factory=True)

    @property
    def help(self) -> str:
        """One line for the command line: what it is, and what it is when left out."""
        text = (self.field.description or "") + ("; may be given several times" if self.takes_many else "")
        if self.field.is_required() or self.group:
            return text
        return f"{text} [{_shown(self.default)}]"

    @property
    def metavar(self) -> str:
        """What stands for the value in the help: `NUMBER|auto`, `assistant|completion|all`."""
        words = [word for member in _members(_annotation(self.field)) for word in _placeholders(member)]
        return "|".join(dict.fromkeys(words))

    @property
    def takes_text(self) -> bool:
        """True where a flag's value is text as it stands, never a number or a truth value."""
        parts = set(_plain_types(self.field.annotation))
        return str in parts and not parts & {int, float, bool}

    @property
    def takes_many(self) -> bool:
        """True where a flag may be given several times."""
        return tuple in {get_origin(part) for part in _members(self.field.annotation)}


def leaves(config: type[Settings], prefix: str = "") -> Iterator[Leaf]:
    """Every setting of `config`, groups opened into `group.name`; what goes in and out first, then the method's own.

    A group that may be null appears as a leaf of its own too, before its parts.
    """
    for name, field in ordered(config).items():
        group = group_of(field)
        if group is None:
            yield Leaf(name=prefix + name, field=field)
            continue
        if None in get_args(field.annotation) or type(None) in get_args(field.annotation):
            yield Leaf(name=prefix + name, field=field, group=True)
        yield from leaves(group, f"{prefix}{name}.")


def own_names(config: type[Settings]) -> list[str]:
    """The settings that are the command's own, or its family's; `loss` comes first where there is one."""
    classes = [config, *(base for base in config.__mro__ if vars(base).get("family"))]
    own = [name for name in config.model_fields if any(name in each.__annotations__ for each in classes)]
    return sorted(own, key=lambda name: name != "loss")


def ordered(config: type[Settings]) -> dict[str, FieldInfo]:
    """The fields of `config` as people read them: what goes in and out, the method's own, what all methods share."""
    fields = config.model_fields
    own = own_names(config)
    leading = [name for name in _LEADING if name in fields and group_of(fields[name]) is None]
    order = dict.fromkeys([*leading, *own, *fields])
    return {name: fields[name] for name in order}


def group_of(field: FieldInfo) -> type[Settings] | None:
    """The class of a nested group of settings, or None when the field is a plain value."""
    for part in _members(field.annotation):
        if isinstance(part, type) and issubclass(part, Settings) and part not in ITEMS:
            return part
    return None


def item_of(field: FieldInfo) -> type[Settings] | None:
    """The class of the items of a list of groups, or None when the field is no such list."""
    for part in _members(field.annotation):
        inner = get_args(part)[0] if get_origin(part) is Annotated else part
        item = get_args(inner)[0] if get_origin(inner) is tuple else None
        if item in ITEMS:
            return cast("type[Settings]", item)
    return None


def expected(field: FieldInfo) -> str:
    """What a field accepts, in words."""
    if group_of(field) is not None:
        inner = ", ".join(group_of(field).model_fields)  # pyright: ignore[reportOptionalMemberAccess]
        return f"a group {{{inner}}}" + (" or null" if type(None) in get_args(field.annotation) else "")
    members = list(_members(_annotation(field)))
    words = [word for member in members for word in _words(member, field.metadata if len(members) == 1 else ())]
    return " or ".join(dict.fromkeys(words))


def _annotation(field: FieldInfo) -> Any:
    """The annotation of a field; a share alone is told by its pattern, which pydantic sets apart."""
    return Percent if any(hasattr(item, "pattern") for item in field.metadata) else field.annotation


def _members(annotation: Any) -> Iterator[Any]:
    """The members of a union, aliases and nested unions opened; the annotation itself when it is none."""
    if get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _members(part)
    elif get_origin(annotation) is Annotated and get_origin(get_args(annotation)[0]) is tuple:
        yield get_args(annotation)[0]
    else:
        yield annotation


def _plain_types(annotation: Any) -> Iterator[Any]:
    for part in _members(annotation):
        inner = get_args(part)[0] if get_origin(part) is Annotated else part
        yield from (str,) if get_origin(inner) is tuple else (inner,)


def _placeholders(annotation: Any) -> Iterator[str]:
    inner = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if annotation == Percent:
        yield "N%"
    elif get_origin(inner) is Literal:
        yield from (str(value) for value in get_args(inner))
    elif get_origin(inner) is tuple:
        first = get_args(inner)[0]
        yield from (str(value) for value in get_args(first)) if get_origin(first) is Literal else ("TEXT",)
    else:
        names = {int: "N", float: "NUMBER", str: "TEXT", bool: "true|false", type(None): "null"}
        yield names.get(inner, "{...}")


def _words(annotation: Any, metadata: Sequence[object]) -> Iterator[str]:
    """The phrases for one member of a union."""
    if annotation == Percent:
        yield "a share such as 10%"
        return
    if get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
    if get_origin(annotation) is Literal:
        yield from (str(value) for value in get_args(annotation))
    elif get_origin(annotation) is tuple:
        yield _words_of_list(get_args(annotation)[0])
    elif annotation in (int, float):
        yield ("a whole number" if annotation is int else "a number") + _bounds(metadata)
    else:
        yield {str: "text", bool: "true or false", type(None): "null"}.get(annotation, _mapping(annotation))


def _mapping(annotation: Any) -> str:
    """`a mapping of texts to whole numbers of at least 1`."""
    values = [kind for part in get_args(annotation) for kind in (part, *get_args(part))]
    kind = "whole numbers" if int in values else "numbers" if float in values else "texts"
    bounds = [_bounds(get_args(part)[1:]) for part in get_args(annotation)[-1:]]
    return f"a mapping of texts to {kind}{''.join(bounds)}"


def _words_of_list(item: Any) -> str:
    if item in ITEMS:
        return ITEMS[item].replace(" or {", " or a list of {")
    return f"a list of {', '.join(get_args(item))}" if get_origin(item) is Literal else "a list of texts"


def _bounds(metadata: Sequence[object]) -> str:
    parts: list[str] = []
    for constraint in (inner for item in metadata for inner in getattr(item, "metadata", (item,))):
        if isinstance(constraint, annotated_types.Gt):
            parts.append(f"above {constraint.gt}")
        if isinstance(constraint, annotated_types.Ge):
            parts.append(f"of at least {constraint.ge}")
        if isinstance(constraint, annotated_types.Lt):
            parts.append(f"below {constraint.lt}")
        if isinstance(constraint, annotated_types.Le):
            parts.append(f"at most {constraint.le}")
    return " " + " and ".join(parts) if parts else ""


def _shown(value: object) -> str:
    """A default as it would be typed."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | Mapping) and not value:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, cast("tuple[object, ...]", value)))
    return f"{value:g}" if isinstance(value, float) else str(value)
