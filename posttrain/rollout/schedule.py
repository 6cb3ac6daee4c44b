"""Who sits in which slot of the sampler's batch: plain Python, no tensors."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Changes:
    """What one turn did: slots that a new row entered, in order of entry, then (source, target) moves."""

    entered: list[int]
    moved: list[tuple[int, int]]

    def __bool__(self) -> bool:
        return bool(self.entered or self.moved)


class Schedule(Generic[Row]):
    """Rows under way in slots 0..n-1 without a hole, and rows that wait, first come first served."""

    def __init__(self, waiting: Iterable[Row], slots: int) -> None:
        self.rows: list[Row] = []
        self._waiting = deque(waiting)
        self._slots = slots

    def turn(self, finished: Collection[int]) -> Changes:
        """The rows of `finished` slots leave and waiting rows take their place, then slots never used.

        A row moves only when nobody waits: the last rows go into the holes, one move a hole at most.
        """
        holes = deque(sorted(finished))
        entered: list[int] = []
        while self._waiting and (holes or len(self.rows) < self._slots):
            row = self._waiting.popleft()
            if holes:
                slot = holes.popleft()
                self.rows[slot] = row
            else:
                slot = len(self.rows)
                self.rows.append(row)
            entered.append(slot)
        return Changes(entered, self._close(holes))

    def _close(self, holes: Collection[int]) -> list[tuple[int, int]]:
        """The moves that leave no hole, done."""
        left = len(self.rows) - len(holes)
        sources = [slot for slot in range(left, len(self.rows)) if slot not in holes]
        targets = [slot for slot in holes if slot < left]
        moves = list(zip(sources, targets, strict=True))
        for source, target in moves:
            self.rows[target] = self.rows[source]
        del self.rows[left:]
        return moves
