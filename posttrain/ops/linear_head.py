"""Log-probs through a linear head whose gradients are made in the same chunk of rows as the log-probs themselves.

Backward through `logits = hidden W^T` in chunks would need the logits once more: four products with W in all. A frozen
head needs two, since the gradient of each log-prob to its hidden state is one row of D numbers, which forward can keep.
A trained one needs three where the loss can be told ahead, chunk by chunk; what was foreseen is compared with what
backward then brings, so a loss that was foreseen wrongly costs the fourth product and is right all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

MAX_ELEMENTS = 2**24
"""Logits at a time, 64 MiB of float32."""
_ON_CPU = 2**23 - 2**12
"""As fast there, in half of the memory: what is just below 32 MiB is kept by the heap, not mapped anew each time."""
_LARGEST_CHUNK = 4  # a group of rows that belong together may take so many chunks' room, of 64 MiB where it is not said
_ALIKE = 1e-5
_PROOFS = 8
_AT_HAND = ("cpu",)  # devices whose numbers can be looked at without waiting
_PLACEHOLDER = -1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearHead:
    """A head whose logits are scale * (hidden W^T + bias). `weight`: float [V, D]; `bias`: float [V] or None."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0


@dataclass(slots=True)
class Proofs:
    """How often a loss turned out to be what was foreseen; one for each objective."""

    times: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """The loss that will be made of log-probs, told ahead: a sum over groups of rows, up to a factor.

    `total`: log-probs float [M] to a scalar. `sizes`: the numbers of neighbouring rows that belong together, M in all;
    None: every row stands alone. The loss of a group must not depend on the others' log-probs, which hold a
    placeholder while its gradient is taken. A wrong `total` is noticed and costs time, except on a GPU after the first
    passes have proved it, where to look would make the host wait.
    """

    total: Callable[[Tensor], Tensor]
    sizes: Sequence[int] | None = None
    proofs: Proofs = field(default_factory=Proofs)


