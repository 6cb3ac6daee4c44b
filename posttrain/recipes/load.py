"""What a run puts on its machine: the tokens of a micro-batch, and the worst step that will come."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from torch import nn

from posttrain.data.pack import Budget
from posttrain.data.source import EpochSource, Weighted
from posttrain.data.store import lengths_of
from posttrain.recipes.setup import Machine
from posttrain.types import Step

ItemT = TypeVar("ItemT", bound=Sized)

# More tokens at once make a laptop no faster; a large GPU is busy from some thirty thousand on.
_AUTOMATIC = {"cpu": 8192, "cuda": 32768}


def budget_of(setting: int | Literal["auto"], where: Machine) -> Budget:
    """The setting, or where it is automatic the most that keeps the machine busy, until the preflight picks."""
    if setting == "auto":
        return Budget(_AUTOMATIC.get(where.device.type, 8192), automatic=True)
    return Budget(setting)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a run puts on its machine, besides what it trains.

    `worst`: a step of the run's longest rows, cut into micro-batches of so many tokens. `longest`: tokens of the
    longest row, which no micro-batch can divide. `tokens`: read by all steps together. `frozen`: models that are only
    read. `cache`: bytes of the sampler's keys and values. `sampling`: the seconds of all sampling, measured when asked.
    """

    budget: Budget
    worst: Callable[[int], Step]
    longest: int
    tokens: float
    frozen: Sequence[nn.Module] = ()
    cache: int = 0
    sampling: Callable[[], float] | None = None


def load_of(
    budget: Budget,
    sets: Sequence[Weighted[ItemT]],
    source: EpochSource[ItemT],
    batch_size: int,
    step: Callable[[Sequence[ItemT], int], Step],
    *,
    frozen: Sequence[nn.Module] = (),
) -> Load:
    """The load of a run over a data set, whose steps are `step(rows, tokens of a micro-batch)`."""
    lengths = [lengths_of(part.items) for part in sets]
    places = [(number, int(row)) for number, of in enumerate(lengths) for row in np.argsort(of)[::-1][:batch_size]]
    places.sort(key=lambda place: -int(lengths[place[0]][place[1]]))
    rows = [sets[number].items[row] for number, row in places[:batch_size]]
    epoch = sum(part.weight * float(of.sum()) for part, of in zip(sets, lengths, strict=True))
    number, row = places[0]
    return Load(
        budget=budget,
        worst=lambda tokens: step(rows, tokens),
        longest=int(lengths[number][row]),
        tokens=epoch / source.examples_per_epoch * source.examples,
        frozen=frozen,
    )
