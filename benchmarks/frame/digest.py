"""A hash of the tokens of each step, by which two sides show that they trained on the same. Standard library alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256


def row_hash(*spans: Sequence[int]) -> str:
    """The hash of a row, given as the ids of its prompt and those of each answer."""
    return sha256(repr([list(span) for span in spans]).encode()).hexdigest()


def step_hashes(rows: Iterable[str], batch_size: int) -> list[str]:
    """One hash a step, whatever the order of its rows; a row's place within a step changes nothing but rounding."""
    every = list(rows)
    steps = [every[first : first + batch_size] for first in range(0, len(every), batch_size)]
    return [sha256("".join(sorted(step)).encode()).hexdigest()[:16] for step in steps]
