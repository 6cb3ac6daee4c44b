"""A path to rows: the files in it, each by its type, one row at a time; and what identifies their content."""

from __future__ import annotations

import difflib
import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TypeAlias

from posttrain.data.encoding import sixteen_bits, wrong_encoding
from posttrain.data.json_rows import Found, Placed, Row, json_rows
from posttrain.data.opening import beginning, opened
from posttrain.data.running_text import text_rows
from posttrain.data.tables import csv_rows, parquet_rows, tsv_rows
from posttrain.errors import DataError, Problem

__all__ = ["Found", "Placed", "Row", "Stamps", "files_of", "fingerprint", "rows_of", "size_of", "stamps"]

_HEAD = 4096
Stamps: TypeAlias = "dict[str, tuple[int, int, int]]"


def rows_of(path: Path) -> Iterator[Found]:
    """The rows of a file, or of every data file in a folder in the order of their names, and what is wrong with some.

    A broken line, one that is not UTF-8 and one over the size limit come as problems. Raises DataError for a path
    that does not exist, a file of an unknown type, an empty one, and where the rest of a file cannot be read: gzip
    that is damaged, an array that is cut.
    """
    for file in files_of(path):
        yield from _read_file(file)


def files_of(path: Path) -> list[Path]:
    """The data files that `path` is or holds, hidden ones left out. Raises DataError when there are none."""
    if not path.exists():
        raise DataError([_missing(path)])
    if path.is_file():
        return [path]
    if not path.is_dir():
        what = "this is neither a file nor a folder: rows are read more than once, which a pipe does not allow"
        raise DataError([Problem(place=str(path), what=what, fix="write them into a file first")])
    inside = [file for file in path.rglob("*") if not any(p.startswith(".") for p in file.relative_to(path).parts)]
    files = sorted(file for file in inside if _type(file) in _READERS and file.is_file())
    if {"state.json", "dataset_info.json"} <= {file.name for file in files}:
        fix = f"datasets.load_from_disk({str(path)!r}).to_parquet('rows.parquet')"
        raise DataError([Problem(place=str(path), what="this folder was saved by `datasets` as Arrow files", fix=fix)])
    if not files:
        raise DataError([Problem(place=str(path), what="this folder holds no data files", fix=f"put {_types()} there")])
    return files


def fingerprint(path: Path) -> str:
    """The sha256 of a file's bytes; of a folder's, with the names of its data files."""
    if not path.is_dir():
        return _digest(path)
    parts = [f"{file.relative_to(path).as_posix()} {_digest(file)}" for file in files_of(path)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def stamps(path: Path) -> Stamps:
    """Size, time of the last change and place on disk of each data file: what changes whenever one is written to."""
    found = ((file, file.stat()) for file in files_of(path))
    return {str(file): (facts.st_size, facts.st_mtime_ns, facts.st_ino) for file, facts in found}


def size_of(path: Path) -> int:
    """The bytes on disk of a file, or of a folder's data files."""
    return sum(file.stat().st_size for file in files_of(path))


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _read_file(file: Path) -> Iterator[Found]:
    reader = _READERS.get(_type(file))
    if reader is None:
        what = f"files of type {_type(file) or '(none)'!r} are not read"
        raise DataError([Problem(place=str(file), what=what, fix=f"convert it to one of {_types()}")])
    line = 0
    try:
        _refuse_sixteen_bits(file)
        with opened(file) as handle:
            for found in reader(file, handle):
                line = found.line if isinstance(found, Placed) else line + 1
                yield found
    except (EOFError, gzip.BadGzipFile, zlib.error) as reason:
        place = f"{file}:{line}" if line else str(file)
        what = f"the gzip file is damaged after this line: {reason}" if line else f"the gzip file is damaged: {reason}"
        raise DataError([Problem(place=place, what=what, fix="copy or compress it again")]) from reason
    except OSError as reason:
        what = f"the file cannot be read: {reason.strerror or reason}"
        raise DataError([Problem(place=str(file), what=what, fix="check its rights and its disk")]) from reason
    if not line:
        empty = not beginning(file, _HEAD).strip()
        what = "the file is empty" if empty else "there are no rows in it"
        raise DataError([Problem(place=str(file), what=what, fix="check how it was written")])


def _refuse_sixteen_bits(file: Path) -> None:
    head = beginning(file, _HEAD)
    if _type(file) != ".parquet" and (encoding := sixteen_bits(head)):
        raise DataError([wrong_encoding(file, encoding)])


_READERS: dict[str, Callable[[Path, IO[bytes]], Iterator[Found]]] = {
    ".jsonl": json_rows,
    ".ndjson": json_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".parquet": parquet_rows,
    ".txt": text_rows,
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
