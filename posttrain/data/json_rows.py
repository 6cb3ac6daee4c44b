"""JSON to rows: one row a line, an array of rows, or an object that holds such an array; never a whole file at once."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias, cast

import orjson

from posttrain.data.encoding import not_utf8
from posttrain.data.json_window import Window, broken, nested_too_deeply
from posttrain.data.opening import ROW_LIMIT, beginning, lines, too_long
from posttrain.errors import DataError, Problem
from posttrain.records import JSON

Row: TypeAlias = dict[str, JSON]

CONTAINERS = ("data", "rows", "train", "examples", "records", "items")
_OTHER_PARTS = ("test", "validation", "valid", "dev", "eval")
_HEAD = 1 << 16
_BOM = b"\xef\xbb\xbf"


class Placed(NamedTuple):
    """A row, its file and where in it the row begins; `line` counts from 1, the rows of Parquet count as lines."""

    file: str
    line: int
    row: Row

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


Found: TypeAlias = Placed | Problem
"""A row, or what is wrong in its place."""


def json_rows(file: Path, handle: IO[bytes]) -> Iterator[Found]:
    """The rows of a file of JSON, and its broken lines. Raises DataError where an array or object is broken or cut."""
    head = beginning(file, _HEAD).removeprefix(_BOM).lstrip()
    if head.startswith(b"["):
        return _array(file, handle)
    if head.startswith(b"{") and _is_object(file, head):
        return _object(file, handle)
    return _lines(file, handle)


def _is_object(file: Path, head: bytes) -> bool:
    """Whether the file is one object rather than an object a line."""
    if b"\n" not in head:
        head = beginning(file, ROW_LIMIT).removeprefix(_BOM).lstrip()
    first, _, rest = head.partition(b"\n")
    try:
        value = orjson.loads(first)
    except orjson.JSONDecodeError:
        # A line that breaks off is a broken row where rows stand on lines, and the beginning of an object elsewhere.
        return file.name.lower().removesuffix(".gz").endswith(".json") or _parses(beginning(file, ROW_LIMIT))
    return isinstance(value, dict) and not rest.strip() and any(_holds_rows(value.get(name)) for name in CONTAINERS)


def _holds_rows(value: JSON) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _parses(data: bytes) -> bool:
    try:
        orjson.loads(data.removeprefix(_BOM))
    except orjson.JSONDecodeError:
        return False
    return True


# --- a row a line -----------------------------------------------------------------------------------------------


def _lines(file: Path, handle: IO[bytes]) -> Iterator[Found]:
    name, loads = str(file), orjson.loads
    for number, line in enumerate(lines(handle), start=1):
        if line is None:
            yield too_long(f"{name}:{number}")
            continue
        try:
            value = loads(line)
        except orjson.JSONDecodeError:
            found = _by_hand(file, number, line)
            if found is not None:
                yield found
            continue
        if type(value) is not dict:
            yield _no_object(name, number, value)
        elif nested_too_deeply(value, line.count(b"[") + line.count(b"{")):
            yield _too_deep(f"{name}:{number}")
        else:
            yield Placed(name, number, value)


def _by_hand(file: Path, number: int, line: bytes) -> Found | None:
    """What the fast parser refuses: a blank line (None), a mark before the row, NaN, great numbers, and what is broken.

    The standard library's parser reads the former and says where the latter breaks.
    """
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as reason:
        return not_utf8(file, number, line, reason)
    if not text.strip():
        return None
    try:
        value = cast(JSON, json.loads(text))
    except json.JSONDecodeError as reason:
        return broken(f"{file}:{number}", reason.colno, reason.msg, _mending(text))
    except RecursionError:
        return _too_deep(f"{file}:{number}")
    except ValueError:
        what = "a number has more digits than can be read"
        return Problem(place=f"{file}:{number}", what=what, fix="write it as text, in quotes, or delete the row")
    if not isinstance(value, dict):
        return _no_object(str(file), number, value)
    if nested_too_deeply(value, text.count("[") + text.count("{")):
        return _too_deep(f"{file}:{number}")
    return _half_character(f"{file}:{number}", value) or Placed(str(file), number, value)


def _too_deep(place: str) -> Problem:
    return Problem(place=place, what="the row is nested too deeply", fix="flatten it, or delete it")


def _mending(line: str) -> str:
    if line.lstrip().startswith(("{'", "[{'")):
        return "this is Python's spelling of a row; write rows with json.dumps"
    return "mend the line; every line is one JSON object on its own"


def _no_object(file: str, number: int, value: JSON) -> Problem:
    names: dict[type, str] = {list: "a list", str: "text", type(None): "null", bool: "true or false"}
    named = names.get(type(value), "a number")
    what = f"the row is {named}, expected an object with named columns"
    return Problem(place=f"{file}:{number}", what=what, fix='write rows as {"prompt": …, …}')


def _half_character(place: str, value: JSON) -> Problem | None:
    """The problem of text that cannot be encoded: `\\ud83d` alone, half of a character, left by cutting a text."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as reason:
        what = f"\\u{ord(reason.object[reason.start]):04x} is half of a character (a lone surrogate)"
        return Problem(place=place, what=what, fix="the text was cut within it; take it out")
    return None


# --- an array of rows -------------------------------------------------------------------------------------------


def _array(file: Path, handle: IO[bytes]) -> Iterator[Found]:
    window = Window(file, handle)
    window.take("[")
    yield from _elements(window)
    window.finish()


def _elements(window: Window) -> Iterator[Found]:
    """The rows up to the end of an array, whose beginning is taken."""
    if window.next() == "]":
        window.take("]")
        return
    while True:
        window.next()
        line, value, escaped = window.line, *window.value()
        if not isinstance(value, dict):
            yield _no_object(window.file, line, value)
        else:
            problem = _half_character(f"{window.file}:{line}", value) if escaped else None
            yield problem or Placed(window.file, line, value)
        if window.take(",", "]") == "]":
            return


def _object(file: Path, handle: IO[bytes]) -> Iterator[Found]:
    """The rows in the `{"data": [row, …]}` of a file; an object that holds none is a row itself, as those after it.

    Raises DataError for one that holds rows under two names.
    """
    window = Window(file, handle)
    window.take("{")
    row: Row = {}
    holder = ""
    while window.next() != "}":
        key = str(window.value()[0])
        window.take(":")
        if window.next() == "[" and (key in CONTAINERS or (holder and key in _OTHER_PARTS)):
            other = holder or next((part for part in _OTHER_PARTS if part in row), "")
            if other:
                raise _two_holders(file, other, key)
            holder = key
            window.take("[")
            yield from _elements(window)
        else:
            row[key] = window.value()[0]
        if window.next() != "}":
            window.take(",", "}")
    window.take("}")
    if holder:
        window.finish()
    elif row:
        yield _half_character(f"{window.file}:1", row) or Placed(window.file, 1, row)
        while window.next() == "{":
            line, (value, _) = window.line, window.value()
            yield _half_character(f"{window.file}:{line}", value) or Placed(window.file, line, cast(Row, value))
        window.finish()


def _two_holders(file: Path, first: str, second: str) -> DataError:
    name = shlex.quote(str(file))
    new = shlex.quote(str(file.with_name(f"{first}.jsonl")))
    what = f"rows stand under {first!r} and under {second!r}"
    return DataError([Problem(place=str(file), what=what, fix=f"give one of them: jq -c '.{first}[]' {name} > {new}")])
