"""Epochs of examples as optimizer steps: seeded order, weights of a mixture, resumable at any step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from posttrain.data.ahead import ahead
from posttrain.data.views import Joined
from posttrain.errors import DataError
from posttrain.types import State, Step

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted(Generic[Item]):
    """One data set of a mixture. `weight` is how often an epoch passes over it: 2 twice, 0.5 a fresh random half."""

    items: Sequence[Item]
    weight: float = 1.0


def examples_per_epoch(sets: Sequence[Weighted[Item]]) -> int:
    """How many examples one epoch over the sets has."""
    return sum(round(part.weight * len(part.items)) for part in sets)


class EpochSource(Generic[Item]):
    """Steps of `batch_size` examples, for so many `epochs` or `steps`; epochs follow one another without a short batch.

    The order depends on seed and epoch alone, so that any world size and any resume see the same examples. A step is
    made while the one before is in use, but without `ahead`: for steps that depend on the weights as they stand.
    """

    def __init__(
        self,
        sets: Sequence[Weighted[Item]],
        make_step: Callable[[Sequence[Item]], Step],
        *,
        batch_size: int,
        epochs: float | None,
        steps: int | None,
        seed: int,
        ahead: bool = True,
    ) -> None:
        self._ahead = ahead
        self._sets = tuple(sets)
        self._rows = Joined([part.items for part in self._sets])
        self._cached: tuple[int, NDArray[np.int64]] | None = None
        self._make_step = make_step
        self._batch_size = batch_size
        self._seed = seed
        self._done = 0
        self.examples_per_epoch = examples_per_epoch(self._sets)
        if self.examples_per_epoch == 0:
            raise DataError(
                "no row is left to train on\n  fix: see the counts above; max_length or weight may be too small"
            )
        wanted = self.examples_per_epoch * (1.0 if epochs is None else epochs)
        self._examples = math.ceil(wanted) if steps is None else steps * batch_size

    @property
    def passes(self) -> float:
        """How often the whole run passes over the set that it passes over most."""
        return self._examples / self.examples_per_epoch * max(part.weight for part in self._sets)

    @property
    def examples(self) -> int:
        """The number of examples in the whole run."""
        return self._examples

    @property
    def steps(self) -> int:
        """The number of optimizer steps in the whole run; the last one may be short."""
        return math.ceil(self._examples / self._batch_size)

    def __iter__(self) -> Iterator[Step]:
        numbers = range(self._done, self.steps)
        with closing(ahead(numbers, self._made) if self._ahead else (self._made(each) for each in numbers)) as steps:
            for step in steps:
                # Counted before it is handed out: a state taken after the update must point behind it.
                self._done += 1
                yield step

    def _made(self, number: int) -> Step:
        first = number * self._batch_size
        last = min(first + self._batch_size, self._examples)
        return self._make_step([self._at(place) for place in range(first, last)])

    def _at(self, place: int) -> Item:
        epoch, within = divmod(place, self.examples_per_epoch)
        return self._rows[int(self._order(epoch)[within])]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self._cached is None or self._cached[0] != epoch:
            sizes = [(len(part.items), part.weight) for part in self._sets]
            self._cached = epoch, epoch_order(sizes, seed=self._seed, epoch=epoch)
        return self._cached[1]

    def state(self) -> State:
        """The number of steps handed out, and of how many rows."""
        return {"done": self._done, "rows": [len(part.items) for part in self._sets]}

    def load_state(self, state: State) -> None:
        """Goes on after the steps of `state`. Raises DataError when there are other numbers of rows than then."""
        was, rows = cast("list[int]", state["rows"]), [len(part.items) for part in self._sets]
        if was != rows:
            counts = " + ".join(f"{count:,}" for count in was), " + ".join(f"{count:,}" for count in rows)
            what = f"the run began with {counts[0]} rows, and {counts[1]} are there now"
            raise DataError(f"{what}: it cannot go on\n  fix: --fresh, or the versions that it began with")
        self._done = cast("int", state["done"])


def epoch_order(sets: Sequence[tuple[int, float]], *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The rows of an epoch over sets of (size, weight), shuffled; whole passes plus a random part.

    Int64 [N]: places in the sets laid end to end.
    """
    rng = np.random.default_rng([seed, epoch])
    drawn: list[NDArray[np.int64]] = []
    first = 0
    for size, weight in sets:
        wanted = round(weight * size)
        while wanted > 0:
            rows = rng.permutation(size)[: min(wanted, size)]
            drawn.append(rows + first)
            wanted -= len(rows)
        first += size
    places = np.concatenate(drawn) if drawn else np.zeros(0, np.int64)
    return places[rng.permutation(len(places))]
