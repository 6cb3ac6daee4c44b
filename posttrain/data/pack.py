"""Groups of tokens into packed batches: no padding, shared prefixes once, preference groups never split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TypeVar, cast

import numpy as np
import torch

from posttrain.types import PrefixGroup, Span, State, TokenBatch

Item = TypeVar("Item")


class Budget:
    """The tokens of a micro-batch, which many places ask for; while it is `automatic` they may still be changed.

    Part of a run's checkpoints: other tokens would give other roundings. `going_on` once a state was loaded.
    """

    def __init__(self, tokens: int, *, automatic: bool = False) -> None:
        self.tokens = tokens
        self.automatic = automatic
        self.going_on = False
        self._setting = None if automatic else tokens
        self._halved = False

    def halve(self) -> int:
        """Half the tokens from here on, whoever chose them; how many there were."""
        before, self.tokens = self.tokens, max(1, self.tokens // 2)
        self.automatic, self._halved = False, True
        return before

    def state(self) -> State:
        """The tokens that the run trains with, and the setting where they were halved from one."""
        halved = self._halved and self._setting is not None
        return {"tokens": self.tokens, **({"halved_from": self._setting} if halved else {})}

    def load_state(self, state: State) -> None:
        """The earlier choice stays; a setting that was given does too, unless it is the one that was halved."""
        self.going_on = True
        self._halved = self._setting is not None and state.get("halved_from") == self._setting
        if self.automatic or self._halved:
            self.tokens, self.automatic = cast("int", state["tokens"]), False


def pack(groups: Sequence[PrefixGroup]) -> TokenBatch:
    """The groups laid end to end: each root, then its branches, whose first token is predicted by the root's last.

    Raises ValueError for a branch of an empty root, which nothing would predict.
    """
    spans: list[Span] = []
    parents: list[int] = []
    for group in groups:
        if group.branches and not group.root.tokens:
            raise ValueError(f"{group.id}: the answers have no prompt to continue")
        parents += [-1, *[len(spans)] * len(group.branches)]
        spans += [group.root, *group.branches]
    parent = np.array(parents, dtype=np.int64)
    lengths = np.array([len(span.tokens) for span in spans], dtype=np.int64)
    ends = lengths.cumsum()
    starts, total = ends - lengths, int(lengths.sum())
    segment = np.repeat(np.arange(len(spans)), lengths)
    place = np.arange(total)
    before = np.where(parent >= 0, lengths[parent], 0)
    predictor = place - 1
    full = lengths > 0
    predictor[starts[full]] = np.where(parent >= 0, ends[parent] - 1, -1)[full]
    arrays = {
        "tokens": np.fromiter(chain.from_iterable(span.tokens for span in spans), np.int64, total),
        "positions": place - (starts - before)[segment],
        "segment": segment,
        "parent": parent,
        "predictor": predictor,
        "trained": np.fromiter(chain.from_iterable(span.trained for span in spans), np.bool_, total),
    }
    return TokenBatch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def split_by_tokens(items: Iterable[Item], budget: int, *, size: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Runs of items whose sizes sum to at most `budget` tokens; an item larger than the budget stands alone."""
    run: list[Item] = []
    total = 0
    for item in items:
        if run and total + size(item) > budget:
            yield run
            run, total = [], 0
        run.append(item)
        total += size(item)
    if run:
        yield run
