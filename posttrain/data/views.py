"""Sequences that read others on access: parts, joins and changed items of a data set, without a copy of any row."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")
Made = TypeVar("Made")


class View(Sequence[Item]):
    """A sequence by `at`, for places from 0 to its length; a slice of it is a view too."""

    def at(self, place: int) -> Item:
        """The item at a place that is not negative."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            return Chosen(self, np.arange(*index.indices(len(self))))
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"place {index} of {len(self)} rows")
        return self.at(place)


class Chosen(View[Item], Generic[Item]):
    """The items at int [N] `places`, in that order."""

    def __init__(self, items: Sequence[Item], places: NDArray[np.int64]) -> None:
        self.items = items
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def at(self, place: int) -> Item:
        """The item that stands at `places[place]`."""
        return self.items[int(self.places[place])]


class Joined(View[Item], Generic[Item]):
    """Sequences laid end to end."""

    def __init__(self, parts: Sequence[Sequence[Item]]) -> None:
        self.parts = tuple(parts)
        self._ends = list(accumulate(len(part) for part in self.parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def at(self, place: int) -> Item:
        """The item of the part that `place` falls into."""
        number = bisect_right(self._ends, place)
        return self.parts[number][place - (self._ends[number - 1] if number else 0)]


class Changed(View[Made], Generic[Item, Made]):
    """`change(place, item)` of every item, made anew at every access."""

    def __init__(self, items: Sequence[Item], change: Callable[[int, Item], Made]) -> None:
        self.items = items
        self._change = change

    def __len__(self) -> int:
        return len(self.items)

    def at(self, place: int) -> Made:
        """What is made of the item at `place`."""
        return self._change(place, self.items[place])
