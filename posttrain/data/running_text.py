"""Running text to rows, cut at blank lines; tables and JSON called .txt are refused, but for sentences with labels."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import orjson

from posttrain.data.encoding import not_utf8
from posttrain.data.json_rows import Found, Placed
from posttrain.data.labelled_lines import has_labelled_lines, labelled_rows
from posttrain.data.opening import ROW_LIMIT, beginning, lines, too_long
from posttrain.errors import DataError, Problem

_HEAD = 1 << 16
_SNIFFED = 200


def text_rows(file: Path, handle: IO[bytes]) -> Iterator[Found]:
    """The pieces of text between blank lines; for lines of a sentence and a label, those.

    Raises DataError for other tables, and for JSON, in a text file.
    """
    if has_labelled_lines(file):
        yield from labelled_rows(file, handle)
        return
    _refuse_other(file)
    piece: list[str] = []
    start, size = 1, 0
    problem: Problem | None = None
    for number, data in enumerate(lines(handle), start=1):
        start = start if piece else number
        size += ROW_LIMIT + 1 if data is None else len(data)
        line = "…"
        if size > ROW_LIMIT:
            problem, piece = too_long(f"{file}:{start}", "the text without a blank line"), ["…"]
        try:
            line = (data or b"\xe2\x80\xa6").decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as reason:
            problem = not_utf8(file, number, data or b"", reason)
        if line.strip():
            piece.append(line)
            continue
        if piece:
            yield problem or Placed(str(file), start, {"text": "\n".join(piece)})
        piece, size, problem = [], 0, None
    if piece:
        yield problem or Placed(str(file), start, {"text": "\n".join(piece)})


def _refuse_other(file: Path) -> None:
    """Raises DataError where the first lines show that this is no running text."""
    head = beginning(file, _HEAD).removeprefix(b"\xef\xbb\xbf")
    filled = [line for line in head.split(b"\n")[:-1][:_SNIFFED] if line.strip()] or [head]
    if _is_row(filled[0]) or (head.lstrip()[:1] == b"[" and _is_row(head.lstrip()[1:].lstrip().split(b"\n")[0])):
        named = file.name.removesuffix(".gz").removesuffix(file.suffix if file.suffix != ".gz" else ".txt")
        better = f"{named}.jsonl{'.gz' if file.suffix == '.gz' else ''}"
        fix = f"name it so: mv {shlex.quote(str(file))} {shlex.quote(str(file.with_name(better)))}"
        raise DataError([Problem(place=str(file), what="the file holds rows of JSON, not running text", fix=fix)])
    tabs = {line.count(b"\t") for line in filled}
    if len(filled) > 1 and len(tabs) == 1 and tabs != {0}:
        raise DataError([_table(file, filled, tabs.pop() + 1)])


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line.strip().rstrip(b",]")), dict)
    except orjson.JSONDecodeError:
        return False


def _table(file: Path, filled: list[bytes], columns: int) -> Problem:
    """What a table called .txt is asked: which column is what, with a command that names them."""
    first = " | ".join(cell.strip().decode("utf-8", "replace")[:40] for cell in filled[0].split(b"\t"))
    what = f"every line has {columns} cells between tabs: this is a table, not running text; the first: {first}"
    names = "\\t".join(["prompt", "completion", *(f"column{n}" for n in range(3, columns + 1))][:columns])
    new = shlex.quote(str(file.with_name(file.name.split(".")[0] + ".tsv")))
    source = f"gzip -dc {shlex.quote(str(file))}" if file.suffix == ".gz" else f"cat {shlex.quote(str(file))}"
    last = {line.rstrip().rsplit(b"\t", 1)[-1].strip() for line in filled}
    labels = b" and ".join(sorted(last)).decode("utf-8", "replace") if len(last) <= 3 else ""
    asked = f"is column {columns}, with {labels}, the answer? then " if labels else "which column is what? "
    fix = f"{asked}name the columns, such as: (printf '{names}\\n'; {source}) > {new}"
    return Problem(place=str(file), what=what, fix=fix)
