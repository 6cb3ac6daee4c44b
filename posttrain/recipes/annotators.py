"""Rankings weighed by who made them."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from posttrain.config import Annotators
from posttrain.console import Console
from posttrain.counted import counted
from posttrain.data.examples import RankedItem
from posttrain.data.source import Weighted
from posttrain.data.views import Changed, Chosen
from posttrain.errors import ConfigError, DataError, Problem
from posttrain.recipes.mixture import Mixture


def weighed(found: Mixture[RankedItem], annotators: Annotators, console: Console) -> Mixture[RankedItem]:
    """The rankings with the weight of each times that of its annotator; those of weight 0 are not trained on.

    What is held out keeps all of its rankings: the card tells of every annotator. Raises ConfigError for a name that no
    ranking has, and DataError when no ranking is left.
    """
    weights, others = annotators.weights, annotators.others
    if not weights and others == 1:
        return found
    who = [[item.annotator for item in part.items] for part in found.sets]
    count = Counter(name for names in who for name in names)
    _refuse_unknown(weights, {*count, *(item.annotator for item in found.held)})
    console.say(f"annotators: {_told(count, annotators)}")

    def weight(item: RankedItem) -> float:
        return others if item.annotator is None else weights.get(item.annotator, others)

    def changed(items: Sequence[RankedItem]) -> Sequence[RankedItem]:
        return Changed(items, lambda place, item: replace(item, weight=item.weight * weight(item)))

    sets: list[Weighted[RankedItem]] = []
    for part, names in zip(found.sets, who, strict=True):
        own = [others if name is None else weights.get(name, others) for name in names]
        places = np.flatnonzero(np.array(own))
        sets.append(replace(part, items=changed(part.items if len(places) == len(own) else Chosen(part.items, places))))
    if not any(len(part.items) for part in sets):
        raise DataError("every annotator has weight 0: no ranking is left to train on\n  fix: raise annotators.others")
    return replace(found, sets=sets, held=changed(found.held))


def _refuse_unknown(weights: Mapping[str, float], known: set[str | None]) -> None:
    names = sorted(name for name in known if name is not None)
    there = ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "none"
    problems: list[Problem] = []
    for name in weights:
        if name in known:
            continue
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
        meant = f"did you mean {near[0]}?" if near else f"there are {there}"
        problems.append(Problem(place="annotators.weights", what=f"no ranking is by '{name}'; {meant}"))
    if problems:
        raise ConfigError(problems)


def _told(count: Mapping[str | None, int], annotators: Annotators) -> str:
    """`anna 40 rankings x 2, ben 12 rankings left out, 5 rankings of others x 1`."""
    parts = [
        f"{name} {counted(count[name], 'ranking')} {_times(weight)}" for name, weight in annotators.weights.items()
    ]
    rest = sum(number for name, number in count.items() if name not in annotators.weights)
    if rest:
        parts.append(f"{counted(rest, 'ranking')} of others {_times(annotators.others)}")
    return ", ".join(parts)


def _times(weight: float) -> str:
    return f"x {weight:g}" if weight else "left out"
