"""Bytes to rows: JSON lines, JSON arrays, CSV, TSV, Parquet, running text, gzip of these, and folders of them."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias, cast

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.errors import DataError, Problem
from posttrain.types import JSON

Row: TypeAlias = dict[str, JSON]

_CELL_LIMIT = 1 << 27


class Placed(NamedTuple):
    """A row and where it begins; `line` counts from 1, the rows of a Parquet file count as lines."""

    file: Path
    line: int
    row: Row

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


def read_rows(path: Path) -> list[Placed]:
    """All rows of a file, or of every data file in a folder, in the order of their names.

    Raises DataError for a path that does not exist, a file of an unknown type, an empty one, and for bytes that cannot
    be read: then all broken lines of the file at once.
    """
    if not path.exists():
        raise DataError([_missing(path)])
    files = sorted(file for file in path.rglob("*") if _type(file) in _READERS) if path.is_dir() else [path]
    if not files:
        raise DataError([Problem(place=str(path), what="this folder holds no data files", fix=f"put {_types()} there")])
    rows = [placed for file in files for placed in _read_file(file)]
    if not rows:
        raise DataError(
            [Problem(place=str(path), what="there are no rows in it", fix="check how the file was written")]
        )
    return rows


def _read_file(file: Path) -> Iterator[Placed]:
    reader = _READERS.get(_type(file))
    if reader is None:
        what = f"files of type {_type(file) or '(none)'!r} are not read"
        raise DataError([Problem(place=str(file), what=what, fix=f"convert it to one of {_types()}")])
    data = _bytes(file)
    if not data.strip():
        raise DataError([Problem(place=str(file), what="the file is empty", fix="check how it was written")])
    return reader(file, data)


def _bytes(file: Path) -> bytes:
    data = file.read_bytes()
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError) as reason:
        what = f"the gzip file is damaged: {reason}"
        raise DataError([Problem(place=str(file), what=what, fix="copy or compress it again")]) from reason


def _text(file: Path, data: bytes) -> str:
    """`data` as UTF-8, without a byte-order mark."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        fix = f"iconv -f UTF-16 -t UTF-8 {file.name} > new.{file.name}"
        raise DataError([Problem(place=str(file), what="the file is UTF-16, expected UTF-8", fix=fix)])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        line = data.count(b"\n", 0, reason.start) + 1
        column = reason.start - (data.rfind(b"\n", 0, reason.start) + 1) + 1
        what = f"byte 0x{data[reason.start]:02x} in column {column} is not UTF-8"
        fix = "save the file as UTF-8 (from Latin-1: iconv -f LATIN1 -t UTF-8)"
        raise DataError([Problem(place=f"{file}:{line}", what=what, fix=fix)]) from reason


def _read_json(file: Path, data: bytes) -> Iterator[Placed]:
    text = _text(file, data)
    start = text.lstrip()[:1]
    if start == "[":
        return _json_array(file, text)
    first = text.strip().split("\n", 1)[0]
    if start == "{" and not _is_json(first) and _is_json(text):
        return _json_object(file, text)
    return _json_lines(file, text)


def _json_lines(file: Path, text: str) -> Iterator[Placed]:
    rows: list[Placed] = []
    problems: list[Problem] = []
    # Only line feeds end a line of JSON: splitlines() would also cut at U+0085 and U+2028, which strings may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = cast(JSON, json.loads(line))
        except json.JSONDecodeError as reason:
            problems.append(_broken(file, number, reason))
            continue
        rows.append(_placed(file, number, value))
    if problems:
        raise DataError(problems)
    return iter(rows)


def _json_array(file: Path, text: str) -> Iterator[Placed]:
    decoder = json.JSONDecoder()
    rows: list[Placed] = []
    place, line, counted = text.index("[") + 1, 1, 0
    while True:
        place = _skip(text, place, ", \t\r\n")
        if place >= len(text) or text[place] == "]":
            break
        line, counted = line + text.count("\n", counted, place), place
        try:
            value, place = cast("tuple[JSON, int]", decoder.raw_decode(text, place))
        except json.JSONDecodeError as reason:
            raise DataError([_broken(file, reason.lineno, reason)]) from reason
        rows.append(_placed(file, line, value))
    if place >= len(text):
        what = f"the JSON array is not closed after {len(rows)} rows"
        raise DataError([Problem(place=f"{file}:{line}", what=what, fix="the file was cut off; write it again")])
    return iter(rows)


