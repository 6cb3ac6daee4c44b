"""The attention that runs inside `transformers` models: a packed one for training, and whatever a layout brings.

A layout says who sees whom. It travels to the attention function in a context variable, because some families do not
pass keyword arguments down to their attention, and the function calls `layout.attend`. No model family is known here.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface

from posttrain.types import TokenBatch

IMPLEMENTATION = "posttrain_packed"

# Keywords that say nothing about who sees whom, or that the layout already answers.
_INERT = frozenset(
    {
        "attention_mask", "position_ids", "cache_position", "use_cache", "output_attentions", "output_hidden_states",
        "return_dict", "past_key_values", "is_causal", "position_embeddings", "layer_idx", "output_router_logits",
        "seq_idx", "num_items_in_batch", "logits_to_keep", "position_bias",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionTerms:
    """What a layer's attention does besides softmax(q k) v. `sinks`: float [H], one extra logit a head, or None."""

    scaling: float | None
    window: int | None
    softcap: float | None
    sinks: Tensor | None


class Layout(Protocol):
    """Who sees whom, for one forward pass. `calls` counts attention calls: a gate asks whether all layers ran.

    Layers that run again in backward count again.
    """

    calls: int

    def attend(self, query: Tensor, key: Tensor, value: Tensor, terms: AttentionTerms) -> Tensor:
        """The attention output [T, H, d] of query [T, H, d] over key and value [T, Hkv, d]."""
        ...


_layout: ContextVar[Layout | None] = ContextVar("posttrain_layout", default=None)


@contextmanager
def using(layout: Layout) -> Generator[Layout]:
    """The models called inside attend by `layout`."""
    token = _layout.set(layout)
    try:
        yield layout
    finally:
        _layout.reset(token)


def in_use() -> Layout | None:
    """The layout that the models called here attend by; None outside `using`."""
    return _layout.get()


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **keywords: object,
) -> tuple[Tensor, None]:
    """The registered attention function: query [1, H, T, d] to output [1, T, H, d], by the layout in use.

    Raises RuntimeError without a layout, NotImplementedError for a keyword that could change the result and is not
    known here: dropping it would be silent.
    """
    layout = _layout.get()
    if layout is None:
        raise RuntimeError("packed attention was called without a layout; wrap the call in models.attention.using(...)")
    unknown = {name for name, value_ in keywords.items() if name not in _INERT and value_ is not None}
    if unknown:
        raise NotImplementedError(f"attention keywords not understood: {', '.join(sorted(unknown))}")
    if keywords.get("position_bias") is not None:
        raise NotImplementedError("relative position biases cannot be packed")
    if dropout:
        raise NotImplementedError(f"attention dropout {dropout}: load the model with attention_dropout 0")
    layout.calls += 1
    terms = AttentionTerms(scaling=scaling, window=sliding_window, softcap=softcap, sinks=s_aux)
    query, key, value = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
    dtype = query.dtype
    if dtype == torch.bfloat16 and query.device.type == "cpu":
        # Multiplied in float32: attention in bfloat16 is slower on a CPU, backwards most of all.
        query, key, value = query.float(), key.float(), value.float()
    return layout.attend(query, key, value, terms).unsqueeze(0).to(dtype), None


# Compiled layers are interrupted for it: the layout stands in a context variable, and no two have rows of one shape.
_outside = cast("Any", torch.compiler.disable)(packed_attention)


def register() -> None:
    """`IMPLEMENTATION` is known to transformers, and no function that builds masks for it.

    The layout decides; a [T, T] mask would cost fifteen times the attention itself on a CPU, and to look whether one is
    needed makes a device wait.
    """
    AttentionInterface.register(IMPLEMENTATION, _outside)


