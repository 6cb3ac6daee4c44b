"""The state of a ranking: how far it is and how fast, who did what, how far people agree, and what draws them.

Read over a connection of its own, beside the one thread that writes: nobody waits for it.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from statistics import median
from string import ascii_lowercase
from threading import Lock
from typing import TypeAlias

from posttrain.data import feedback_db
from posttrain.feedback.actions import Told, shown_answers, tiers_of
from posttrain.feedback.assigning import Rules
from posttrain.feedback.mirror import Mirror
from posttrain.feedback.standing import Said, Standing
from posttrain.measures.agreement import (
    Estimate,
    first_wins,
    longer_wins,
    pairwise_agreement,
    pairwise_alpha,
    self_agreement,
)
from posttrain.ops.ranking import agreement
from posttrain.records import JSON

_PAUSE = 600.0  # seconds without a ranking that are no work
_HOUR = 3600.0
_EXCERPT = 120
_CHEAP, _REST = 0.05, 10  # seconds that may be spent at any time; from there on the share of time is one in eleven
_AT_ONCE = 500  # names in one query
_LENGTHS = """
SELECT items.id, json_group_array(length(json_extract(value, '$.text'))) FROM items, json_each(items.responses)
WHERE items.id IN ({}) GROUP BY items.id
"""


_Both: TypeAlias = tuple[tuple[int | None, ...], tuple[int | None, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What was measured up to an event, and when, in seconds of a clock that never goes back."""

    told: Told
    event: int
    began: float
    ended: float

    def is_old(self) -> bool:
        """Whether it is time to measure again: a large store is not measured all the time while people wait."""
        cost = self.ended - self.began
        return cost < _CHEAP or time.monotonic() - self.ended > _REST * cost


class Overview:
    """What a store says when it is read as a whole; safe to ask from several threads."""

    def __init__(self, path: Path, rules: Rules, *, clock: Callable[[], float] = time.time) -> None:
        self._rules = rules
        self._clock = clock
        self._lock = Lock()
        self._connection = feedback_db.reader(path)
        self._mirror = Mirror(self._connection)
        self._lengths: dict[str, list[int]] = {}
        self._found: _Found | None = None
        self._twice: list[str] = []  # the items that are for two people

    def close(self) -> None:
        """Closes the store."""
        with self._lock:
            self._connection.close()

    def statistics(self) -> Told:
        """All of it, as the page of statistics is told."""
        with self._lock:
            new, _ = self._mirror.catch_up()
            if new:
                self._twice = [item for item in self._mirror.standing.items if self._rules.needs(item) > 1]
            if self._found is None or (self._found.event != self._mirror.last_event and self._found.is_old()):
                began = time.monotonic()
                told = self._measured()
                self._found = _Found(told=told, event=self._mirror.last_event, began=began, ended=time.monotonic())
            return {**self._found.told, **self._progress(), **self._pace()}

    def disputes(self, item: str | None = None) -> Told:
        """The items on which people disagree, and one of them with everyone's rankings: the first that nobody settled.

        Models stay unnamed here too.
        """
        with self._lock:
            self._mirror.catch_up()
            standing = self._mirror.standing
            listed = standing.disputed()
            unsettled = (each for each in listed if standing.adjudication(each) is None)
            chosen = item if item in listed else next(unsettled, None)
            shown = None if chosen is None else self._dispute(chosen)
            return {"disputed": [self._listed(each) for each in listed], "item": shown}

    # --- inside ---------------------------------------------------------------------------------------------------

    def _measured(self) -> Told:
        standing = self._mirror.standing
        rankings = {item: standing.rankings(item) for item in standing.items}
        ranked = {item: said for item, said in rankings.items() if said}
        self._read_lengths([item for item in ranked if item not in self._lengths])
        orders = [[(said.ranks, said.order) for said in several if said.order] for several in ranked.values()]
        lengths = [[(said.ranks, self._lengths[item]) for said in several] for item, several in ranked.items()]
        of_prompts = [[said.ranks for said in several] for several in ranked.values()]
        compared = _compared(ranked.values())
        return {
            "alpha": _facts(pairwise_alpha(of_prompts)),
            "agreement": _facts(pairwise_agreement(of_prompts)),
            "self_consistency": _facts(self_agreement(_of_items(_twice(standing)))),
            "position_bias": _facts(first_wins(orders)),
            "length_bias": _facts(longer_wins(lengths)),
            "annotators": [_person(standing, name, compared.get(name, ())) for name in standing.annotators()],
            "disputed": [self._listed(item) for item in standing.disputed()],
            "adjudications": [
                {"item": said.item, "annotator": said.annotator} for said in standing.said() if said.adjudicates
            ],
            "flags": dict(Counter(flag for said in standing.said() for flag in said.flags)),
        }

    def _progress(self) -> Told:
        standing = self._mirror.standing
        kinds = Counter(said.kind for said in standing.said())
        return {
            "progress": {
                "done": standing.started,
                "of": len(standing.items),
                "rankings": standing.ranked.total(),
                "second": {
                    "done": sum(len(standing.rankers(item)) > 1 for item in self._twice),
                    "of": len(self._twice),
                },
                "skipped": kinds["skip"],
                "cant_judge": kinds["cant_judge"],
                "closed": sum(standing.unable(item) >= self._rules.needs(item) for item in standing.unjudged()),
                "audit": sum(item.audit for item in standing.items.values()),
            }
        }

    def _pace(self) -> Told:
        """Rankings in the last hour, and how many an hour of work brings: long pauses are no work."""
        times = [said.time for said in self._mirror.standing.said() if said.is_ranking]
        gaps = [later - earlier for earlier, later in pairwise(times) if later - earlier <= _PAUSE]
        worked = sum(gaps)
        return {
            "last_hour": sum(time > self._clock() - _HOUR for time in times),
            "pace_per_hour": len(gaps) / worked * _HOUR if worked > 0 else None,
        }

    def _read_lengths(self, items: Sequence[str]) -> None:
        for first in range(0, len(items), _AT_ONCE):
            some = items[first : first + _AT_ONCE]
            query = _LENGTHS.format(", ".join("?" * len(some)))
            for item, lengths in self._connection.execute(query, some):
                self._lengths[item] = [int(length) for length in lengths.strip("[]").split(",")]

    def _listed(self, item: str) -> Told:
        standing = self._mirror.standing
        settled = standing.adjudication(item)
        prompt, _ = feedback_db.texts(self._connection, item)
        last = " ".join(str(prompt[-1].get("content")).split()) if prompt else ""
        return {
            "id": item,
            "prompt": last if len(last) <= _EXCERPT else f"{last[: _EXCERPT - 1]}…",
            "annotators": [said.annotator for said in standing.rankings(item)],
            "pairs": standing.opposed(item),
            "adjudicated": None if settled is None else settled.annotator,
        }

    def _dispute(self, item: str) -> Told:
        standing = self._mirror.standing
        letters = dict(zip(range(standing.items[item].answers), ascii_lowercase, strict=False))
        settled = standing.adjudication(item)
        return {
            **shown_answers(item, *feedback_db.texts(self._connection, item), letters),
            "rankings": [_ranking(said, letters) for said in standing.rankings(item)],
            "adjudicated": None if settled is None else _ranking(settled, letters),
        }