def linear_logprobs(
    hidden: Tensor,
    targets: Tensor,
    head: LinearHead,
    *,
    ahead: Ahead | None = None,
    max_elements: int | None = None,
) -> Tensor:
    """Float [M]: log p(targets | hidden) by a linear head; float64 for float64, else float32.

    `hidden`: float [M, D]; `targets`: int64 [M]. One buffer of about `max_elements` logits serves all rows; None is
    what the device does best with. M = 0 gives [0]. The gradient reaches `hidden`, the head's weight and its bias, as
    far as they ask for one.
    """
    room = max_elements or (_ON_CPU if hidden.device.type == "cpu" else MAX_ELEMENTS)
    largest = _LARGEST_CHUNK * (max_elements or MAX_ELEMENTS)
    parts = [hidden, head.weight, head.bias]
    if not torch.is_grad_enabled():  # which forward cannot see: a function's own runs without gradients always
        parts = [None if part is None else part.detach() for part in parts]
    return cast("Tensor", _LinearLogprobs.apply(*parts, targets, head.scale, ahead, room, largest))


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        ahead: Ahead | None,
        room: int,
        largest: int,
    ) -> Tensor:
        rows = max(1, room // len(weight))
        reads, learns = ctx.needs_input_grad[0], ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        bounds = _even(len(hidden), rows)
        if ahead is not None and learns and ahead.sizes is not None:
            grouped = _together(ahead.sizes, rows, largest // len(weight))
            ahead, bounds = (ahead, grouped) if grouped else (None, bounds)
        chunk = _Chunk(weight, bias, scale, most=_most(bounds))
        logprobs = chunk.floats(len(hidden))
        ctx.ahead, ctx.prepared, ctx.rows = ahead, None, None
        ctx.scale, ctx.bounds = scale, bounds
        if learns:
            ctx.save_for_backward(hidden, weight, bias, targets)
        if learns and ahead is not None:
            ctx.prepared = _Prepared.empty(hidden, weight, bias, chunk)
        elif reads and not learns:
            ctx.rows = torch.empty_like(hidden)
        for start, end in bounds:
            part, wanted = hidden[start:end], targets[start:end]
            logprobs[start:end] = chunk.logprobs(part, wanted)
            if ctx.prepared is not None:
                factors = _foreseen(cast("Ahead", ahead), logprobs, start, end)
                ctx.prepared.factors[start:end] = factors
                chunk.spread(part, wanted, factors, ctx.prepared, start, end)
            elif ctx.rows is not None:
                ctx.rows[start:end] = chunk.to_hidden(wanted).mul_(scale)
        return logprobs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        if ctx.rows is not None:
            return (gradient.unsqueeze(1) * ctx.rows).to(ctx.rows.dtype), *(None,) * 7
        hidden, weight, bias, targets = ctx.saved_tensors
        # Taken out, so that the buffers become gradients without a copy; a second backward makes new ones.
        prepared, ctx.prepared = cast("_Prepared | None", ctx.prepared), None
        factor = None if prepared is None else _factor(gradient, prepared.factors, ctx.ahead.proofs)
        if prepared is not None and factor is not None:
            prepared.times(factor)
        else:
            prepared = _again(hidden, weight, bias, targets, gradient, ctx.scale, ctx.bounds)
        asked = ctx.needs_input_grad
        return (
            prepared.hidden if asked[0] else None,
            prepared.weight.to(weight.grad_dtype or weight.dtype) if asked[1] else None,
            None if prepared.bias is None or not asked[2] else prepared.bias.to(bias.grad_dtype or bias.dtype),
            *(None,) * 5,
        )


@dataclass(slots=True, kw_only=True)
class _Prepared:
    """Gradients of a loss whose gradient to the log-probs is `factors` [M]."""

    factors: Tensor
    hidden: Tensor
    weight: Tensor
    bias: Tensor | None

    @staticmethod
    def empty(hidden: Tensor, weight: Tensor, bias: Tensor | None, chunk: _Chunk) -> _Prepared:
        # Sums over chunks are kept in the log-probs' precision, whatever the weight's is.
        return _Prepared(
            factors=chunk.floats(len(hidden)),
            hidden=torch.empty_like(hidden),
            weight=torch.zeros_like(weight, dtype=chunk.dtype),
            bias=None if bias is None else torch.zeros_like(bias, dtype=chunk.dtype),
        )

    def times(self, factor: Tensor) -> None:
        """The gradients of `factor` times the loss."""
        for part in (self.hidden, self.weight, self.bias):
            if part is not None:
                part.mul_(factor)


class _Chunk:
    """One buffer in which the logits of a chunk become log-probs, and those what the gradients are made of."""

    def __init__(self, weight: Tensor, bias: Tensor | None, scale: float, *, most: int) -> None:
        self._weight, self._bias, self._scale = weight.detach(), bias, scale
        self.dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self._buffer = weight.new_empty(most, len(weight), dtype=self.dtype)
        # Products of half precision come out in half precision, in a buffer of their own.
        self._half = weight.new_empty(most, len(weight)) if weight.dtype != self.dtype else None
        self._held = self._buffer

    def floats(self, count: int) -> Tensor:
        """Room for a number a row."""
        return self._buffer.new_empty(count)

    def logprobs(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Float [m]; the buffer then holds the log-probs [m, V] of the rows."""
        self._held = held = self._buffer[: len(hidden)]
        product = held if self._half is None else self._half[: len(hidden)]
        torch.mm(hidden, self._weight.t(), out=product)
        if product is not held:
            held.copy_(product)
        if self._bias is not None:
            held.add_(self._bias)
        if self._scale != 1.0:
            held.mul_(self._scale)
        torch.log_softmax(held, -1, out=held)
        return held.gather(1, targets.unsqueeze(1)).squeeze(1)

    def to_hidden(self, targets: Tensor) -> Tensor:
        """[m, D]: the gradient of each row's log-prob to its hidden state, but for the scale: W[y] - p W.

        The buffer then holds p - 1[y].
        """
        self._held.exp_()
        self._held.scatter_add_(1, targets.unsqueeze(1), self._held.new_full((len(targets), 1), -1.0))
        return self._product().mm(self._weight).neg_()

    def spread(self, hidden: Tensor, targets: Tensor, factors: Tensor, into: _Prepared, start: int, end: int) -> None:
        """Adds to `into` the gradients of the rows start..end, whose log-probs the loss weighs by `factors` [m]."""
        weights = (factors * self._scale).unsqueeze(1)
        into.hidden[start:end] = self.to_hidden(targets).mul_(weights)
        weighted = (hidden * weights).to(hidden.dtype)
        if self._half is None:
            into.weight.addmm_(self._held.t(), weighted, alpha=-1)
        else:
            into.weight.sub_(self._half[: len(hidden)].t().mm(weighted))
        if into.bias is not None:
            into.bias.sub_(self._held.t().mv(weights.squeeze(1)))

    def spread_many(
        self, hidden: Tensor, targets: Tensor, factors: Tensor, into: _Prepared, start: int, end: int
    ) -> None:
        """`spread` of many gradients at once (`is_grads_batched`), which cannot be written into a buffer."""
        weights = (factors * self._scale).unsqueeze(1)
        found = self.to_hidden(targets) * weights
        into.hidden = torch.cat([into.hidden[:start], found, into.hidden[end:]])
        off = self._held.t()
        into.weight = into.weight - off @ (hidden * weights).to(off.dtype)
        if into.bias is not None:
            into.bias = into.bias - (off @ weights.to(off.dtype)).squeeze(1)

    def _product(self) -> Tensor:
        """What the buffer holds, in the weight's precision."""
        if self._half is None:
            return self._held
        return self._half[: len(self._held)].copy_(self._held)


def _again(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    factors: Tensor,
    scale: float,
    bounds: Sequence[tuple[int, int]],
) -> _Prepared:
    """The gradients of a loss that weighs the log-probs by `factors` [M]: the logits are made once more."""
    chunk = _Chunk(weight, bias, scale, most=_most(bounds))
    made = _Prepared.empty(hidden, weight, bias, chunk)
    spread = chunk.spread_many if _many(factors) else chunk.spread
    for start, end in bounds:
        part, wanted = hidden[start:end], targets[start:end]
        chunk.logprobs(part, wanted)
        spread(part, wanted, factors[start:end], made, start, end)
    return made


def _many(gradient: Tensor) -> bool:
    """True for many gradients at once; torch has no public name for the question."""
    return bool(torch._C._functorch.is_legacy_batchedtensor(gradient))  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


def _foreseen(ahead: Ahead, logprobs: Tensor, start: int, end: int) -> Tensor:
    """The gradient [m] of the loss to the log-probs start..end, the others' holding a placeholder."""
    with torch.enable_grad():
        own = logprobs[start:end].detach().requires_grad_()
        before, after = (logprobs.new_full((count,), _PLACEHOLDER) for count in (start, len(logprobs) - end))
        (found,) = torch.autograd.grad(ahead.total(torch.cat([before, own, after])), own)
    return found


def _factor(gradient: Tensor, foreseen: Tensor, proofs: Proofs) -> Tensor | None:
    """The number that makes the foreseen gradient [M] the one that came, None where no number does."""
    size = foreseen @ foreseen
    factor = torch.where(size > 0, (gradient @ foreseen) / size, 0.0)
    if gradient.device.type not in _AT_HAND and proofs.times >= _PROOFS:
        return factor
    off = (gradient - factor * foreseen).abs().amax() if len(gradient) else gradient.new_zeros(())
    if not bool(off <= _ALIKE * (gradient.abs().amax() if len(gradient) else off)):
        return None
    proofs.times += 1
    return factor


def _most(bounds: Sequence[tuple[int, int]]) -> int:
    return max((end - start for start, end in bounds), default=0)


def _even(count: int, rows: int) -> list[tuple[int, int]]:
    return [(start, min(start + rows, count)) for start in range(0, count, rows)]


def _together(sizes: Sequence[int], rows: int, most: int) -> list[tuple[int, int]]:
    """Chunks of at most `rows` rows, or of one group that has more; nothing when a group has more than `most`."""
    if max(sizes, default=0) > most:
        return []
    bounds: list[tuple[int, int]] = []
    start = end = 0
    for length in sizes:
        if end > start and end + length - start > rows:
            bounds.append((start, end))
            start = end
        end += length
    return [*bounds, (start, end)] if end > start else bounds
