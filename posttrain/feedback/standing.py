"""What stands of each item, as its events tell it: rankings that count, who passed, and who disagrees.

Held in memory and brought up to date one event at a time, so that whoever asks for the next item or the state of
things waits for no query over all events.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from posttrain.data.feedback_db import EventKind
from posttrain.ops.ranking import agreement, pairs_from_ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of an item without its texts. `answers` is how many it has."""

    id: str
    seed: int
    answers: int
    audit: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """An event. `time` is in seconds since 1970; `order` holds the rows of the answers as they were shown.

    `repeat`: the item had come back to the same person unasked. `undone` is the event that an undo takes back.
    `keyed`: it came by the page, which alone makes keys; what a file or a chat brought has none.
    """

    event: int
    time: float
    item: str
    annotator: str
    kind: EventKind
    ranks: tuple[int | None, ...] = ()
    order: tuple[int, ...] = ()
    repeat: bool = False
    adjudicates: bool = False
    undone: int | None = None
    seconds: float | None = None
    flags: tuple[str, ...] = ()
    keyed: bool = False

    @property
    def is_ranking(self) -> bool:
        """Whether it is a person's own ranking: an adjudication is made in sight of those of others."""
        return self.kind == "rank" and not self.adjudicates


@dataclass(frozen=True, slots=True)
class _Count:
    """Who ranked an item, on how many of the pairs that two of them compared they agree, and how many are opposed.

    Opposed are pairs that two people order strictly and in opposite ways.
    """

    rankers: frozenset[str] = frozenset()
    agreeing: float = 0.0
    compared: int = 0
    opposed: int = 0


class Standing:
    """All items, and the events that no undo took back."""

    def __init__(self) -> None:
        self.items: dict[str, Facts] = {}
        self.ranked: Counter[str] = Counter()  # items by annotator
        self.started = 0  # items that anyone ranked
        self.agreeing, self.compared = 0.0, 0
        self._said: dict[int, Said] = {}
        self._of_item: dict[str, dict[str, list[Said]]] = defaultdict(dict)
        self._of_person: dict[str, list[Said]] = defaultdict(list)
        self._counts: dict[str, _Count] = {}

    # --- taking in ------------------------------------------------------------------------------------------------

    def add(self, item: Facts) -> None:
        """Takes in an item."""
        self.items[item.id] = item

    def apply(self, said: Said) -> None:
        """Takes in an event; they come in the order of their numbers."""
        if said.kind == "undo":
            gone = self._said.pop(said.undone, None) if said.undone is not None else None
            if gone is None:
                return
            _drop(self._of_person[gone.annotator], gone)
            _drop(self._of_item[gone.item][gone.annotator], gone)
        else:
            self._said[said.event] = said
            self._of_person[said.annotator].append(said)
            self._of_item[said.item].setdefault(said.annotator, []).append(said)
        if said.kind in ("rank", "undo"):
            self._count_again(said.item)

    def _count_again(self, item: str) -> None:
        before, after = self._counts.get(item, _Count()), self._counted(item)
        self._counts[item] = after
        self.started += bool(after.rankers) - bool(before.rankers)
        self.ranked.update(after.rankers - before.rankers)
        self.ranked.subtract(before.rankers - after.rankers)
        self.agreeing += after.agreeing - before.agreeing
        self.compared += after.compared - before.compared

    def _counted(self, item: str) -> _Count:
        rankings = self.rankings(item)
        found = [agreement(first.ranks, second.ranks) for first, second in combinations(rankings, 2)]
        return _Count(
            rankers=frozenset(said.annotator for said in rankings),
            agreeing=sum(agreeing for agreeing, _ in found),
            compared=sum(compared for _, compared in found),
            opposed=_opposed(rankings),
        )

    # --- of an item -----------------------------------------------------------------------------------------------

    def rankers(self, item: str) -> frozenset[str]:
        """Who ranked an item."""
        return self._counts.get(item, _Count()).rankers

    def rankings(self, item: str) -> list[Said]:
        """The newest own ranking of each person, in the order in which they were given."""
        newest = [said for said in (self.ranking(item, who) for who in self._of_item.get(item, ())) if said is not None]
        return sorted(newest, key=lambda said: said.event)

    def ranking(self, item: str, annotator: str) -> Said | None:
        """A person's newest own ranking of an item."""
        said = self._of_item.get(item, {}).get(annotator, ())
        return next((each for each in reversed(said) if each.is_ranking), None)

    def done_by(self, item: str, annotator: str) -> bool:
        """Whether a person ranked an item or passed it on."""
        said = self._of_item.get(item, {}).get(annotator, ())
        return any(each.is_ranking or each.kind in ("skip", "cant_judge") for each in said)

    def unable(self, item: str) -> int:
        """How many people said that they can't judge an item, and did not rank it."""
        of_item = self._of_item.get(item, {})
        return sum(
            any(each.kind == "cant_judge" for each in said) and not any(each.is_ranking for each in said)
            for said in of_item.values()
        )

    def touched_by(self, item: str, annotator: str) -> bool:
        """Whether a person said anything of an item that stands."""
        return bool(self._of_item.get(item, {}).get(annotator))

    def twice(self, item: str, annotator: str) -> tuple[Said, Said] | None:
        """A person's last ranking before an item came back to them, and the one after."""
        own = [each for each in self._of_item.get(item, {}).get(annotator, ()) if each.is_ranking]
        again = next((place for place, each in enumerate(own) if each.repeat), 0)
        return (own[again - 1], own[again]) if again else None

    def adjudication(self, item: str) -> Said | None:
        """The newest ranking that settles an item."""
        said = [each for own in self._of_item.get(item, {}).values() for each in own if each.adjudicates]
        return max(said, key=lambda each: each.event, default=None)

    def opposed(self, item: str) -> int:
        """The pairs of an item's answers that two people order strictly and in opposite ways."""
        return self._counts.get(item, _Count()).opposed

    def disputed(self) -> list[str]:
        """The items with opposed pairs, in the order of the items."""
        return [item for item in self.items if self.opposed(item)]

    # --- of a person, and of all ----------------------------------------------------------------------------------

    def newest(self, annotator: str) -> Said | None:
        """A person's newest event of the page that stands: what an undo takes back."""
        return next((said for said in reversed(self._of_person.get(annotator, ())) if said.keyed), None)

    def history(self, annotator: str) -> Sequence[Said]:
        """All that a person said and that stands, in order."""
        return self._of_person.get(annotator, ())

    def annotators(self) -> list[str]:
        """Who said anything that stands, by name."""
        return sorted(name for name, said in self._of_person.items() if said)

    def unjudged(self) -> set[str]:
        """The items of which anyone said that they can't judge them."""
        return {said.item for said in self._said.values() if said.kind == "cant_judge"}

    def said(self) -> Iterator[Said]:
        """All that stands, in order."""
        return iter(self._said.values())


def _drop(said: list[Said], gone: Said) -> None:
    """Takes an event out, which is mostly one of the last."""
    del said[next(place for place in reversed(range(len(said))) if said[place] is gone)]


def _opposed(rankings: Sequence[Said]) -> int:
    if len(rankings) < 2:
        return 0
    strict = [frozenset(pairs_from_ranks(said.ranks).strict) for said in rankings]
    return len({(min(i, j), max(i, j)) for a, b in combinations(strict, 2) for i, j in a if (j, i) in b})
