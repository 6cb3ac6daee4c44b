"""Tables without names of columns, of a sentence, a tab and a label on each line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from posttrain.data.encoding import not_utf8
from posttrain.data.json_rows import Found, Placed
from posttrain.data.opening import beginning, lines, too_long
from posttrain.errors import Problem

_HEAD = 1 << 16
_SNIFFED = 200
_MOST_LABELS = 20
"""More numbers than these, after a tab, may be anything."""
_MOST_OTHER = 0.1
"""The share of lines that may be otherwise, as bad rows: one broken line makes no other kind of file."""


def has_labelled_lines(file: Path) -> bool:
    """Whether the first line, and nearly all after it, are a text, one tab and one of a few whole numbers."""
    head = beginning(file, _HEAD).removeprefix(b"\xef\xbb\xbf")
    filled = [line for line in head.split(b"\n")[:-1][:_SNIFFED] if line.strip()]
    fitting = [_is_labelled(line) for line in filled]
    if len(filled) < 2 or not fitting[0] or fitting.count(False) > _MOST_OTHER * len(filled):
        return False
    labels = {line.split(b"\t")[1].strip() for line, fits in zip(filled, fitting, strict=True) if fits}
    return len(labels) <= _MOST_LABELS


def _is_labelled(line: bytes) -> bool:
    cells = line.split(b"\t")
    return len(cells) == 2 and bool(cells[0].strip()) and cells[1].strip().isdigit()


def labelled_rows(file: Path, handle: IO[bytes]) -> Iterator[Found]:
    """A row of `sentence` and `label` for each line; quotes are part of the text."""
    for number, data in enumerate(lines(handle), start=1):
        place = f"{file}:{number}"
        if data is None:
            yield too_long(place, "the line")
            continue
        try:
            line = data.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as reason:
            yield not_utf8(file, number, data, reason)
            continue
        cells = line.split("\t")
        if len(cells) == 2:
            yield Placed(str(file), number, {"sentence": cells[0], "label": cells[1]})
        elif line.strip():
            what = f"the line has {len(cells) - 1} tabs, expected a sentence, one tab and a label"
            yield Problem(place=place, what=what, fix="put one tab before the label, and none elsewhere")
