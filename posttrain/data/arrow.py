"""Rows of tokens as the columns of an Arrow table, and back."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from posttrain.data.examples import LabelledItem, RankedItem, TargetItem
from posttrain.spans import PrefixGroup, Span

ItemT = TypeVar("ItemT")
# pyarrow has no types of its own.
ArrowSchema: TypeAlias = Any
ArrowBatch: TypeAlias = Any
ArrowArray: TypeAlias = Any


class Row(NamedTuple, Generic[ItemT]):
    """A row to write. `prompt` and `content`: hashes of 64 bits, of what is asked and of all that was read."""

    item: ItemT
    prompt: int
    content: int


@dataclass(frozen=True, kw_only=True)
class Layout(Generic[ItemT]):
    """How items stand in a table: their tokens in the columns of all, the rest in `more` columns of their own."""

    group: Callable[[ItemT], PrefixGroup]
    more: ArrowSchema
    rest: Callable[[Sequence[ItemT]], list[ArrowArray]]
    item: Callable[[PrefixGroup, ArrowBatch, int], ItemT]

    @property
    def schema(self) -> ArrowSchema:
        """The columns of a file."""
        return pa.schema([*_COLUMNS, *self.more])


_COLUMNS = (
    pa.field("id", pa.string()),
    pa.field("tokens", pa.large_list(pa.int32())),
    pa.field("trained", pa.large_list(pa.bool_())),
    pa.field("spans", pa.list_(pa.int32())),
    pa.field("prompt", pa.uint64()),
    pa.field("content", pa.uint64()),
)


@dataclass(slots=True)
class Buffer(Generic[ItemT]):
    """The rows of one batch, their tokens as plain numbers end to end."""

    ids: list[str] = field(default_factory=list[str])
    tokens: array[int] = field(default_factory=lambda: array("i"))
    trained: array[int] = field(default_factory=lambda: array("b"))
    ends: list[int] = field(default_factory=lambda: [0])
    spans: list[list[int]] = field(default_factory=list[list[int]])
    prompts: list[int] = field(default_factory=list[int])
    contents: list[int] = field(default_factory=list[int])
    rest: list[ItemT] = field(default_factory=list[ItemT])

    def add(self, group: PrefixGroup, row: Row[ItemT]) -> None:
        """Adds a row, whose tokens are those of `group`."""
        for span in (group.root, *group.branches):
            self.tokens.extend(span.tokens)
            self.trained.extend(span.trained)
        self.ids.append(group.id)
        self.ends.append(len(self.tokens))
        self.spans.append([len(span.tokens) for span in (group.root, *group.branches)])
        self.prompts.append(row.prompt)
        self.contents.append(row.content)
        self.rest.append(row.item)

    def batch(self, layout: Layout[ItemT]) -> ArrowBatch:
        """The rows as they are written."""
        ends = pa.array(self.ends, pa.int64())
        tokens = pa.array(np.frombuffer(self.tokens, np.int32), pa.int32())
        trained = pa.array(np.frombuffer(self.trained, np.int8).astype(bool))
        columns = [
            _texts(self.ids),
            pa.LargeListArray.from_arrays(ends, tokens),
            pa.LargeListArray.from_arrays(ends, trained),
            pa.array(self.spans, pa.list_(pa.int32())),
            pa.array(self.prompts, pa.uint64()),
            pa.array(self.contents, pa.uint64()),
        ]
        return pa.RecordBatch.from_arrays([*columns, *layout.rest(self.rest)], schema=layout.schema)


def checked(batch: ArrowBatch) -> int:
    """The number of rows of a batch that was read. Raises ValueError when its columns do not fit together.

    Only offsets and ids are looked at, however many tokens there are.
    """
    batch.validate(full=True)
    tokens, trained, spans = (batch.column(name) for name in ("tokens", "trained", "spans"))
    single = [field for field in batch.schema if field in _COLUMNS or pa.types.is_primitive(field.type)]
    if any(batch.column(field.name).null_count for field in single) or any(
        column.values.null_count for column in (tokens, trained, spans)
    ):
        raise ValueError("a row has nothing where something was written")
    lengths = np.diff(numbers(tokens.offsets))
    ends = np.concatenate([[0], np.cumsum(numbers(spans.values))])
    told = np.diff(ends[numbers(spans.offsets)])
    if not (np.array_equal(lengths, np.diff(numbers(trained.offsets))) and np.array_equal(lengths, told)):
        raise ValueError("a row has another number of tokens than its parts")
    return int(batch.num_rows)


def numbers(column: ArrowArray) -> NDArray[Any]:
    """A column of numbers without gaps, over its own memory; `np.asarray` would import pandas first, where it is."""
    return np.from_dlpack(column)


def group_at(batch: ArrowBatch, row: int) -> PrefixGroup:
    """The tokens of a row of a batch."""
    tokens: list[int] = numbers(batch.column("tokens")[row].values).tolist()
    trained: list[bool] = numbers(batch.column("trained")[row].values.cast(pa.int8())).astype(bool).tolist()
    lengths: list[int] = numbers(batch.column("spans")[row].values).tolist()
    ends = list(accumulate(lengths))
    root, *branches = (
        Span(tokens=tuple(tokens[start:end]), trained=tuple(trained[start:end]))
        for start, end in zip(chain([0], ends), ends, strict=False)
    )
    return PrefixGroup(id=cast("str", batch.column("id")[row].as_py()), root=root, branches=tuple(branches))


def _texts(values: Sequence[str | None]) -> ArrowArray:
    """Texts as a column; a lone surrogate, which no file can hold, becomes a question mark."""
    return pa.array([value and value.encode("utf-8", "replace").decode() for value in values], pa.string())


def _same(group: PrefixGroup, batch: ArrowBatch, row: int) -> PrefixGroup:
    return group


def _nothing(groups: Sequence[PrefixGroup]) -> list[ArrowArray]:
    return []


GROUPS: Layout[PrefixGroup] = Layout(
    group=lambda group: group,
    more=pa.schema([]),
    rest=_nothing,
    item=_same,
)
"""Conversations and texts."""


def _rest_of_rankings(items: Sequence[RankedItem]) -> list[ArrowArray]:
    return [
        pa.array([list(item.ranks) for item in items], pa.list_(pa.int32())),
        pa.array([item.weight for item in items], pa.float64()),
        pa.array([item.margin for item in items], pa.float64()),
        _texts([item.annotator for item in items]),
    ]


def _ranking(group: PrefixGroup, batch: ArrowBatch, row: int) -> RankedItem:
    return RankedItem(
        group=group,
        ranks=tuple(batch.column("ranks")[row].as_py()),
        weight=batch.column("weight")[row].as_py(),
        margin=batch.column("margin")[row].as_py(),
        annotator=batch.column("annotator")[row].as_py(),
    )


RANKINGS: Layout[RankedItem] = Layout(
    group=lambda item: item.group,
    more=pa.schema(
        [
            pa.field("ranks", pa.list_(pa.int32())),
            pa.field("weight", pa.float64()),
            pa.field("margin", pa.float64()),
            pa.field("annotator", pa.string()),
        ]
    ),
    rest=_rest_of_rankings,
    item=_ranking,
)
"""Rankings; what a reference says of them is not kept."""


def _rest_of_labels(items: Sequence[LabelledItem]) -> list[ArrowArray]:
    return [
        pa.array([list(item.labels) for item in items], pa.list_(pa.bool_())),
        pa.array([sum(item.labels) for item in items], pa.int32()),
        pa.array([len(item.labels) for item in items], pa.int32()),
        pa.array([item.weight for item in items], pa.float64()),
    ]


def _labelled(group: PrefixGroup, batch: ArrowBatch, row: int) -> LabelledItem:
    labels: list[bool] = batch.column("labels")[row].as_py()
    return LabelledItem(group=group, labels=tuple(labels), weight=batch.column("weight")[row].as_py())


LABELS: Layout[LabelledItem] = Layout(
    group=lambda item: item.group,
    more=pa.schema(
        [
            pa.field("labels", pa.list_(pa.bool_())),
            pa.field("good", pa.int32()),
            pa.field("answers", pa.int32()),
            pa.field("weight", pa.float64()),
        ]
    ),
    rest=_rest_of_labels,
    item=_labelled,
)
"""Labelled answers, with how many of a row's there are and how many are good."""


def _rest_of_targets(items: Sequence[TargetItem]) -> list[ArrowArray]:
    return [
        _texts([item.label for item in items]),
        pa.array([item.number for item in items], pa.bool_()),
    ]


def _label(group: PrefixGroup, batch: ArrowBatch, row: int) -> TargetItem:
    return TargetItem(
        group=group,
        label=batch.column("label")[row].as_py(),
        number=batch.column("number")[row].as_py(),
    )


TARGETS: Layout[TargetItem] = Layout(
    group=lambda item: item.group,
    more=pa.schema([pa.field("label", pa.string()), pa.field("number", pa.bool_())]),
    rest=_rest_of_targets,
    item=_label,
)
"""Sequences with a label; what a task makes of the labels is not kept."""
