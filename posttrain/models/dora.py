"""DoRA's magnitudes: the length of every row of a weight is learnt apart from its direction (Liu 2024, equation 5)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


class Magnitude(nn.Module):
    """The lengths m [out] of one adapter in one layer: W' = m (W + s B A) / |W + s B A|, row by row.

    Lengths are taken in float32 whatever autocast says, so that an adapter with B = 0 changes nothing, bit for bit;
    peft's own layer rounds them to bfloat16 there. As in section 4.3 they are a constant to the gradient. The paper
    writes of columns; its code and peft take the rows of torch's [out, in], and so does this.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        weight = dense(base)
        self.weight = nn.Parameter(lengths(weight, torch.zeros_like(weight)))

    def forward(
        self,
        x: Tensor,
        *,
        lora_A: nn.Module,  # noqa: N803  # peft's own names
        lora_B: nn.Module,  # noqa: N803
        scaling: float,
        base_layer: nn.Module,
        base_result: Tensor,
        adapter_name: str,
    ) -> Tensor:
        """What the adapter adds to `base_result` [..., out], the output of all beneath it for x [..., in]."""
        a, b = cast("Tensor", lora_A.weight), cast("Tensor", lora_B.weight)
        factor = self.weight / lengths(dense(base_layer), scaling * product(b.detach(), a.detach()))
        bias = cast("Tensor | None", base_layer.bias)
        beneath = base_result if bias is None else base_result - bias
        return (factor - 1) * beneath + factor * lora_B(lora_A(x)) * scaling


def lengths(weight: Tensor, change: Tensor) -> Tensor:
    """The length [out] of every row of weight + change [out, in], in float32 and without a gradient."""
    with torch.no_grad():
        return torch.linalg.vector_norm(weight.float() + change.float(), dim=1)


def product(b: Tensor, a: Tensor) -> Tensor:
    """B A [out, in] of factors B [out, R] and A [R, in], in float32 also under autocast."""
    with torch.autocast(a.device.type, enabled=False):
        return b.float() @ a.float()


def dense(layer: nn.Module) -> Tensor:
    """The weight [out, in] of a linear layer; that of a Conv1D stands the other way round."""
    weight = cast("Tensor", layer.weight)
    return weight.T if isinstance(layer, Conv1D) else weight
