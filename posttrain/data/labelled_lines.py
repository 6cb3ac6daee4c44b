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


def has_labelled_lines(file: Path) -> bool:
    """Whether each of the first lines is one tab between a text and one of a few whole numbers, the first line too."""
    head = beginning(file, _HEAD).removeprefix(b"\xef\xbb\xbf")
    filled = [line for line in head.split(b"\n")[:-1][:_SNIFFED] if line.strip()]
    cells = [line.split(b"\t") for line in filled]
    if len(cells) < 2 or any(len(pair) != 2 or not pair[0].strip() for pair in cells):
        return False
    labels = {pair[1].strip() for pair in cells}
    return len(labels) <= _MOST_LABELS and all(map(bytes.isdigit, labels))


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
