"""Linear layers of a model that is only read, on a CPU: their weights as the matrix product wants to find them.

A product with few rows spends most of its time on bringing the weight into the order that the kernel reads. Sampling
multiplies by the same weights at every step, so the order is made once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posttrain.models.precision import multiplies_bf16

_FEWEST_NUMBERS = 2**16
"""Smaller weights stay in a cache in whichever order they lie, and the kernel's own start would cost more."""

MOST_ROWS = 512
"""With more rows the product itself is what takes the time, and the weight is taken as it is."""


class _Reordered:
    """A linear layer's `forward` over a copy of its weight: output [..., N] of input [..., K], in the copy's dtype."""

    def __init__(self, layer: nn.Linear, dtype: torch.dtype, plain: Callable[[Tensor], Tensor]) -> None:
        self._plain = plain
        self._dtype = dtype
        self._weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach().to(dtype))
        bias = cast("Tensor | None", layer.bias)
        self._bias = None if bias is None else bias.detach().to(dtype)

    def __call__(self, input: Tensor) -> Tensor:
        wanted = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        rows = input.shape[:-1].numel()
        # The copy's dtype was right where it was made; autocast may be off, or another, in a part of the model.
        if wanted != self._dtype or not 0 < rows <= MOST_ROWS:
            return self._plain(input)
        given = input.to(self._dtype).reshape(rows, -1)
        if (more := rounded(rows) - rows) > 0:
            given = F.pad(given, (0, 0, 0, more))
        output: Tensor = torch.ops.mkldnn._linear_pointwise(given, self._weight, self._bias, "none", [], "")
        return output[:rows].view(*input.shape[:-1], -1)


def rounded(rows: int) -> int:
    """So many rows are multiplied in place of `rows`.

    The library keeps a kernel of about half a megabyte for every number of rows that it has met, up to a thousand.
    """
    if rows <= 8:
        return 1 << (rows - 1).bit_length()
    unit = 8 if rows <= 64 else 64
    return -(-rows // unit) * unit


@contextmanager
def reordered(model: nn.Module) -> Generator[None]:
    """Inside, the model's larger linear layers on a CPU multiply by reordered copies of their weights as they are now.

    Outputs are those of the plain layers within rounding. Under autocast the copies are in its dtype. Layers of another
    class than `nn.Linear`, of another device or in another dtype than float32 and bfloat16 are left as they are, and so
    is everything where the library cannot do it. Only for inference: no gradient flows, no update is seen.
    """
    changed = [layer for layer in model.modules() if type(layer) is nn.Linear and _can(layer)]
    try:
        for layer in changed:
            layer.__dict__["forward"] = _Reordered(layer, _dtype_of(layer), layer.forward)
        yield
    finally:
        for layer in changed:
            layer.__dict__.pop("forward", None)


def copied(model: nn.Module) -> int:
    """The bytes of the copies that `reordered` makes, at most: half precision and autocast make smaller ones."""
    return sum(
        layer.weight.numel() * layer.weight.element_size()
        for layer in model.modules()
        if type(layer) is nn.Linear and _can(layer)
    )


def _can(layer: nn.Linear) -> bool:
    weight = layer.weight
    if weight.device.type != "cpu" or weight.numel() < _FEWEST_NUMBERS or "forward" in layer.__dict__:
        return False
    return _supported(weight.dtype) and _supported(_dtype_of(layer))


def _dtype_of(layer: nn.Linear) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else layer.weight.dtype


def _supported(dtype: torch.dtype) -> bool:
    """True where oneDNN multiplies in this dtype, on processors for which that was measured and is quicker."""
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return False
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    names = ("_reorder_linear_weight", "_linear_pointwise")
    if not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    if dtype == torch.bfloat16:
        return multiplies_bf16()
    return dtype == torch.float32
