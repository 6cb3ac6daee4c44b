"""Records to token groups of bounded length, with every loss counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from posttrain.errors import DataError, Problem
from posttrain.records import LabelledRecord, RankedRecord, TargetRecord
from posttrain.spans import PrefixGroup, Span

Overlong = Literal["drop", "truncate", "error"]
MOST_PROBLEMS = 10_000
"""Problems of a pass that are kept; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedItem:
    """A prompt with its ranked answers as tokens; `reference` holds their summed reference log-probs once computed."""

    group: PrefixGroup
    ranks: tuple[int | None, ...]
    weight: float
    margin: float
    annotator: str | None
    reference: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.group)

    @property
    def top(self) -> int:
        """The rank of the best answers."""
        return min(rank for rank in self.ranks if rank is not None)

    @property
    def best_tokens(self) -> int:
        """The number of tokens of the best answers."""
        answers = zip(self.ranks, self.group.branches, strict=True)
        return sum(len(answer.tokens) for rank, answer in answers if rank == self.top)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledItem:
    """A prompt with answers found good (True) or bad; `reference` as in `RankedItem`."""

    group: PrefixGroup
    labels: tuple[bool, ...]
    weight: float
    reference: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.group)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetItem:
    """A labelled sequence as tokens. `number`: the label is a number, or spells one.

    `target` is the number of its class or its value, once the task is known.
    """

    group: PrefixGroup
    label: str
    number: bool
    target: float | None = None

    def __len__(self) -> int:
        return len(self.group)


@dataclass(slots=True)
class Lost:
    """What a pass over a data set lost, counted. `shortest`: the tokens of the shortest row that was too long.

    `problems`: the first of those that are errors, of `refused` altogether.
    """

    counts: Counter[str] = field(default_factory=Counter[str])
    shortest: int | None = None
    refused: int = 0
    problems: list[Problem] = field(default_factory=list[Problem])

    def too_long(self, length: int, what: str) -> None:
        """Counts a row of `length` tokens under `what`."""
        self.counts[what] += 1
        self.shortest = length if self.shortest is None else min(length, self.shortest)

    def refuse(self, row: str, length: int, limit: int) -> None:
        """Notes a row whose length is an error."""
        self.refused += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(_too_long(row, length, limit))

    def check(self) -> None:
        """Raises DataError when a length was an error."""
        if self.problems:
            raise DataError(self.problems)


def fitted(group: PrefixGroup, limit: int, overlong: Overlong, lost: Lost) -> PrefixGroup | None:
    """The conversation in at most `limit` tokens, or None when it is too long or trains nothing; counted in `lost`."""
    if len(group) > limit:
        lost.too_long(len(group), "truncated" if overlong == "truncate" else "overlong")
        if overlong == "error":
            lost.refuse(group.id, len(group), limit)
        if overlong != "truncate":
            return None
        group = replace(group, root=_cut(group.root, limit))
    if not any(group.root.trained):
        lost.counts["nothing trained"] += 1
        return None
    return group


def target_fitted(
    record: TargetRecord, tokens: Sequence[int], limit: int, overlong: Overlong, lost: Lost
) -> TargetItem | None:
    """The sequence in at most `limit` tokens with its label, or None when it is too long; counted in `lost`."""
    if len(tokens) > limit:
        lost.too_long(len(tokens), "truncated" if overlong == "truncate" else "overlong")
        if overlong == "error":
            lost.refuse(record.id, len(tokens), limit)
        if overlong != "truncate":
            return None
    group = PrefixGroup(id=record.id, root=Span.all(tokens[:limit], trained=False))
    return TargetItem(group=group, label=record.label, number=record.number)


def within(groups: Sequence[PrefixGroup], limit: int, overlong: Overlong) -> tuple[list[PrefixGroup], Counter[str]]:
    """The conversations of at most `limit` tokens with something to train, and how many were dropped or cut.

    Raises DataError for an overlong one when `overlong` is "error".
    """
    lost = Lost()
    kept = [group for given in groups if (group := fitted(given, limit, overlong, lost)) is not None]
    lost.check()
    return kept, lost.counts


