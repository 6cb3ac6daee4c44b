"""Who gets which item next: a seeded order, locks, second opinions, and some items a second time.

Everything that is chosen at random is chosen by a hash of the seed and the item, so that it is the same after a restart
and more items leave the old choices as they were.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from posttrain.data.comparisons import MOST_RANKED
from posttrain.data.split import hash_of
from posttrain.feedback.standing import Facts, Standing

REPEATED_AFTER = 10
"""Other items between a ranking and the same item again: enough to forget the order that one gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How items are handed out. `hold` is in seconds.

    `overlap`: the share of items that go to two people. `repeat`: the share of a person's items that come back to
    them. `unsure`: of some items, how unsure a reward model is of the order of their answers; a share `uncertain` of
    the items handed out are the most unsure ones, and the others come in random order.
    """

    seed: int = 0
    overlap: float = 0.2
    repeat: float = 0.05
    hold: float = 600.0
    uncertain: float = 0.0
    unsure: Mapping[str, float] = field(default_factory=dict[str, float])

    def needs(self, item: str) -> int:
        """How many people an item is for: once so many ranked it, or said that they can't judge it, it is closed."""
        return 2 if chosen(self.overlap, self.seed, "overlap", item) else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """What was last put before a person, and until when (seconds since 1970) it is held for them.

    `round` counts how often it came back to them.
    """

    item: str
    annotator: str
    round: int
    until: float


def chosen(share: float, *key: object) -> bool:
    """Whether something falls into a share of all, by its hash."""
    return hash_of(key) < share * 2**64


def shown_order(seed: int, annotator: str, round: int, answers: int) -> list[int]:
    """The rows of an item's answers as a person sees them; when it comes back, the other way round."""
    rows = list(range(answers))
    random.Random(hash_of((seed, annotator))).shuffle(rows)
    return rows[::-1] if round % 2 else rows


def in_order(items: Iterable[Facts], rules: Rules) -> list[str]:
    """The ids of the items that can be ranked, as they are handed out; audit items come in random order alone."""
    able = [item for item in items if 2 <= item.answers <= MOST_RANKED]
    mixed = sorted((item.id for item in able), key=lambda item: hash_of((rules.seed, "order", item)))
    audits = {item.id for item in able if item.audit}
    unsure = [item for item in mixed if item in rules.unsure and item not in audits]
    unsure.sort(key=lambda item: -rules.unsure[item])
    if not rules.uncertain or not unsure:
        return mixed
    return list(_merged(iter(unsure), iter(mixed), len(mixed), rules))


def _merged(unsure: Iterator[str], mixed: Iterator[str], count: int, rules: Rules) -> Iterator[str]:
    taken: set[str] = set()
    for place in range(count):
        first = unsure if chosen(rules.uncertain, rules.seed, "choice", place) else mixed
        found = next((item for item in first if item not in taken), None) or next(
            item for item in mixed if item not in taken
        )
        taken.add(found)
        yield found


class Assignment:
    """Hands out items of a standing; `look_again` after each change of it."""

    def __init__(self, standing: Standing, rules: Rules) -> None:
        self.rules = rules
        self._standing = standing
        self._order: list[str] = []
        self._place: dict[str, int] = {}
        self._open: list[int] = []  # places of the items that want more rankings
        self._needs: dict[str, int] = {}
        self._comes_back: dict[tuple[str, str], bool] = {}

    def arrange(self, first: Set[str] = frozenset()) -> None:
        """Puts all items in order, those in `first` before the others: at first, and when there are more."""
        mixed = in_order(self._standing.items.values(), self.rules)
        self._order = sorted(mixed, key=lambda item: item not in first)
        self._place = {item: place for place, item in enumerate(self._order)}
        self._needs = {item: self.rules.needs(item) for item in self._standing.items}
        self._open = [place for place, item in enumerate(self._order) if self._wants_more(item)]

    def look_again(self, item: str) -> None:
        """Sees whether an item of which something was said or undone wants more rankings."""
        place = self._place.get(item)
        if place is None:
            return
        at = bisect_left(self._open, place)
        is_open = at < len(self._open) and self._open[at] == place
        if is_open and not self._wants_more(item):
            del self._open[at]
        elif not is_open and self._wants_more(item):
            insort(self._open, place)

    def offered(self, annotator: str, held: Sequence[Showing]) -> tuple[str, int] | None:
        """The item for a person and its round, or None when there is none for them now.

        `held`: all that is held now, for whomever. An item that is held for them is offered again.
        """
        own = next((each for each in held if each.annotator == annotator), None)
        if own is not None and (own.round or not self._standing.done_by(own.item, annotator)):
            return own.item, own.round
        again = self._repeated(annotator)
        if again is not None:
            return again, 1
        by_item = _holders(held)
        for place in self._open:
            item = self._order[place]
            if not self._standing.done_by(item, annotator) and self._has_room(item, annotator, by_item):
                return item, 0
        return None

    def has_room(self, item: str, annotator: str, held: Sequence[Showing]) -> bool:
        """Whether an item wants a ranking of this person beside those of others that are there or on their way."""
        return self._has_room(item, annotator, _holders(held))

    def is_full(self, item: str, annotator: str) -> bool:
        """Whether others gave all the rankings that an item wants."""
        return len(self._standing.rankers(item) - {annotator}) >= self._needs[item]

    def waits_for_others(self, annotator: str) -> bool:
        """Whether an item that this person has not done wants more rankings: others hold it."""
        return any(not self._standing.done_by(self._order[place], annotator) for place in self._open)

    def _has_room(self, item: str, annotator: str, held: Mapping[str, set[str]]) -> bool:
        there = (self._standing.rankers(item) | held.get(item, set())) - {annotator}
        return len(there) < self._needs[item]

    def _wants_more(self, item: str) -> bool:
        needs = self._needs[item]
        return len(self._standing.rankers(item)) < needs and self._standing.unable(item) < needs

    def _repeated(self, annotator: str) -> str | None:
        """The first item of a person's share that is to come back to them and has not."""
        ranked = [said for said in self._standing.history(annotator) if said.is_ranking and not said.repeat]
        for said in ranked[: -REPEATED_AFTER or None]:
            if self._is_to_come_back(annotator, said.item) and self._standing.twice(said.item, annotator) is None:
                return said.item
        return None

    def _is_to_come_back(self, annotator: str, item: str) -> bool:
        key = annotator, item
        if key not in self._comes_back:
            self._comes_back[key] = chosen(self.rules.repeat, self.rules.seed, "repeat", annotator, item)
        return self._comes_back[key]


def _holders(held: Iterable[Showing]) -> dict[str, set[str]]:
    """Who holds each item."""
    found: dict[str, set[str]] = defaultdict(set)
    for each in held:
        found[each.item].add(each.annotator)
    return found
