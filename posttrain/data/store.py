"""Rows of tokens on disk: written batch by batch, read through a memory map, decoded when one is asked for."""

from __future__ import annotations

import errno
import os
import shutil
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from posttrain.data.arrow import ArrowBatch, Buffer, ItemT, Layout, Row, checked, group_at, numbers
from posttrain.data.views import Changed, Chosen, Joined, View
from posttrain.errors import DoesNotFit

BATCH_ROWS = 1000
# Rows of a batch are held in memory until it is written; so many tokens end one before it is full.
BATCH_TOKENS = 2_000_000
# Opening a batch costs about a row's decoding, keeping one a few kilobytes.
OPEN_BATCHES = 4096

Number = TypeVar("Number", bound=np.generic)


class StoreWriter(Generic[ItemT]):
    """Appends rows to an Arrow file; memory holds at most one batch. As a context manager it closes the file.

    Raises DoesNotFit when the disk is full.
    """

    def __init__(self, path: Path, layout: Layout[ItemT]) -> None:
        self.rows = 0
        self._path = path
        self._layout = layout
        self._buffer = Buffer[ItemT]()
        self._file = path.open("wb")
        self._out = pa.ipc.new_file(self._file, layout.schema)

    def append(self, rows: Iterable[Row[ItemT]]) -> None:
        """Adds rows, and writes every batch that is full."""
        for row in rows:
            self._buffer.add(self._layout.group(row.item), row)
            self.rows += 1
            if len(self._buffer.rest) >= BATCH_ROWS or len(self._buffer.tokens) >= BATCH_TOKENS:
                self._flush()

    def __enter__(self) -> StoreWriter[ItemT]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Closing writes what is left in Python's buffer, and may find the disk full too.
        with room_on_disk(self._path), self._file:
            if error is None:
                self._flush()
                self._out.close()
                self._file.flush()
                os.fsync(self._file.fileno())

    def _flush(self) -> None:
        if self._buffer.rest:
            batch = self._buffer.batch(self._layout)
            self._buffer = Buffer[ItemT]()
            with room_on_disk(self._path):
                self._out.write_batch(batch)


@contextmanager
def room_on_disk(path: Path) -> Generator[None]:
    """Raises DoesNotFit, with bytes, in place of the system's error when a disk is full or a quota used up."""
    try:
        yield
    except OSError as reason:
        if reason.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        written = path.stat().st_size if path.exists() else 0
        free = shutil.disk_usage(path.parent).free
        raise DoesNotFit(
            f"{path.parent} is full: {written / 1e6:,.0f} MB of tokens are written and {free / 1e6:,.0f} MB are free"
            "\n  fix: free some space, or set POSTTRAIN_CACHE to a folder on another disk"
        ) from reason


class Store(View[ItemT], Generic[ItemT]):
    """The rows of a file as `StoreWriter` wrote it; each is decoded when it is read, none is kept.

    `keep` lives as long as the store does. Raises OSError or ValueError for a file that was cut, or whose rows do not
    fit together: nothing else looks at them again, and what lies outside the file must never be read.
    """

    def __init__(self, path: Path, layout: Layout[ItemT], *, keep: object = None) -> None:
        self._layout = layout
        self._keep = keep
        self._open: dict[int, ArrowBatch] = {}
        self._opening = Lock()
        try:
            self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
            if not self._reader.schema.equals(layout.schema):
                raise ValueError(f"{path} has other columns")
            self._ends = list(accumulate(map(checked, self._batches())))
        except pa.ArrowException as error:
            raise ValueError(f"{path}: {error}") from error

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Int64 [N]: the tokens of each row."""
        offsets = (numbers(batch.column("tokens").offsets) for batch in self._batches())
        return _joined([np.diff(part) for part in offsets], np.int64)

    @cached_property
    def prompts(self) -> NDArray[np.uint64]:
        """Uint64 [N]: the hash of what each row asks."""
        return self.column("prompt", np.uint64)

    @cached_property
    def contents(self) -> NDArray[np.uint64]:
        """Uint64 [N]: the hash of all that was read for each row."""
        return self.column("content", np.uint64)

    def column(self, name: str, kind: type[Number]) -> NDArray[Number]:
        """[N]: a column of numbers, one a row."""
        return _joined([numbers(batch.column(name)) for batch in self._batches()], kind)

    def texts(self, name: str) -> Iterator[str]:
        """A column of texts, row by row."""
        for batch in self._batches():
            yield from cast("list[str]", batch.column(name).to_pylist())

    def flags(self, name: str) -> Iterator[bool]:
        """A column of truth values, row by row."""
        for batch in self._batches():
            yield from cast("list[bool]", batch.column(name).to_pylist())

    def id_of(self, place: int) -> str:
        """The id of a row, without its tokens."""
        batch, row = self._find(place)
        return cast("str", batch.column("id")[row].as_py())

    def at(self, place: int) -> ItemT:
        """The row at a place, decoded."""
        batch, row = self._find(place)
        return self._layout.item(group_at(batch, row), batch, row)

    def _find(self, place: int) -> tuple[ArrowBatch, int]:
        number = bisect_right(self._ends, place)
        batch = self._open.get(number)
        if batch is None:
            with self._opening:  # rows of the next step are read while others are measured
                if len(self._open) >= OPEN_BATCHES:
                    self._open.clear()
                batch = self._open[number] = self._reader.get_batch(number)
        return batch, place - (self._ends[number - 1] if number else 0)

    def _batches(self) -> Iterator[ArrowBatch]:
        return (self._reader.get_batch(number) for number in range(self._reader.num_record_batches))


def lengths_of(items: Sequence[Sized]) -> NDArray[np.int64]:
    """Int64 [N]: the tokens of each item; nothing is decoded where the items stand in stores."""
    match items:
        case Store():
            return items.lengths
        case Chosen():
            return lengths_of(items.items)[items.places]
        case Changed():
            return lengths_of(items.items)
        case Joined():
            return _joined([lengths_of(part) for part in items.parts], np.int64)
        case _:
            return np.array([len(item) for item in items], np.int64)


def _joined(parts: Sequence[NDArray[Any]], kind: type[Number]) -> NDArray[Number]:
    return np.concatenate(parts).astype(kind, copy=False) if parts else np.zeros(0, kind)
