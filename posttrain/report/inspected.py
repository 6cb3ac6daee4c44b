"""A file of the token inspector as a report reads it: its rollouts in brief, and one of them whole.

A rollout is what is looked at together: an answer of PPO, a pair of DPO, the answers of a ranking. Rows are read in
small batches, so that neither a file of ten thousand answers nor its longest one is held whole.
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from posttrain.data.arrow import ArrowBatch
from posttrain.errors import DataError, Problem
from posttrain.records import JSON
from posttrain.run.inspect import heading_of

Scalar: TypeAlias = Any
Row: TypeAlias = dict[str, Scalar]
"""A row of a file: scalars of pyarrow, which has no types, by column."""
TOP_OF = ("actor", "reference")
_TOP = re.compile(rf"({'|'.join(TOP_OF)})_top(_logprobs)?")
_BATCH = 128  # rows that are read together
_NEEDED = ("prompt_id", "sample", "stopped", "prompt_tokens", "tokens")
_DAMAGE = (OSError, KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, MemoryError)
_TOGETHER = {"dpo": "pair", "online-dpo": "pair", "reward": "ranking"}
_SCORES = {"ppo": "settled_score", "dpo": "margin", "online-dpo": "margin"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """A rollout in brief: `count` rows of its file from `first` on.

    `score`: an answer's settled score, a pair's margin, or by how much a ranking's best answer is scored above its
    worst; None where the file has none. `length`: tokens of its answers. `group`: the rows of all answers to this
    prompt that were sampled in the same round, first and behind the last. `alternatives`: the file has some of it.
    """

    first: int
    count: int
    prompt_id: str
    score: float | None
    length: int
    group: tuple[int, int]
    alternatives: bool


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """A file of the inspector. `pieces` are the texts of its tokens, empty where it does not have them."""

    path: Path
    method: str
    step: int
    settings: Mapping[str, JSON]
    pieces: Mapping[int, str] = field(default_factory=dict[int, str])

    @cached_property
    def columns(self) -> Sequence[str]:
        """The names of its columns."""
        return list(pq.read_schema(self.path).names)

    @cached_property
    def briefs(self) -> Sequence[Brief]:
        """All of its rollouts in brief, in order. Raises DataError for a file that cannot be read."""
        with read_from(self.path):
            return self._briefs()

    def _briefs(self) -> list[Brief]:
        together, score = _TOGETHER.get(self.method, ""), _SCORES.get(self.method, "")
        names = ["prompt_id", "sample", "tokens", together, score, "rank", "score", "actor_top"]
        wanted = [name for name in dict.fromkeys(names) if name in self.columns]
        rows = [row for batch in self._batches(wanted) for row in _in_brief(batch)]
        if together in self.columns:
            members = groupby(enumerate(rows), key=lambda numbered: numbered[1][together])
            return [_brief(self.method, list(numbered), None) for _, numbered in members]
        groups = _groups(rows)
        return [
            _brief(self.method, [(row, rows[row])], (start, end)) for start, end in groups for row in range(start, end)
        ]

    def rows(self, first: int, count: int, columns: Sequence[str] | None = None) -> list[Row]:
        """Some rows whole, as scalars by column."""
        found: list[Row] = []
        for start, batch in self._batches_from(first, columns):
            if start >= first + count:
                break
            for place in range(max(first - start, 0), min(first + count - start, batch.num_rows)):
                found.append({name: batch.column(name)[place] for name in batch.schema.names})
        return found

    def _batches(self, columns: Sequence[str]) -> Iterator[ArrowBatch]:
        for _, batch in self._batches_from(0, columns):
            yield batch

    def _batches_from(self, row: int, columns: Sequence[str] | None) -> Iterator[tuple[int, ArrowBatch]]:
        """Batches with the number of their first row, from that of `row` on."""
        with pq.ParquetFile(self.path) as file:
            groups, start = list(range(file.num_row_groups)), 0
            while groups and start + file.metadata.row_group(groups[0]).num_rows <= row:
                start += file.metadata.row_group(groups.pop(0)).num_rows
            for batch in file.iter_batches(_BATCH, row_groups=groups, columns=columns):
                yield start, batch
                start += batch.num_rows


def opened(path: Path, fallback: Mapping[str, JSON]) -> Inspected:
    """A file, nothing of it read but what it says of itself. Raises DataError for a damaged one.

    One that says nothing is of PPO, as the first version wrote them; the settings of its arithmetic are `fallback`.
    """
    heading = heading_of(path)
    with read_from(path):
        _check(pq.read_schema(path))
    if heading is None:
        step = int(re.sub(r"\D", "", path.stem) or 0)
        return Inspected(path=path, method="ppo", step=step, settings=dict(fallback))
    settings = {name: value if _is_finite(value) else None for name, value in heading.settings.items()}
    return Inspected(path=path, method=heading.method, step=heading.step, settings=settings, pieces=heading.pieces)


def per_token(row: Row) -> dict[str, Scalar]:
    """The columns of a row with one number for each of its answer's tokens."""
    length = len(row["tokens"])
    return {
        name: value
        for name, value in row.items()
        if name not in ("tokens", "prompt_tokens")
        and not _TOP.fullmatch(name)
        and pa.types.is_list(value.type)
        and _is_number(value.type.value_type)
        and value.is_valid
        and len(value) == length
    }