def _compared(rankings: Iterable[Sequence[Said]]) -> dict[str, list[tuple[float, int]]]:
    """Of each person the agreement with every other one on every item that both ranked."""
    found: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for several in rankings:
        for first, second in combinations(several, 2):
            both = agreement(first.ranks, second.ranks)
            found[first.annotator].append(both)
            found[second.annotator].append(both)
    return found


def _person(standing: Standing, name: str, others: Sequence[tuple[float, int]]) -> Told:
    """What a person did, how long a ranking takes them, and how far they agree with others and with themselves."""
    history = standing.history(name)
    kinds = Counter(said.kind for said in history)
    seconds = [said.seconds for said in history if said.is_ranking and said.seconds is not None]
    return {
        "name": name,
        "ranked": standing.ranked[name],
        "skipped": kinds["skip"],
        "cant_judge": kinds["cant_judge"],
        "flags": kinds["flag"],
        "notes": kinds["note"],
        "median_seconds": median(seconds) if seconds else None,
        "agreement": _share(others),
        "self_consistency": _share([agreement(*both) for _, both in _twice(standing, name)]),
    }


def _of_items(twice: Iterable[tuple[str, _Both]]) -> Iterable[list[_Both]]:
    """The same by item: of each what all said twice."""
    found: dict[str, list[_Both]] = defaultdict(list)
    for item, both in twice:
        found[item].append(both)
    return found.values()


def _twice(standing: Standing, only: str | None = None) -> Iterator[tuple[str, _Both]]:
    """Each item that came back to a person, with their two rankings of it."""
    for name in standing.annotators() if only is None else [only]:
        for item in dict.fromkeys(said.item for said in standing.history(name) if said.repeat):
            both = standing.twice(item, name)
            if both is not None:
                yield item, (both[0].ranks, both[1].ranks)


def _share(compared: Sequence[tuple[float, int]]) -> float | None:
    cases = sum(count for _, count in compared)
    return sum(agreeing for agreeing, _ in compared) / cases if cases else None


def _facts(estimate: Estimate | None) -> JSON:
    return None if estimate is None else {**estimate.facts()}


def _ranking(said: Said, letters: Mapping[int, str]) -> Told:
    return {"annotator": said.annotator, "tiers": tiers_of(said.ranks, letters)}