def ranked_fitted(
    record: RankedRecord, group: PrefixGroup, limit: int, overlong: Overlong, lost: Lost
) -> RankedItem | None:
    """The ranking with its answers in at most `limit` tokens with their prompt; None when it can teach nothing.

    `drop` leaves out the answers that are too long, `truncate` cuts them; then answers that became identical to a
    better-ranked one go too, and rankings without a strict pair or weight. Counted in `lost`.
    """
    prompt = len(group.root.tokens)
    lengths = [prompt + len(branch.tokens) for branch in group.branches]
    if prompt >= limit:
        lost.too_long(min(lengths, default=prompt), "prompts too long")
        return None
    if max(lengths, default=0) > limit and overlong == "error":
        lost.refuse(group.id, max(lengths), limit)
        return None
    branches, ranks = _fitting(group, record.ranks, limit - prompt, overlong, lost)
    if record.weight == 0:
        lost.counts["rankings of weight 0"] += 1
        return None
    if len({rank for rank in ranks if rank is not None}) < 2:
        lost.counts["rankings without a strict pair"] += 1
        return None
    return RankedItem(
        group=replace(group, branches=branches),
        ranks=ranks,
        weight=record.weight,
        margin=record.margin or 0.0,
        annotator=record.annotator,
    )


def labelled_fitted(
    record: LabelledRecord, group: PrefixGroup, limit: int, overlong: Overlong, lost: Lost
) -> LabelledItem | None:
    """The labelled answers in at most `limit` tokens with their prompt; None when none is left. Counted in `lost`."""
    prompt = len(group.root.tokens)
    lengths = [prompt + len(branch.tokens) for branch in group.branches]
    if prompt >= limit:
        lost.too_long(min(lengths), "prompts too long")
        return None
    if max(lengths) > limit and overlong == "error":
        lost.refuse(group.id, max(lengths), limit)
        return None
    # 1 before 2: of two answers that cutting makes identical the good one stays.
    branches, ranks = _fitting(group, [1 if good else 2 for good in record.labels], limit - prompt, overlong, lost)
    if record.weight == 0:
        lost.counts["rows of weight 0"] += 1
        return None
    if not branches:
        return None
    labels = tuple(rank == 1 for rank in ranks)
    return LabelledItem(group=replace(group, branches=branches), labels=labels, weight=record.weight)


def labelled_of(record: RankedRecord, lost: Lost) -> LabelledRecord | None:
    """What a ranking says of single answers: the first tier is good, the last one bad, and the rest is left out.

    None for a ranking of one tier. Counted in `lost`.
    """
    given = [rank for rank in record.ranks if rank is not None]
    best, worst = min(given, default=0), max(given, default=0)
    if best == worst:
        lost.counts["rankings without a strict pair"] += 1
        return None
    kept = [place for place, rank in enumerate(record.ranks) if rank in (best, worst)]
    lost.counts["answers between best and worst"] += len(record.ranks) - len(kept)
    return LabelledRecord(
        id=record.id,
        prompt=record.prompt,
        responses=tuple(record.responses[place] for place in kept),
        labels=tuple(record.ranks[place] == best for place in kept),
        stopped=None if record.stopped is None else tuple(record.stopped[place] for place in kept),
        weight=record.weight,
        annotator=record.annotator,
    )


def ranked_within(
    records: Sequence[RankedRecord], groups: Sequence[PrefixGroup], limit: int, overlong: Overlong
) -> tuple[list[RankedItem], Counter[str]]:
    """The rankings that `ranked_fitted` keeps, and what was lost.

    Raises DataError for an answer that is too long when `overlong` is "error".
    """
    lost = Lost()
    pairs = zip(records, groups, strict=True)
    kept = [item for one, group in pairs if (item := ranked_fitted(one, group, limit, overlong, lost)) is not None]
    lost.check()
    return kept, lost.counts


def _fitting(
    group: PrefixGroup, ranks: Sequence[int | None], room: int, overlong: Overlong, lost: Lost
) -> tuple[tuple[Span, ...], tuple[int | None, ...]]:
    kept: list[tuple[Span, int | None]] = []
    seen: set[tuple[int, ...]] = set()
    order = sorted(range(len(ranks)), key=lambda place: (ranks[place] is None, ranks[place] or 0))
    chosen: dict[int, Span] = {}
    for place in order:
        span = group.branches[place]
        if len(span.tokens) > room:
            what = "answers truncated" if overlong == "truncate" else "answers too long"
            lost.too_long(len(group.root.tokens) + len(span.tokens), what)
            if overlong != "truncate":
                continue
            span = _cut(span, room)
        if span.tokens in seen:
            lost.counts["identical answers"] += 1
            continue
        seen.add(span.tokens)
        chosen[place] = span
    kept = [(chosen[place], ranks[place]) for place in range(len(ranks)) if place in chosen]
    return tuple(span for span, _ in kept), tuple(rank for _, rank in kept)


def _cut(span: Span, length: int) -> Span:
    return Span(tokens=span.tokens[:length], trained=span.trained[:length])


def _too_long(row: str, length: int, limit: int) -> Problem:
    return Problem(
        place=row,
        what=f"{length} tokens are more than max_length {limit}",
        fix="raise max_length, or set overlong to drop or truncate",
    )
