"""Packed attention in one kernel call, for a GPU: FlexAttention over those blocks of a stream that see one another.

A kernel is compiled for each length of a stream, so streams are filled up to few lengths. On a CPU FlexAttention has no
backward pass and holds all T x T logits: there this serves to be tested.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from posttrain.models.attention import AttentionTerms
from posttrain.types import TokenBatch

BLOCK = 128
KERNELS = 256
"""How often the kernel may be compiled in a process: for each model, window and length, with and without gradients.
Beyond, torch warns and holds all T x T logits.
"""
_filled: WeakKeyDictionary[nn.Module, Lengths] = WeakKeyDictionary()


def filled_to(trunk: nn.Module, tokens: int) -> int | None:
    """The length that a stream for a trunk is filled up to; None for a trunk that attends by rows."""
    lengths = _filled.get(trunk)
    return None if lengths is None else lengths(tokens)


def attend_by_blocks(trunk: nn.Module, *, on: bool) -> None:
    """From now on the trunk attends by blocks, whoever runs it, or by rows as it did."""
    if on:
        _filled[trunk] = Lengths()
    else:
        _filled.pop(trunk, None)


class Lengths:
    """The lengths that streams are filled up to: at most eight at a time, eighths of the longest that came so far."""

    def __init__(self) -> None:
        self._longest = BLOCK

    def __call__(self, tokens: int) -> int:
        """The least of the lengths that holds so many tokens."""
        while self._longest < tokens:
            self._longest *= 2
        unit = max(BLOCK, self._longest // 8)
        return -(-tokens // unit) * unit


class BlockLayout:
    """The layout of a training batch, filled up to `length` with one more segment that nothing else sees.

    A token sees its own segment causally, and all of its parent; windows go by position. `tokens` and `positions`:
    int64 [length]. Nothing is read on the host. Raises ValueError for a length that is no whole number of blocks.
    """

    def __init__(self, batch: TokenBatch, length: int) -> None:
        if length % BLOCK:
            raise ValueError(f"{length} is not a multiple of {BLOCK}")
        self.calls = 0
        more, segments = length - len(batch.tokens), len(batch.parents)
        after = torch.arange(more, device=batch.tokens.device)
        self.tokens = torch.cat([batch.tokens, torch.zeros_like(after)])
        # No position is beyond those of the batch: models with a table of positions have no more.
        self.positions = torch.cat([batch.positions, after.minimum(batch.positions.max())])
        segment = torch.cat([batch.segment, torch.full_like(after, segments)])
        place = torch.arange(length, device=segment.device)
        # One more segment for the filling, and one that stands for the parent of none.
        first = place.new_full((segments + 2,), length).scatter_reduce(0, segment, place, "amin")
        last = place.new_zeros(segments + 2).scatter_reduce(0, segment, place + 1, "amax")
        parents = torch.cat([batch.parent, batch.parent.new_full((1,), -1)])[segment]
        parent = parents.masked_fill(parents < 0, segments + 1)
        self._segment, self._parent, self._place = segment, parents, place
        self._within = torch.cat([batch.positions, after])
        self._own, self._shared = first[segment], (first[parent], last[parent])
        self._masks: dict[int | None, BlockMask] = {}

    def attend(self, query: Tensor, key: Tensor, value: Tensor, terms: AttentionTerms) -> Tensor:
        """The attention output [T, H, d] of query [T, H, d] over key and value [T, Hkv, d]."""
        query, key, value = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))
        attend = _compiled() if query.device.type == "cuda" else flex_attention
        # A sink takes the share of probability that its logit has beside the sum of all others.
        output, aux = cast("Any", attend)(
            query, key, value, score_mod=_capped(terms.softcap), block_mask=self.mask(terms.window),
            scale=terms.scaling, enable_gqa=key.shape[1] != query.shape[1], return_aux=AuxRequest(lse=True),
        )  # fmt: skip
        if terms.sinks is not None:
            kept = (aux.lse - terms.sinks.to(aux.lse.dtype).view(1, -1, 1)).sigmoid()
            output = output * kept.unsqueeze(-1).to(output.dtype)
        return output.squeeze(0).transpose(0, 1)

    def mask(self, window: int | None) -> BlockMask:
        """Which tokens see which, and the blocks of them that hold anything to see."""
        if window not in self._masks:
            some, every = self.blocks(window)
            partly = _ordered(some & ~every)
            self._masks[window] = BlockMask.from_kv_blocks(
                *partly, *_ordered(every), BLOCK_SIZE=BLOCK, mask_mod=self._sees(window),
                seq_lengths=(len(self.tokens), len(self.tokens)),
            )  # fmt: skip
        return self._masks[window]

    def blocks(self, window: int | None) -> tuple[Tensor, Tensor]:
        """Bool [blocks, blocks]: whether any token of a block sees one of another, and whether all see all."""
        own, (first, last) = self._own, self._shared
        if window is not None:
            own = torch.maximum(own, self._place - window + 1)
            first = first + (self._within - window + 1).clamp(min=0)
        edges = torch.arange(0, len(self.tokens), BLOCK, device=own.device)

        def inside(begin: Tensor, end: Tensor) -> Tensor:
            return (end[:, None].minimum(edges + BLOCK) - begin[:, None].maximum(edges)).clamp(min=0)

        seen = (inside(own, self._place + 1) + inside(first, last)).view(len(edges), BLOCK, len(edges))
        return (seen > 0).any(dim=1), (seen == BLOCK).all(dim=1)

    def _sees(self, window: int | None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        segment, parent, within = self._segment, self._parent, self._within

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            seen = ((segment[query] == segment[key]) & (key <= query)) | (parent[query] == segment[key])
            return seen if window is None else seen & (within[query] - within[key] < window)

        return sees


@cache
def _compiled() -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=False)
    # Made once: each would leave a variable behind in the thread.
    more = cast("Any", torch)._dynamo.config.patch(recompile_limit=KERNELS, fail_on_recompile_limit_hit=False)

    def attend(*given: Any, **named: Any) -> Any:
        with more:
            return compiled(*given, **named)

    return attend


@cache
def _capped(cap: float | None) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor] | None:
    """Logits become c tanh(logits / c); None where they stay."""
    if cap is None:
        return None

    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return capped


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of blocks how many are True, and their numbers before those of the others; int32 [1, 1, ...]."""
    numbers = torch.argsort(blocks.int(), dim=-1, descending=True, stable=True)
    return blocks.sum(dim=-1).int()[None, None], numbers.int()[None, None]
