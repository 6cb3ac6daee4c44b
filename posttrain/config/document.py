"""YAML 1.2 to plain values with the line of every key, and settings back to YAML that runs again."""

from __future__ import annotations

import datetime
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import CollectionNode, MappingNode, ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from posttrain.config.leaf import ordered
from posttrain.config.rewards import RewardItem
from posttrain.config.shared import DataItem, Settings
from posttrain.errors import ConfigError, Problem

Loc: TypeAlias = "tuple[str | int, ...]"
Tree: TypeAlias = "dict[str, Any]"

_COMMENT_COLUMN = 44
_SHORT = 60
_MOST_VALUES, _MOST_LEVELS = 100_000, 60
_NO_FILE = "settings are a YAML file; a model is given as --model, data as --data"


class _Representer(RoundTripRepresenter):
    """Writes null as `null`, where ruamel leaves the place empty."""


def _null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _null)


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A settings file: its plain values, and the line (from 1) of every key and item."""

    values: Tree = field(default_factory=dict[str, Any])
    lines: Mapping[Loc, int] = field(default_factory=dict[Loc, int])


def read(path: Path) -> Document:
    """The content of a YAML file.

    Raises ConfigError with file and line when the file is missing, is not YAML, repeats a key or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else (error.strerror or str(error)).lower()
        fix = _NO_FILE if isinstance(error, FileNotFoundError) and path.suffix not in (".yaml", ".yml") else ""
        raise ConfigError([Problem(place=str(path), what=f"cannot read the settings: {why}", fix=fix)]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([Problem(place=str(path), what="is not text in UTF-8", fix="save it as UTF-8")]) from error
    try:
        root = _loaded(text)
    except YAMLError as error:
        raise ConfigError([_yaml_problem(path, error)]) from error
    if root is not None and not isinstance(root, CommentedMap):
        what = f"expected settings such as 'model: NAME', got {'a list' if isinstance(root, list) else 'one value'}"
        raise ConfigError([Problem(place=f"{path}:1", what=what)])
    lines: dict[Loc, int] = {}
    return Document(values=_plain(root or {}, lines=lines), lines=lines)


def scalar(text: str) -> object:
    """The plain value of one YAML scalar or flow collection; the text itself when it is not YAML."""
    try:
        return _plain(_loaded(text))
    except YAMLError:
        return text


def _loaded(text: str) -> Any:
    """What the library makes of a text. Raises YAMLError for what it cannot read, and for what would fill the memory.

    Its parser calls itself for each level, and what a tag or a spelling promises and does not hold ends in errors of
    Python's own: `!!float x`, a number of 5,000 digits, the 45th of a month.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a name that a second anchor takes
            root = YAML().load(text)
    except YAMLError:
        raise
    except RecursionError as error:
        raise YAMLError("it is nested too deeply") from error
    except Exception as error:
        raise _unreadable(text, error) from error
    _refuse_bombs(root)
    return root


def _unreadable(text: str, error: Exception) -> YAMLError:
    """The error of the library with the line of the value that it cannot read."""
    yaml = YAML(typ="safe", pure=True)
    for node in _scalars(yaml.compose(text)):
        try:
            yaml.constructor.construct_object(node)
        except YAMLError:
            continue  # a tag of its own, which the reader above keeps as it is
        except Exception as reason:
            kind, why = str(node.tag).rpartition(":")[2], str(reason).partition(";")[0]
            what = f"{node.value!r:.40} cannot be read as {kind}: {why}"
            return MarkedYAMLError(problem=what, problem_mark=node.start_mark)
    return YAMLError(f"a value cannot be read: {error}")


def _scalars(root: Any) -> Iterator[Any]:
    """The values of a document as the library composed them, each once, in order."""
    waiting, seen = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, ScalarNode):
            yield node
        elif isinstance(node, CollectionNode):
            parts = [part for pair in node.value for part in pair] if isinstance(node, MappingNode) else node.value
            waiting += reversed(parts)


def _refuse_bombs(root: Any) -> None:
    """Raises YAMLError for aliases of aliases that come to more values, or to more levels, than anyone writes."""
    waiting: list[tuple[Any, int]] = [(root, 0)]
    count = 0
    while waiting:
        node, depth = waiting.pop()
        parts = [*node.values()] if isinstance(node, Mapping) else node if isinstance(node, list) else ()
        count += len(parts)
        if count > _MOST_VALUES or depth > _MOST_LEVELS:
            what = f"{_MOST_LEVELS} levels" if depth > _MOST_LEVELS else f"{_MOST_VALUES:,} values"
            raise YAMLError(f"with its aliases written out it has more than {what}")
        waiting += [(part, depth + 1) for part in parts]


def dump(config: Settings) -> str:
    """YAML of every setting, defaults included, each with its unit or meaning; loading it gives `config` again."""
    return annotated(config, remark=lambda info: info.description or "")


def annotated(config: Settings, *, remark: Callable[[FieldInfo], str]) -> str:
    """YAML of every setting, with what `remark` says of it beside it."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.width = 10_000
    stream = io.StringIO()
    yaml.dump(_commented(config, remark), stream)
    return stream.getvalue()


def _plain(node: Any, *, lines: dict[Loc, int] | None = None, loc: Loc = ()) -> Any:
    """ruamel's node as plain dicts, lists and scalars; fills `lines`."""
    if isinstance(node, CommentedMap | CommentedSeq):
        for key, place in (node.lc.data or {}).items():
            if lines is not None:
                lines[(*loc, key if isinstance(node, CommentedSeq) else str(key))] = place[0] + 1
    if isinstance(node, Mapping):
        return {str(key): _plain(item, lines=lines, loc=(*loc, key)) for key, item in node.items()}
    if isinstance(node, list):
        return [_plain(item, lines=lines, loc=(*loc, index)) for index, item in enumerate(node)]
    if isinstance(node, datetime.date):
        return node.isoformat()
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _yaml_problem(path: Path, error: YAMLError) -> Problem:
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    place = f"{path}:{mark.line + 1}" if mark else str(path)
    what = (error.problem if isinstance(error, MarkedYAMLError) else None) or str(error)
    if isinstance(error, DuplicateKeyError):
        key = what.split('"')[1] if '"' in what else what
        return Problem(place=place, what=f"the key '{key}' stands here a second time", fix="keep one of the two")
    fix = "indent with spaces" if "'\\t'" in what else ""
    return Problem(place=place, what=f"is not YAML: {what.strip()}", fix=fix)


def _commented(config: Settings, remark: Callable[[FieldInfo], str]) -> CommentedMap:
    """The settings as ruamel's mapping, every plain value with its remark beside it."""
    mapping = CommentedMap()
    for name, info in ordered(type(config)).items():
        setting = getattr(config, name)
        if isinstance(setting, Settings):
            mapping[name] = _commented(setting, remark)
            continue
        mapping[name] = _writable(setting)
        said = remark(info)
        if said and not (isinstance(mapping[name], CommentedSeq) and not mapping[name].fa.flow_style()):
            mapping.yaml_add_eol_comment(said, name, column=_COMMENT_COLUMN)
    return mapping


def _writable(setting: object) -> object:
    if isinstance(setting, DataItem | RewardItem):
        given = setting.model_dump(mode="json", exclude_defaults=True)
        alone = next(iter(given.values())) if set(given) in ({"path"}, {"reward"}) else None
        return alone if alone is not None else _flow(CommentedMap(given))
    if isinstance(setting, tuple):
        items = [_writable(item) for item in setting]  # pyright: ignore[reportUnknownVariableType]
        if len(items) == 1 and isinstance(setting[0], DataItem | RewardItem) and isinstance(items[0], str):
            return items[0]
        # Some short words fit on the line of their setting, and leave room for what is said of it.
        short = all(isinstance(item, str) for item in items) and sum(map(len, map(str, items))) <= _SHORT
        return _flow(CommentedSeq(items)) if short else CommentedSeq(items)
    return setting


def _flow(node: CommentedMap | CommentedSeq) -> CommentedMap | CommentedSeq:
    node.fa.set_flow_style()
    return node