def of_the_answer(row: Row) -> dict[str, Scalar]:
    """The columns of a row with one number for the whole answer, as far as there is one."""
    known = ("sample", "pair", "ranking", "rank", "stopped")
    return {
        name: value for name, value in row.items() if name not in known and _is_number(value.type) and value.is_valid
    }


@contextmanager
def read_from(path: Path) -> Generator[None]:
    """Inside, a file is read. Raises DataError, naming it, for one that holds something other than was written."""
    try:
        yield
    except (*_DAMAGE, pa.ArrowException) as error:
        what = f"damaged: {type(error).__name__}: {error}"
        raise DataError([Problem(place=str(path), what=what, fix="remove it")]) from error


def _is_finite(value: JSON) -> bool:
    """False for a number that JSON does not have, such as the mean of a round that went wrong."""
    return not isinstance(value, float) or math.isfinite(value)


def _check(schema: Scalar) -> None:
    """Raises ValueError where columns are missing that all files have, or are of another kind."""
    for name in _NEEDED:
        if name not in schema.names:
            raise ValueError(f"it has no column {name}")
    for name in ("tokens", "prompt_tokens"):
        kind = schema.field(name).type
        if not (pa.types.is_list(kind) and pa.types.is_integer(kind.value_type)):
            raise ValueError(f"{name} is {kind}, expected lists of token ids")


def _is_number(kind: Scalar) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def _in_brief(batch: ArrowBatch) -> list[dict[str, Any]]:
    """The rows of a batch, of their tokens the number, and of alternatives whether there are any."""
    lists = ("tokens", "actor_top")
    columns = {name: batch.column(name).to_pylist() for name in batch.schema.names if name not in lists}
    columns["length"] = batch.column("tokens").value_lengths().to_pylist()
    if "actor_top" in batch.schema.names:
        columns["alternatives"] = batch.column("actor_top").is_valid().to_pylist()
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _groups(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, int]]:
    """Where the answers to one prompt begin and end: one that is asked again begins with its first sample again."""
    start = 0
    for place in range(1, len(rows) + 1):
        if place < len(rows):
            before, now = rows[place - 1], rows[place]
            same = before["prompt_id"] == now["prompt_id"]
            if same and not now.get("sample", 0) <= before.get("sample", -1):
                continue
        yield start, place
        start = place


def _brief(method: str, members: Sequence[tuple[int, dict[str, Any]]], group: tuple[int, int] | None) -> Brief:
    first, rows = members[0][0], [row for _, row in members]
    score = _spread(rows) if method == "reward" else rows[0].get(_SCORES.get(method, "score"))
    return Brief(
        first=first,
        count=len(rows),
        prompt_id=rows[0]["prompt_id"],
        score=score if score is not None and _is_finite(score) else None,
        length=sum(row["length"] for row in rows),
        group=group or (first, first + len(rows)),
        alternatives=bool(rows[0].get("alternatives", False)),
    )


def _spread(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """By how much the best answer of a ranking is scored above its worst; None where nothing is ranked."""
    ranked = [row for row in rows if row.get("rank") is not None and row.get("score") is not None]
    if len(ranked) < 2:
        return None
    return min(ranked, key=itemgetter("rank"))["score"] - max(ranked, key=itemgetter("rank"))["score"]