def _json_object(file: Path, text: str) -> Iterator[Placed]:
    """The rows of `{"data": [row, …]}`: an object whose one list of objects are the rows; else the object is a row."""
    value = cast(Row, json.loads(text))
    lists = [item for item in value.values() if isinstance(item, list) and all(isinstance(row, dict) for row in item)]
    if len(lists) == 1 and len(value) <= 2:
        return (_placed(file, number, row) for number, row in enumerate(lists[0], start=1))
    return iter([_placed(file, 1, value)])


def _read_csv(file: Path, data: bytes, *, delimiter: str = ",") -> Iterator[Placed]:
    csv.field_size_limit(_CELL_LIMIT)
    reader = csv.DictReader(io.StringIO(_text(file, data), newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            extra = cast("list[str] | None", cells.pop(cast(str, None), None))
            if extra or None in cells.values():
                what = (
                    f"the row has {'more' if extra else 'fewer'} cells than the {len(reader.fieldnames or ())} columns"
                )
                fix = "quote cells that hold separators or line breaks"
                raise DataError([Problem(place=f"{file}:{line + 1}", what=what, fix=fix)])
            yield Placed(file, line + 1, {name: _cell(cell) for name, cell in cells.items()})
            line = reader.line_num
    except csv.Error as reason:
        fix = "close every quote, and double the quotes inside a cell"
        raise DataError([Problem(place=f"{file}:{line + 1}", what=f"broken CSV: {reason}", fix=fix)]) from reason


def _read_tsv(file: Path, data: bytes) -> Iterator[Placed]:
    return _read_csv(file, data, delimiter="\t")


def _cell(cell: str) -> JSON:
    """A cell as it stands, or the list or object that it spells in JSON."""
    if cell[:1] in ("[", "{") and _is_json(cell):
        return cast(JSON, json.loads(cell))
    return cell


def _read_parquet(file: Path, data: bytes) -> Iterator[Placed]:
    try:
        rows = cast("list[Row]", pq.read_table(io.BytesIO(data)).to_pylist())
    except (pa.ArrowException, OSError) as reason:
        what = f"not a Parquet file that can be read: {reason}"
        raise DataError([Problem(place=str(file), what=what, fix="write it again")]) from reason
    return (Placed(file, number, row) for number, row in enumerate(rows, start=1))


def _read_text(file: Path, data: bytes) -> Iterator[Placed]:
    """The pieces of running text between blank lines."""
    lines = _text(file, data).replace("\r\n", "\n").split("\n")
    filled = [line for line in lines if line.strip()]
    tabs = {line.count("\t") for line in filled}
    if len(filled) > 1 and len(tabs) == 1 and tabs != {0}:
        what = f"every line has {tabs.pop() + 1} cells between tabs: this is a table, not running text"
        fix = "save it as .tsv with a first line that names the columns, such as prompt<TAB>completion"
        raise DataError([Problem(place=str(file), what=what, fix=fix)])
    piece: list[str] = []
    start = 1
    for number, line in enumerate([*lines, ""], start=1):
        if line.strip():
            start = start if piece else number
            piece.append(line)
        elif piece:
            yield Placed(file, start, {"text": "\n".join(piece)})
            piece = []


_READERS: dict[str, Callable[[Path, bytes], Iterator[Placed]]] = {
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}


def _type(file: Path) -> str:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix != ".gz"), "")


def _types() -> str:
    return f"{', '.join(_READERS)} (each may be gzipped)"


def _missing(path: Path) -> Problem:
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    wanted = path.relative_to(folder).parts[0]
    near = difflib.get_close_matches(wanted, [file.name for file in folder.iterdir()], n=1, cutoff=0.6)
    fix = f"did you mean {folder / near[0]}?" if near else f"{folder.resolve()} holds nothing of a similar name"
    return Problem(place=str(path), what="there is no such file or folder", fix=fix)


def _broken(file: Path, line: int, reason: json.JSONDecodeError) -> Problem:
    what = f"broken JSON in column {reason.colno}: {reason.msg[:1].lower()}{reason.msg[1:]}"
    fix = "mend the line; every line is one JSON object on its own" if file.suffix != ".json" else "mend the file"
    return Problem(place=f"{file}:{line}", what=what, fix=fix)


def _placed(file: Path, line: int, value: JSON) -> Placed:
    if not isinstance(value, dict):
        what = f"a row is {type(value).__name__}, expected an object with named columns"
        raise DataError([Problem(place=f"{file}:{line}", what=what, fix='write rows as {"prompt": …, …}')])
    return Placed(file, line, value)


def _skip(text: str, place: int, characters: str) -> int:
    while place < len(text) and text[place] in characters:
        place += 1
    return place


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