class PackedLayout:
    """The layout of a training batch: a token sees its own segment causally, and all of its parent.

    Every leaf segment with its prefix in front of it is a row; rows of nearly one length share one causal attention
    call, padded at the right where no real token can see. Places in a row equal positions, so windows go by position.
    """

    def __init__(self, batch: TokenBatch) -> None:
        self.calls = 0
        self._shapes, self._rows = _rows(batch)
        self._whole = len(self._shapes) == 1 and self._shapes[0][0] == 1

    def attend(self, query: Tensor, key: Tensor, value: Tensor, terms: AttentionTerms) -> Tensor:
        """The attention output [T, H, d] of query [T, H, d] over key and value [T, Hkv, d]."""
        if self._whole:
            query, key, value = (tensor.unsqueeze(0).transpose(1, 2) for tensor in (query, key, value))
            return _causal(query, key, value, terms).squeeze(0)
        buckets = zip(self._buckets(query), self._buckets(key), self._buckets(value), strict=True)
        outputs = [_causal(*bucket, terms).flatten(0, 1) for bucket in buckets]
        return cast(Tensor, _ToStream.apply(torch.cat(outputs), self._rows))

    def _buckets(self, stream: Tensor) -> list[Tensor]:
        """[rows, H, L, d] of each bucket, of a stream [T, H, d]."""
        rows = cast(Tensor, _ToRows.apply(stream, self._rows))
        parts = rows.split([count * length for count, length in self._shapes])
        return [part.unflatten(0, shape).transpose(1, 2) for part, shape in zip(parts, self._shapes, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """The places of a stream laid out as rows, and back. N: places of all rows, padding among them.

    `index`: int64 [N], the token at each place, 0 for padding. `place`: int64 [T], one place of each token. `unread`:
    int64, the places that are the `place` of no token: padding, and what `again` repeats. `again`, `again_of`: int64,
    the further places of tokens that several rows hold, and those tokens.
    """

    index: Tensor
    place: Tensor
    unread: Tensor
    again: Tensor
    again_of: Tensor


class _ToRows(torch.autograd.Function):
    """Rows [N, ...] of a stream [T, ...].

    Backward gathers as well, but for what several rows share; padding has no gradient, for no real token sees it.
    """

    @staticmethod
    def forward(ctx: Any, stream: Tensor, rows: _Rows) -> Tensor:
        ctx.rows = rows
        return _pick(stream, rows.index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        rows: _Rows = ctx.rows
        found = _pick(gradient, rows.place)
        if len(rows.again):
            found.index_add_(0, rows.again_of, _pick(gradient, rows.again))
        return found, None


class _ToStream(torch.autograd.Function):
    """A stream [T, ...] of rows [N, ...]; backward gathers, where adding up would find each place once."""

    @staticmethod
    def forward(ctx: Any, laid: Tensor, rows: _Rows) -> Tensor:
        ctx.rows = rows
        return _pick(laid, rows.place)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        rows: _Rows = ctx.rows
        return _pick(gradient, rows.index).index_fill_(0, rows.unread, 0), None


def _pick(tensor: Tensor, index: Tensor) -> Tensor:
    """`tensor[index]`; rows of a matrix are picked several times faster than those of more axes."""
    # `reshape` also knows many gradients at once (`is_grads_batched`), as `flatten` does not.
    return tensor.reshape(len(tensor), -1).index_select(0, index).reshape(len(index), *tensor.shape[1:])


def rows_of(batch: TokenBatch) -> list[list[int]]:
    """For each leaf segment the places of its whole sequence in the stream, its shared prefix first."""
    ends = list(accumulate(batch.lengths))
    spans = [range(end - length, end) for end, length in zip(ends, batch.lengths, strict=True)]
    inner = set(batch.parents)
    return [
        [*(spans[parent] if parent >= 0 else ()), *spans[segment]]
        for segment, parent in enumerate(batch.parents)
        if segment not in inner
    ]


def _rows(batch: TokenBatch) -> tuple[list[tuple[int, int]], _Rows]:
    """How many rows of what length each bucket has, and where the tokens of a batch stand in them."""
    lengths, parents = np.array(batch.lengths, np.int64), np.array(batch.parents, np.int64)
    starts = lengths.cumsum() - lengths
    before = np.where(parents >= 0, lengths[parents], 0)
    leaves = np.setdiff1d(np.arange(len(lengths)), parents)
    leaves = leaves[np.argsort((before + lengths)[leaves], kind="stable")]
    shapes: list[tuple[int, int]] = []
    places: list[NDArray[np.int64]] = []
    real: list[NDArray[np.bool_]] = []
    for rows in _nearly_equal(leaves, (before + lengths)[leaves]):
        head, own = before[rows, None], lengths[rows, None]
        length = int((head + own)[-1, 0])
        column = np.arange(length)
        index = np.where(column < head, starts[parents[rows], None] + column, starts[rows, None] + column - head)
        shapes.append((len(rows), length))
        places.append(index.ravel())
        real.append((column < head + own).ravel())
    index, held = np.concatenate(places), np.concatenate(real)
    index[~held] = 0
    # Several rows may hold one prefix; any of them computes the same output for it.
    place = np.full(int(lengths.sum()), -1)
    place[index[held]] = np.flatnonzero(held)
    read = np.zeros(len(index), bool)
    read[place] = True
    again = np.flatnonzero(held & ~read)
    found = {"index": index, "place": place, "unread": np.flatnonzero(~read), "again": again, "again_of": index[again]}
    return shapes, _Rows(**{name: _on(batch, places) for name, places in found.items()})


def _on(batch: TokenBatch, places: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(places).to(batch.tokens.device, non_blocking=True)


def _nearly_equal(leaves: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Runs of leaves, sorted by the sizes of their rows; the smallest has at least three quarters of the largest."""
    first = 0
    for last, size in enumerate(sizes.tolist()):
        if last > first and sizes[first] < 0.75 * size and size > 16:
            yield leaves[first:last]
            first = last
    if len(leaves):
        yield leaves[first:]


def _causal(query: Tensor, key: Tensor, value: Tensor, terms: AttentionTerms) -> Tensor:
    """Causal attention output [rows, L, H, d] of query [rows, H, L, d] over key and value [rows, Hkv, L, d]."""
    length = query.shape[2]
    windowed = terms.window is not None and terms.window < length
    if terms.softcap is None and terms.sinks is None:
        mask = _window_mask(length, terms.window, query.device) if windowed else None
        output = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=terms.scaling,
            enable_gqa=key.shape[1] != query.shape[1],
        )  # fmt: skip
        return output.transpose(1, 2)
    mask = _window_mask(length, terms.window if windowed else None, query.device)
    return masked_attention(query, key, value, mask, terms).transpose(1, 2)


def _window_mask(length: int, window: int | None, device: torch.device) -> Tensor:
    """Bool [L, L], True where a query sees a key: not later, and fewer than `window` places before."""
    place = torch.arange(length, device=device)
    distance = place[:, None] - place[None, :]
    return distance >= 0 if window is None else (distance >= 0) & (distance < window)


def masked_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, terms: AttentionTerms) -> Tensor:
    """Attention output [B, H, Lq, d] with soft-capped logits and sinks; `mask` is True where a query sees a key.

    Soft-capping (Gemma 2, 2024): logits become c tanh(logits / c) before the mask. A sink (gpt-oss, 2025) is one more
    learnt logit a head that takes probability and gives nothing.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(groups, dim=1) if groups > 1 else tensor for tensor in (key, value))
    scaling = terms.scaling if terms.scaling is not None else query.shape[-1] ** -0.5
    logits = (query @ key.transpose(-1, -2)) * scaling
    if terms.softcap is not None:
        logits = terms.softcap * torch.tanh(logits / terms.softcap)
    logits = logits.masked_fill(~mask, float("-inf"))
    if terms.sinks is not None:
        sinks = terms.sinks.to(logits.dtype).view(1, -1, 1, 1).expand(*logits.shape[:-1], 1)
        logits = torch.cat([logits, sinks], dim=-1)
    weights = logits.softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return weights[..., : key.shape[2]] @ value
