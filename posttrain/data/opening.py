"""A file's bytes as a stream, gzip unpacked on the way, and its lines, of which none fills the memory."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, cast

from posttrain.errors import Problem

# A whole novel is 1 MB. A longer line is a file without line ends, or not text; it would have to be held whole.
ROW_LIMIT = 8 << 20
_BUFFER = 1 << 20


def opened(file: Path) -> IO[bytes]:
    """`file` open for reading; gzip, known by its first bytes, is unpacked while it is read."""
    handle = io.BufferedReader(io.FileIO(file), _BUFFER)
    zipped = handle.peek(2)[:2] == b"\x1f\x8b"
    if not zipped:
        return handle
    handle.close()
    return cast("IO[bytes]", gzip.open(file, "rb"))


def beginning(file: Path, size: int) -> bytes:
    """The first bytes, unpacked."""
    with opened(file) as handle:
        return handle.read(size)


def lines(handle: IO[bytes]) -> Iterator[bytes | None]:
    """The lines with their ends, each line feed ending one; None stands for one of more than `ROW_LIMIT` bytes."""
    for line in iter(partial(handle.readline, ROW_LIMIT), b""):
        if len(line) < ROW_LIMIT or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = handle.readline(ROW_LIMIT)
        yield None


def too_long(place: str, what: str = "the line") -> Problem:
    """The problem of a row that is left out unread, because of its size."""
    return Problem(
        place=place,
        what=f"{what} is longer than {ROW_LIMIT >> 20} MB",
        fix="write one row a line, or cut the text into several rows",
    )
