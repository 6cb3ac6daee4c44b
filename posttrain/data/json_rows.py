"""JSON to rows: one row a line, an array of rows, or an object that holds such an array; never a whole file at once."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, TypeAlias, cast

import orjson

from posttrain.data.encoding import converting, likely, not_utf8
from posttrain.data.opening import ROW_LIMIT, beginning, lines, too_long
from posttrain.errors import DataError, Problem
from posttrain.types import JSON

Row: TypeAlias = dict[str, JSON]

CONTAINERS = ("data", "rows", "train", "examples", "records", "items")
_HEAD = 1 << 16
_CHUNK = 1 << 18
_SPACE = " \t\r\n"
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
        yield Placed(name, number, value) if type(value) is dict else _no_object(name, number, value)


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
        return _broken(f"{file}:{number}", reason.colno, reason.msg, _mending(text))
    except RecursionError:
        return Problem(place=f"{file}:{number}", what="the row is nested too deeply", fix="flatten it, or delete it")
    if not isinstance(value, dict):
        return _no_object(str(file), number, value)
    return _half_character(f"{file}:{number}", value) or Placed(str(file), number, value)


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


def _broken(place: str, column: int, message: str, fix: str) -> Problem:
    said = message[:1].lower() + message[1:]
    return Problem(place=place, what=f"broken JSON in column {column}: {said}", fix=fix)


# --- an array of rows -------------------------------------------------------------------------------------------


def _array(file: Path, handle: IO[bytes]) -> Iterator[Found]:
    window = _Window(file, handle)
    window.take("[")
    yield from _elements(window)
    window.finish()


def _elements(window: _Window) -> Iterator[Found]:
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
    """The rows in the `{"data": [row, …]}` of a file; an object that holds none is a row itself, as those after it."""
    window = _Window(file, handle)
    window.take("{")
    row: Row = {}
    while window.next() != "}":
        key = str(window.value()[0])
        window.take(":")
        if key in CONTAINERS and window.next() == "[":
            window.take("[")
            yield from _elements(window)
            row = {}
            break
        row[key] = window.value()[0]
        if window.next() == ",":
            window.take(",")
    if row:
        window.take("}")
        yield Placed(window.file, 1, row)
        while window.next() == "{":
            line, (value, _) = window.line, window.value()
            yield Placed(window.file, line, cast(Row, value))
        window.finish()


class _Window:
    """A piece of a file of JSON, moved along it: `place` is the next character, `line` and `column` say where it is."""

    def __init__(self, file: Path, handle: IO[bytes]) -> None:
        self.file = str(file)
        self.line = 1
        self._path = file
        self._handle = handle
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._scan = json.JSONDecoder().raw_decode
        self._text = ""
        self._place = 0
        self._counted = 0
        self._line_start = 0
        self._ended = False

    def next(self) -> str:
        """The next character that is not space, or nothing at the end of the file."""
        while True:
            text, place = self._text, self._place
            while place < len(text) and text[place] in _SPACE:
                place += 1
            self._move(place)
            if place < len(text):
                return text[place]
            if not self._more():
                return ""

    def take(self, *wanted: str) -> str:
        """Takes the next character, one of `wanted`."""
        found = self.next()
        if found not in wanted or not found:
            names = " or ".join(f"'{name}'" for name in wanted)
            raise self._cut() if not found else self._error(f"expecting {names}")
        self._move(self._place + 1)
        return found

    def value(self) -> tuple[JSON, bool]:
        """Takes the next value, and says whether it is spelt with escapes of half characters."""
        self.next()
        while True:
            try:
                value, end = cast("tuple[JSON, int]", self._scan(self._text, self._place))
            except json.JSONDecodeError as reason:
                if len(self._text) - self._place > ROW_LIMIT:
                    raise self._error(reason.msg, reason.pos) from reason
                at_the_end, position = self._at_the_end(reason), reason.pos - self._place
                if not self._more():
                    raise (self._cut() if at_the_end else self._error(reason.msg, self._place + position)) from reason
                continue
            except RecursionError as reason:
                raise self._error("nested too deeply") from reason
            escaped = self._text.find("\\u", self._place, end) >= 0
            self._move(end)
            return value, escaped

    def finish(self) -> None:
        """Raises DataError when anything stands after the value that the file is."""
        if self.next():
            what = "more stands after the end of the JSON"
            fix = f"one array, or one object a line: jq -c . {self.file} > new.{self._path.name}"
            raise DataError([Problem(place=f"{self.file}:{self.line}", what=what, fix=fix)])

    def _at_the_end(self, reason: json.JSONDecodeError) -> bool:
        """Whether the file ends within the value: no later text could have been wrong."""
        return not self._text[reason.pos :].strip() or reason.msg.startswith("Unterminated string")

    def _move(self, place: int) -> None:
        breaks = self._text.count("\n", self._counted, place)
        if breaks:
            self.line += breaks
            self._line_start = self._text.rfind("\n", self._counted, place) + 1
        self._place = self._counted = place

    def _more(self) -> bool:
        """Reads on; the text before `place` is let go."""
        data = b"" if self._ended else self._handle.read(_CHUNK)
        try:
            fresh = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as reason:
            raise self._not_utf8(reason) from reason
        self._ended = not data
        self._text = self._text[self._place :] + fresh
        self._line_start -= self._place
        self._place = self._counted = 0
        return not self._ended

    def _not_utf8(self, reason: UnicodeDecodeError) -> DataError:
        line = self.line + self._text.count("\n", self._place) + reason.object.count(b"\n", 0, reason.start)
        encoding = likely(reason.object) or "ENCODING"
        what = f"byte 0x{reason.object[reason.start]:02x} is not UTF-8"
        fix = f"it is probably {encoding}: {converting(self._path, encoding)}"
        return DataError([Problem(place=f"{self.file}:{line}", what=what, fix=fix)])

    def _cut(self) -> DataError:
        what = "the file ends within its JSON"
        return DataError([Problem(place=f"{self.file}:{self.line}", what=what, fix="it was cut off; write it again")])

    def _error(self, message: str, position: int | None = None) -> DataError:
        self._move(self._place if position is None else position)
        column = self._place - self._line_start + 1
        return DataError([_broken(f"{self.file}:{self.line}", column, message, "mend the file")])
