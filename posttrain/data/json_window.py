"""JSON values one after another from a file of any size, with the line and column where each stands."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import IO, cast

from posttrain.data.encoding import converting, likely
from posttrain.data.opening import ROW_LIMIT
from posttrain.errors import DataError, Problem
from posttrain.records import JSON

_CHUNK = 1 << 18
_SPACE = " \t\r\n"
_IN_NUMBERS = "0123456789+-.eE"
LEVELS = 100
"""Lists and objects within each other, in a row: what writes rows again, or compares them, calls itself for each."""


class Window:
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
            place = self._place
            try:
                value, end = cast("tuple[JSON, int]", self._scan(self._text, place))
            except json.JSONDecodeError as reason:
                if len(self._text) - self._place > ROW_LIMIT:
                    raise self._error(reason.msg, reason.pos) from reason
                at_the_end, position = self._at_the_end(reason), reason.pos - self._place
                if not self._more():
                    raise (self._cut() if at_the_end else self._error(reason.msg, self._place + position)) from reason
                continue
            except RecursionError as reason:
                raise self._error("nested too deeply") from reason
            except ValueError as reason:  # a whole number of more digits than Python reads
                raise self._error("a number has too many digits") from reason
            # A number may go on where the text ends, in `1` and in `1.` alike; nothing else can.
            if isinstance(value, int | float) and not self._text[end:].strip(_IN_NUMBERS):
                if len(self._text) - place > ROW_LIMIT:
                    raise self._error("a number has too many digits")
                if self._more():
                    continue
            if nested_too_deeply(value, self._text.count("[", place, end) + self._text.count("{", place, end)):
                raise self._error("nested too deeply")
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
        return DataError([broken(f"{self.file}:{self.line}", column, message, "mend the file")])


def nested_too_deeply(value: JSON, opened: int) -> bool:
    """Whether a value has more than `LEVELS` levels. Its text begins as many lists and objects as are `opened`."""
    if opened <= LEVELS:
        return False
    level = [value]
    for _ in range(LEVELS):
        parts = (
            part for node in level for part in (node.values() if isinstance(node, dict) else cast("list[JSON]", node))
        )
        level = [part for part in parts if isinstance(part, dict | list)]
        if not level:
            return False
    return True


def broken(place: str, column: int, message: str, fix: str) -> Problem:
    """The problem of text that is no JSON, in the words of the standard library's parser."""
    said = message[:1].lower() + message[1:]
    return Problem(place=place, what=f"broken JSON in column {column}: {said}", fix=fix)
