"""Frozen linear layers in 8 or 4 bits: what lies beneath an adapter, at a quarter or an eighth of its memory."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any, Literal, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from posttrain.errors import ModelError

Bits: TypeAlias = Literal["8bit", "4bit"]
BLOCK = 64
"""Weights that share one scale in 4 bits (Dettmers 2023, section 3)."""


class QuantizedLinear(nn.Linear):
    """A frozen linear layer that keeps its weight [out, in] in few bits and makes numbers of it at each product.

    8 bits: whole numbers, a scale for each row. 4 bits: NF4 in blocks of 64, whose scales are in 8 bits themselves.
    Only weights are rounded, never activations, so that outputs depend on neither packing nor the batch around them.
    The bias stays as it was. Nothing dense is kept for the backward pass.
    """

    def __init__(self, layer: nn.Linear | Conv1D, bits: Bits, device: torch.device | str) -> None:
        nn.Module.__init__(self)  # that of Linear would make the dense weight that this class is without
        self.turned = isinstance(layer, Conv1D)
        weight = (layer.weight.T if self.turned else layer.weight).detach().to(device, torch.float32).contiguous()
        self.out_features, self.in_features = weight.shape
        self.bits: Bits = bits
        for name, tensor in (_in_8_bits(weight) if bits == "8bit" else _in_4_bits(weight)).items():
            self.register_buffer(name, tensor)
        bias = cast("Tensor | None", layer.bias)
        self.bias = None if bias is None else nn.Parameter(bias.detach().float().to(device), requires_grad=False)

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]  # made anew, never kept
        """The weight [out, in] as the layer applies it, float32, made anew."""
        return _from_8_bits(self) if self.bits == "8bit" else _from_4_bits(self)

    def forward(self, input: Tensor) -> Tensor:
        """The product with x [..., in], in the precision of x, or of autocast."""
        found = cast("Tensor", _Product.apply(input, self))
        return found if self.bias is None else found + self.bias.to(found.dtype)


class _Product(torch.autograd.Function):
    """x W^T, whose backward pass makes W again instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        return F.linear(x, layer.weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return (grad @ ctx.layer.weight.to(grad.dtype)).to(ctx.dtype), None


def _in_8_bits(weight: Tensor) -> dict[str, Tensor]:
    scale = (weight.abs().amax(dim=1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return {"packed": (weight / scale[:, None]).round().to(torch.int8), "scale": scale}


def _from_8_bits(layer: nn.Module) -> Tensor:
    return cast("Tensor", layer.packed).float() * cast("Tensor", layer.scale)[:, None]


def _in_4_bits(weight: Tensor) -> dict[str, Tensor]:
    kernels = _kernels()
    packed, state = kernels.quantize_4bit(weight, blocksize=BLOCK, compress_statistics=True, quant_type="nf4")
    return {
        "packed": packed,
        "scale": state.absmax,
        "code": state.code,
        "offset": state.offset,
        "scale_of_scales": state.state2.absmax,
        "code_of_scales": state.state2.code,
    }


def _from_4_bits(layer: nn.Module) -> Tensor:
    kernels, made = _kernels(), cast("Any", layer)
    of_scales = kernels.QuantState(
        absmax=made.scale_of_scales, code=made.code_of_scales, blocksize=256, dtype=torch.float32
    )
    state = kernels.QuantState(
        absmax=made.scale, code=made.code, blocksize=BLOCK, quant_type="nf4", dtype=torch.float32, offset=made.offset,
        state2=of_scales, shape=torch.Size((made.out_features, made.in_features)),
    )  # fmt: skip
    return kernels.dequantize_4bit(made.packed, state)


def _kernels() -> Any:
    try:
        return import_module("bitsandbytes.functional")
    except ImportError as error:
        raise ModelError(
            "quantize 4bit needs the package bitsandbytes, which is not installed"
            "\n  fix: pip install 'posttrain[quantize]', or quantize: 8bit, which needs nothing"
        ) from error


def check_quantizable(bits: Bits, device: torch.device | str) -> None:
    """Raises ModelError when this machine cannot hold weights in these bits, before any are read."""
    try:
        QuantizedLinear(nn.Linear(BLOCK, 2, bias=False), bits, device)(torch.ones(1, BLOCK, device=device))
    except ModelError:
        raise
    except Exception as error:  # whatever a build of the package without this device says
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"quantize {bits} does not work on {device}: {why}\n  fix: quantize: 8bit, or null") from error


def into_few_bits(model: PreTrainedModel, bits: Bits, device: torch.device | str) -> None:
    """Puts every linear layer but the language head into few bits on `device`, one after the other.

    Embedding, head, norms and fused experts stay as they are.
    """
    head = model.get_output_embeddings()
    for name, part in list(model.named_modules()):
        if isinstance(part, nn.Linear | Conv1D) and part is not head:
            above, _, last = name.rpartition(".")
            setattr(model.get_submodule(above), last, QuantizedLinear(part, bits, device))


def turned(layer: nn.Module) -> bool:
    """Whether the weight of a layer stands the other way round in the model's files, as [in, out]."""
    return isinstance(layer, Conv1D) or (isinstance(layer, QuantizedLinear) and layer.turned)


def quantized_layers(model: nn.Module) -> Iterator[QuantizedLinear]:
    """The layers of a model that are in few bits."""
    return (part for part in model.modules() if isinstance(part, QuantizedLinear))


def weights_in(model: nn.Module) -> int:
    """The number of weights of a model, those in few bits counted as what they stand for."""
    packed = sum(part.in_features * part.out_features for part in quantized_layers(model))
    return packed + sum(part.numel() for part in model.parameters())


def bytes_of_weight(bits: Bits) -> float:
    """Bytes that a weight in few bits takes, its share of the scales included for 4 bits."""
    return 1.0 if bits == "8bit" else 0.5 + 1 / BLOCK + 4 / (BLOCK * 256)
