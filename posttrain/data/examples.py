"""Records to token groups of bounded length, with every loss counted; splits that keep a prompt on one side."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from posttrain.errors import DataError, Problem
from posttrain.types import PrefixGroup, RankedRecord, Span

Overlong = Literal["drop", "truncate", "error"]
Item = TypeVar("Item")


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


def within(groups: Sequence[PrefixGroup], limit: int, overlong: Overlong) -> tuple[list[PrefixGroup], Counter[str]]:
    """The conversations of at most `limit` tokens with something to train, and how many were dropped or cut.

    Raises DataError for an overlong one when `overlong` is "error".
    """
    kept: list[PrefixGroup] = []
    losses: Counter[str] = Counter()
    problems: list[Problem] = []
    for group in groups:
        if len(group) > limit:
            losses["truncated" if overlong == "truncate" else "overlong"] += 1
            if overlong == "error":
                problems.append(_too_long(group.id, len(group), limit))
            if overlong != "truncate":
                continue
            group = replace(group, root=_cut(group.root, limit))
        if not any(group.root.trained):
            losses["nothing trained"] += 1
            continue
        kept.append(group)
    if problems:
        raise DataError(problems)
    return kept, losses


def ranked_within(
    records: Sequence[RankedRecord], groups: Sequence[PrefixGroup], limit: int, overlong: Overlong
) -> tuple[list[RankedItem], Counter[str]]:
    """The rankings whose answers fit in `limit` tokens with their prompt, and what was lost.

    `drop` leaves out the answers that are too long, `truncate` cuts them; then answers that became identical to a
    better-ranked one go too, and rankings without a strict pair or weight. Raises DataError when `overlong` is "error".
    """
    kept: list[RankedItem] = []
    losses: Counter[str] = Counter()
    problems: list[Problem] = []
    for record, group in zip(records, groups, strict=True):
        room = limit - len(group.root.tokens)
        if room < 1:
            losses["prompts too long"] += 1
            continue
        longest = max(len(branch.tokens) for branch in group.branches)
        if longest > room and overlong == "error":
            problems.append(_too_long(group.id, len(group.root.tokens) + longest, limit))
            continue
        branches, ranks = _fitting(group, record.ranks, room, overlong, losses)
        if record.weight == 0:
            losses["rankings of weight 0"] += 1
            continue
        if len({rank for rank in ranks if rank is not None}) < 2:
            losses["rankings without a strict pair"] += 1
            continue
        kept.append(
            RankedItem(
                group=replace(group, branches=branches),
                ranks=ranks,
                weight=record.weight,
                margin=record.margin or 0.0,
                annotator=record.annotator,
            )
        )
    if problems:
        raise DataError(problems)
    return kept, losses


def _fitting(
    group: PrefixGroup, ranks: Sequence[int | None], room: int, overlong: Overlong, losses: Counter[str]
) -> tuple[tuple[Span, ...], tuple[int | None, ...]]:
    kept: list[tuple[Span, int | None]] = []
    seen: set[tuple[int, ...]] = set()
    order = sorted(range(len(ranks)), key=lambda place: (ranks[place] is None, ranks[place] or 0))
    chosen: dict[int, Span] = {}
    for place in order:
        span = group.branches[place]
        if len(span.tokens) > room:
            losses["answers truncated" if overlong == "truncate" else "answers too long"] += 1
            if overlong != "truncate":
                continue
            span = _cut(span, room)
        if span.tokens in seen:
            losses["identical answers"] += 1
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


def split(
    items: Sequence[Item], share: float, *, key: Callable[[Item], object], seed: int
) -> tuple[list[Item], list[Item]]:
    """Training and held-out items; `share` of the distinct keys (prompts) is held out, all items of a key together.

    Which ones depends on the key and the seed alone, so that more data leaves the old split as it was.
    """
    train: list[Item] = []
    held: list[Item] = []
    for item in items:
        digest = hashlib.blake2b(f"{seed} {key(item)!r}".encode(), digest_size=8).digest()
        (held if int.from_bytes(digest) / 2**64 < share else train).append(item)
    return train, held
