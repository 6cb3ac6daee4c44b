"""Text that is mixed into PPO's updates, as InstructGPT's PPO-ptx has it: steps of a language-model loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from posttrain.config import PPOConfig
from posttrain.data.pack import Budget, pack, split_by_tokens
from posttrain.data.source import EpochSource, Weighted
from posttrain.data.store import lengths_of
from posttrain.types import PrefixGroup, Step


def text_source(
    config: PPOConfig, sets: Sequence[Weighted[PrefixGroup]], updates: int, budget: Budget
) -> EpochSource[PrefixGroup] | None:
    """A step of `ptx.batch_size` rows for each of `updates`, in passes over the text; None without `ptx`."""
    if config.ptx is None:
        return None
    return EpochSource(
        sets,
        lambda rows: text_step(rows, budget.tokens),
        batch_size=config.ptx.batch_size,
        epochs=None,
        steps=updates,
        seed=config.seed,
    )


def text_step(rows: Sequence[PrefixGroup], tokens: int) -> Step:
    """The rows in micro-batches of at most so many tokens; their count is their trained tokens."""
    batches = [pack(part) for part in split_by_tokens(rows, tokens, size=len)]
    count = float(sum(int(batch.trained.sum()) for batch in batches))
    return Step(micro_batches=batches, counts={"ptx": count}, rows=[row.id for row in rows])


def longest_text(sets: Sequence[Weighted[PrefixGroup]]) -> PrefixGroup | None:
    """The row with the most tokens; None where there is none."""
    found: PrefixGroup | None = None
    for part in sets:
        row = part.items[int(np.argmax(lengths_of(part.items)))]
        found = row if found is None or len(row) > len(found) else found
    return found


def mean_text(sets: Sequence[Weighted[PrefixGroup]]) -> float:
    """Tokens of a row on average, 0 where there is none."""
    weights = [part.weight * len(part.items) for part in sets]
    tokens = [part.weight * float(lengths_of(part.items).sum()) for part in sets]
    return sum(tokens) / sum(weights) if sum(weights) else 0.0
