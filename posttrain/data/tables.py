"""CSV, TSV and Parquet to rows."""

from __future__ import annotations

import base64
import csv
import datetime
import gzip
import io
import json
import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeGuard, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.data.encoding import not_utf8
from posttrain.data.json_rows import Found, Placed, Row
from posttrain.data.json_window import nested_too_deeply
from posttrain.data.labelled_lines import has_labelled_lines, labelled_rows
from posttrain.data.opening import ROW_LIMIT, beginning, too_long
from posttrain.errors import DataError, DoesNotFit, Problem
from posttrain.records import JSON

if TYPE_CHECKING:
    from _csv import Reader as CSVReader

_BATCH = 512
_ENDS = ("\n", "\r")
_LONGEST_LINE = 4 * ROW_LIMIT
_PIECE = 2**20
_AT_ONCE = 2**29
"""Bytes that rows read at a time may come to at the most."""
# In these columns a cell that spells JSON is text, `[1, 2]` and all, unless it spells messages.
_TEXTS = frozenset(
    ("prompt", "completion", "response", "question", "answer", "instruction", "input", "output", "text", "chosen",
     "rejected", "system", "reference")
)  # fmt: skip


# --- CSV and TSV ------------------------------------------------------------------------------------------------


def csv_rows(file: Path, handle: IO[bytes], *, delimiter: str = ",") -> Iterator[Found]:
    """A row for each record of a table whose first line names the columns.

    A cell that spells a list or an object is one, except where text belongs: there only messages are.
    Raises DataError when the first line cannot be the names.
    """
    csv.field_size_limit(ROW_LIMIT)
    # Bytes that are not UTF-8 pass as lone surrogates, so that only their row is bad.
    text = io.TextIOWrapper(handle, encoding="utf-8-sig", errors="surrogateescape", newline="")
    quoting = csv.QUOTE_NONE if delimiter == "\t" and _bare_quotes(file) else csv.QUOTE_MINIMAL
    try:
        yield from _records(
            file, csv.reader(_Lines(text), delimiter=delimiter, strict=True, quoting=quoting), delimiter
        )
    finally:
        text.detach()


def tsv_rows(file: Path, handle: IO[bytes]) -> Iterator[Found]:
    """As `csv_rows`, with tabs between the cells; quotes are text where they do not enclose whole cells.

    A table of sentences and labels may lack the names of its columns.
    """
    return labelled_rows(file, handle) if has_labelled_lines(file) else csv_rows(file, handle, delimiter="\t")


class _TooLong(Exception):
    """A line is longer than a row may be, and passed over."""


