"""The rows that a run's settings name: opened all at once, then read, and announced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from posttrain.config import DataItem
from posttrain.console import Console
from posttrain.counted import counted
from posttrain.data.readers import Reading, open_data
from posttrain.errors import DataError, Problem
from posttrain.types import JSON, Kind, Record

RecordT = TypeVar("RecordT")
MAX_BAD = 0.05
"""The share of bad rows that a command without `max_bad` bears."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One source of rows, recognised and not yet read. `weight` is how often an epoch passes over it.

    `settings` are what its reading depends on besides its content.
    """

    name: str
    reading: Reading
    weight: float
    settings: Mapping[str, JSON]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """One source of rows, all of them in memory. `problems` are the rows left out."""

    name: str
    records: tuple[Record, ...]
    problems: tuple[Problem, ...]

    def of(self, *kinds: type[RecordT]) -> list[RecordT]:
        """The records, all of which are of these kinds: the reader checked it."""
        return [cast("RecordT", record) for record in self.records if isinstance(record, kinds)]


def open_sources(
    data: Sequence[DataItem] | str | None, kinds: tuple[Kind, ...], *, max_bad: float = MAX_BAD
) -> list[Source]:
    """Every source of a setting, in order; none for None.

    Raises DataError with the problems of all sources that are missing or cannot be recognised.
    """
    items = [] if data is None else [DataItem(path=data)] if isinstance(data, str) else data
    found: list[Source] = []
    problems: list[Problem] = []
    for item in items:
        try:
            reading = open_data(
                item.path, kinds, max_bad=max_bad, columns=item.columns, subset=item.subset, split=item.split
            )
        except DataError as error:
            problems += error.problems
        else:
            settings: dict[str, JSON] = {"max_bad": max_bad, "columns": {**(item.columns or {})}}
            found.append(Source(name=Path(item.path).name, reading=reading, weight=item.weight, settings=settings))
    if problems:
        raise DataError(problems)
    return found


def read_rows(data: Sequence[DataItem] | str, kinds: tuple[Kind, ...], console: Console) -> list[Rows]:
    """Every source of a setting in memory; says the format that was recognised and what was lost.

    Raises DataError with all problems of the first source that has too many.
    """
    return in_memory(open_sources(data, kinds), console)


def in_memory(sources: Sequence[Source], console: Console) -> list[Rows]:
    """The sources with their records, announced."""
    found: list[Rows] = []
    for source in sources:
        records = tuple(source.reading)
        tally = source.reading.tally
        console.say(announced(source.name, tally.rows, source.reading.format, tally.bad, tally.duplicates))
        found.append(Rows(name=source.name, records=records, problems=tuple(tally.problems)))
    return found


def announced(name: str, rows: int, layout: str, bad: int, duplicates: int) -> str:
    """`train.jsonl: 2,000 rows, alpaca → chat; 4 bad (left out)`."""
    parts = [f"{bad:,} bad (left out)"] if bad else []
    parts += [f"{counted(duplicates, 'duplicate')} (left out)"] if duplicates else []
    return f"{name}: {counted(rows, 'row')}, {layout}" + ("; " + ", ".join(parts) if parts else "")
