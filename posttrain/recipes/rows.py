"""The rows that a run's settings name, read and announced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from posttrain.config import DataItem
from posttrain.console import Console
from posttrain.data.readers import read
from posttrain.errors import Problem
from posttrain.types import Kind, Record

RecordT = TypeVar("RecordT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """One source of rows. `weight` is how often an epoch passes over it; `problems` are the rows left out."""

    name: str
    records: tuple[Record, ...]
    weight: float
    problems: tuple[Problem, ...]

    def of(self, *kinds: type[RecordT]) -> list[RecordT]:
        """The records, all of which are of these kinds: the reader checked it."""
        return [cast("RecordT", record) for record in self.records if isinstance(record, kinds)]


def read_rows(data: Sequence[DataItem] | str, kinds: tuple[Kind, ...], console: Console) -> list[Rows]:
    """Every source of a setting, in order; says the format that was recognised and what was lost.

    Raises DataError with all problems of the first source that has too many.
    """
    items = [DataItem(path=data)] if isinstance(data, str) else data
    found: list[Rows] = []
    for item in items:
        dataset = read(item.path, kinds, columns=item.columns)
        name = Path(item.path).name
        console.say(
            f"{name}: {dataset.rows:,} rows, {dataset.format}" + _lost(dataset.duplicates, len(dataset.problems))
        )
        found.append(Rows(name=name, records=dataset.records, weight=item.weight, problems=tuple(dataset.problems)))
    return found


def problems_of(rows: Sequence[Rows]) -> list[Problem]:
    """The problems of all sources, for `problems.jsonl`."""
    return [problem for part in rows for problem in part.problems]


def _lost(duplicates: int, problems: int) -> str:
    parts = [f"{problems} bad (left out)"] if problems else []
    parts += [f"{duplicates} duplicates (left out)"] if duplicates else []
    return "; " + ", ".join(parts) if parts else ""