class _Lines:
    """The lines of a text, none of which fills the memory: one that is too long raises, and the next call goes on."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._text.readline(_LONGEST_LINE)
        if not line:
            raise StopIteration
        if len(line) < _LONGEST_LINE or line.endswith(_ENDS):
            return line
        while line and not line.endswith(_ENDS):
            line = self._text.readline(_LONGEST_LINE)
        raise _TooLong


def _bare_quotes(file: Path) -> bool:
    """Whether the quotes of a TSV are its text: all lines have as many cells, and one opens a quote it does not close.

    Read as enclosing, a quote at the start of a cell would swallow the rows up to the next one.
    """
    rows = [line.split(b"\t") for line in beginning(file, ROW_LIMIT).splitlines() if line]
    opened = [cell for row in rows for cell in row if cell.startswith(b'"')]
    closed = all(len(cell) > 1 and cell.endswith(b'"') and cell[1:-1].count(b'"') % 2 == 0 for cell in opened)
    return not closed and len({len(row) for row in rows[:-1]}) == 1


def _records(file: Path, reader: CSVReader, delimiter: str) -> Iterator[Found]:
    names = _names(file, reader, delimiter)
    name, width, passed = str(file), len(names), 0
    while True:
        line = reader.line_num + passed + 1
        try:
            cells = next(reader, None)
        except _TooLong:
            yield too_long(f"{name}:{line}", "a cell")
            passed += 1  # the reader counts the lines that it gets
            continue
        except csv.Error as reason:
            yield _broken_csv(f"{name}:{line}", reason)
            continue
        if cells is None:
            return
        if len(cells) == width:
            problem = None if all(map(str.isascii, cells)) else _undecoded(file, line, cells)
            values = (_cell(column, cell) for column, cell in zip(names, cells, strict=True))
            yield problem or Placed(name, line, dict(zip(names, values, strict=True)))
        elif cells:
            yield _uneven(f"{name}:{line}", len(cells), width)


def _names(file: Path, reader: CSVReader, delimiter: str) -> list[str]:
    try:
        names = [name.strip() for name in next(reader, [])]
    except csv.Error as reason:
        raise DataError([_broken_csv(f"{file}:1", reason)]) from reason
    except _TooLong as reason:
        raise DataError([too_long(f"{file}:1", "a cell")]) from reason
    if problem := _undecoded(file, 1, names):
        raise DataError([problem])
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        what = f"the column {twice!r} stands twice in the first line" if twice else "two columns have no name"
        raise DataError([Problem(place=f"{file}:1", what=what, fix="give each column its own name")])
    other = next((mark for mark in ";\t|," if mark in names[0]), None) if len(names) == 1 else None
    if other is not None and other != delimiter:
        what = f"cells are separated by {_mark(other)}, expected {_mark(delimiter)}"
        fix = (
            "name the file .tsv"
            if other == "\t"
            else "save it with commas"
            if delimiter == ","
            else "save it with tabs"
        )
        raise DataError([Problem(place=f"{file}:1", what=what, fix=fix)])
    return names


def _mark(character: str) -> str:
    return {",": "commas", "\t": "tabs", ";": "semicolons"}.get(character, f"{character!r}")


def _broken_csv(place: str, reason: csv.Error) -> Problem:
    if "field limit" in str(reason):
        return too_long(place, "a cell")
    return Problem(
        place=place, what=f"broken CSV: {reason}", fix="close every quote, and double the quotes inside a cell"
    )


def _uneven(place: str, cells: int, width: int) -> Problem:
    what = f"the row has {'more' if cells > width else 'fewer'} cells than the {width} columns"
    return Problem(place=place, what=what, fix="quote cells that hold separators or line breaks")


def _undecoded(file: Path, line: int, cells: Sequence[str]) -> Problem | None:
    raw = ",".join(cells).encode("utf-8", "surrogateescape")
    try:
        raw.decode()
    except UnicodeDecodeError as reason:
        return not_utf8(file, line, raw, reason)
    return None


def _cell(column: str, cell: str) -> JSON:
    if cell[:1] not in ("[", "{"):
        return cell
    try:
        value = cast(JSON, orjson.loads(cell))
    except orjson.JSONDecodeError:
        value = _as_json(cell)
    if nested_too_deeply(value, cell.count("[") + cell.count("{")):
        return cell
    return value if column not in _TEXTS or _is_talk(value) else cell


def _is_talk(value: JSON) -> bool:
    """Whether `value` is a message or a list of them, rather than an answer that happens to be JSON."""
    messages = value if isinstance(value, list) else [value]
    return value != [] and all(
        isinstance(message, dict) and not message.keys().isdisjoint(("role", "from")) for message in messages
    )


def _as_json(cell: str) -> JSON:
    """What a cell with NaN spells; one that only begins like a list, or holds half a character, is text."""
    try:
        value = cast(JSON, json.loads(cell))
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return cell
    return value


# --- Parquet ----------------------------------------------------------------------------------------------------


def parquet_rows(file: Path, handle: IO[bytes]) -> Iterator[Found]:
    """The rows, some hundred at a time. Dates become ISO text, bytes base64. Raises DataError for a broken file."""
    number = 0
    with _unpacked(file, handle) if isinstance(handle, gzip.GzipFile) else nullcontext(handle) as source:
        try:
            table = pq.ParquetFile(source)
            for batch in table.iter_batches(batch_size=_rows_at_once(file, table.metadata)):
                for row in plain_rows(batch):
                    number += 1
                    yield Placed(str(file), number, row)
        except (pa.ArrowException, OSError, ValueError, OverflowError) as reason:  # and values that Python has none for
            said = str(reason).split("\n")[0]
            what = (
                f"not a Parquet file that can be read: {said}" if not number else f"broken after row {number}: {said}"
            )
            raise DataError([Problem(place=str(file), what=what, fix="write it again")]) from reason


def plain_rows(batch: Any) -> list[Row]:  # pyarrow ships no complete types
    """The rows of a batch in JSON's own types: dates become ISO text, bytes base64."""
    rows = cast("list[Row]", batch.to_pylist())
    if all(_is_plain(field.type) for field in batch.schema):
        return rows
    return [cast(Row, _plain(row)) for row in rows]


@contextmanager
def _unpacked(file: Path, handle: gzip.GzipFile) -> Generator[IO[bytes]]:
    """Parquet is read from its end, so a gzipped one is unpacked onto the disk first.

    Raises DoesNotFit for one that would take more than half of what is free there.
    """
    folder = Path(tempfile.gettempdir())
    room = shutil.disk_usage(folder).free // 2
    with tempfile.TemporaryFile(dir=folder) as unpacked:
        for piece in iter(lambda: handle.read(_PIECE), b""):
            room -= len(piece)
            if room < 0:
                taken = f"{unpacked.tell() / 1e9:,.1f} GB"
                what = f"{file}: unpacked it takes more than {taken}, half of what is free in {folder}"
                raise DoesNotFit(f"{what}\n  fix: unpack it where there is room, and give the file without .gz")
            unpacked.write(piece)
        unpacked.seek(0)
        yield unpacked


def _rows_at_once(file: Path, facts: Any) -> int:  # pyarrow ships no complete types
    """How many rows to read at a time, so that a small file cannot fill the memory.

    A column with a dictionary may repeat its longest value, which is no longer than the column, in every row. Raises
    DataError for rows over the size limit.
    """
    largest = 0
    for number in range(facts.num_row_groups):
        group = facts.row_group(number)
        columns = [group.column(place) for place in range(group.num_columns)]
        whole = sum(column.total_uncompressed_size for column in columns)
        if whole > ROW_LIMIT * max(1, group.num_rows):
            raise DataError([too_long(str(file), f"a row of row group {number + 1}")])
        repeated = [column.total_uncompressed_size for column in columns if column.has_dictionary_page]
        largest = max([largest, *repeated])
    return max(1, min(_BATCH, _AT_ONCE // max(1, largest)))


def _is_plain(kind: Any) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_plain(kind.value_type)
    if pa.types.is_struct(kind):
        return all(_is_plain(field.type) for field in kind)
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_boolean,
            pa.types.is_null,
        )
    )


def _plain(value: object) -> JSON:
    """`value` in JSON's own types."""
    if _is_mapping(value):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in cast("Sequence[object]", value)]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value if isinstance(value, str | bool | int | float | None) else str(value)


def _is_mapping(value: object) -> TypeGuard[dict[object, object]]:
    return isinstance(value, dict)
