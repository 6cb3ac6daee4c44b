"""Groups of tokens into packed batches: no padding, shared prefixes once, preference groups never split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TypeVar, cast

import torch

from posttrain.types import PrefixGroup, Span, State, TokenBatch

Item = TypeVar("Item")


class Budget:
    """The tokens of a micro-batch, which many places ask for; while it is `automatic` they may still be changed.

    Part of a run's checkpoints: other tokens would give other roundings.
    """

    def __init__(self, tokens: int, *, automatic: bool = False) -> None:
        self.tokens = tokens
        self.automatic = automatic

    def state(self) -> State:
        """The tokens that the run trains with."""
        return {"tokens": self.tokens}

    def load_state(self, state: State) -> None:
        """The earlier choice stays; a setting that was given does too."""
        if self.automatic:
            self.tokens, self.automatic = cast("int", state["tokens"]), False


def pack(groups: Sequence[PrefixGroup]) -> TokenBatch:
    """The groups laid end to end: each root, then its branches, whose first token is predicted by the root's last.

    Raises ValueError for a branch of an empty root, which nothing would predict.
    """
    spans: list[Span] = []
    parents: list[int] = []
    positions: list[range] = []
    predictors: list[Sequence[int]] = []
    offset = 0
    for group in groups:
        root, start = len(spans), offset
        if group.branches and not group.root.tokens:
            raise ValueError(f"{group.id}: the answers have no prompt to continue")
        for span, parent in chain([(group.root, -1)], ((branch, root) for branch in group.branches)):
            length = len(span.tokens)
            before = 0 if parent < 0 else len(group.root.tokens)
            first = -1 if parent < 0 else start + before - 1
            spans.append(span)
            parents.append(parent)
            positions.append(range(before, before + length))
            predictors.append([first, *range(offset, offset + length - 1)] if length else ())
            offset += length
    lengths = torch.tensor([len(span.tokens) for span in spans], dtype=torch.int64)
    return TokenBatch(
        tokens=_int64(chain.from_iterable(span.tokens for span in spans)),
        positions=_int64(chain.from_iterable(positions)),
        segment=torch.repeat_interleave(torch.arange(len(spans)), lengths),
        parent=_int64(parents),
        predictor=_int64(chain.from_iterable(predictors)),
        trained=torch.tensor(list(chain.from_iterable(span.trained for span in spans)), dtype=torch.bool),
    )


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


def _int64(values: Sequence[int] | chain[int]) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.int64)
