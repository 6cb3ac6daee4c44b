"""Weights in bfloat16, and the float32 values behind those that are trained: their masters.

A master is what the optimizer updates, checkpoints hold and folders get; the model computes with it rounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

_masters = WeakIdKeyDictionary()


def into_bf16(model: nn.Module, *, trained: bool) -> None:
    """From here on the float32 weights of a model are bfloat16, but for those that its family keeps in float32.

    The magnitudes of DoRA stay too: rounded, a new adapter would change something. What rounding takes off is kept as
    the weight's master where the weights are `trained`, and for adapters always, which may go on learning.
    """
    stays = _kept_by_family(model)
    for name, part in model.named_parameters():
        if part.dtype != torch.float32 or stays(name) or "lora_magnitude_vector" in name:
            continue
        whole, half = part.detach(), part.detach().bfloat16()
        if (trained or ".lora_" in name) and not torch.equal(half.float(), whole):
            set_master(part, whole)
        part.data = half


def _kept_by_family(model: nn.Module) -> Callable[[str], bool]:
    """Whether the family of a model wants a weight in float32 whatever the rest is in, as routers of experts."""
    names: Iterable[str] = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    patterns = [re.compile(rf"(^|\.){re.escape(name)}(\.|$)") for name in names]
    return lambda name: any(pattern.search(name) for pattern in patterns)


def is_bf16(model: nn.Module) -> bool:
    """Whether a model has weights in bfloat16."""
    return any(part.dtype == torch.bfloat16 for part in model.parameters())


def multiplies_bf16() -> bool:
    """Whether the CPU multiplies in bfloat16; without, a layer took 5 times as long forwards and 25 times backwards."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def master_of(parameter: Tensor) -> Tensor:
    """The float32 values of a parameter, perhaps on another device; the parameter itself where it is all there is."""
    return cast("Tensor", _masters.get(parameter, parameter))


def set_master(parameter: Tensor, master: Tensor) -> None:
    """`parameter` is a rounded copy of `master` from here on."""
    _masters[parameter] = master.detach()


def set_values(parameter: Tensor, values: Tensor) -> None:
    """A parameter has these values; one in bfloat16 has them rounded, and whole in its master."""
    master = master_of(parameter)
    with torch.no_grad():
        parameter.copy_(values)
        if master is not parameter:
            master.copy_(values)
        elif parameter.dtype == torch.bfloat16:
            set_master(parameter, values.to(parameter.device, torch.float32, copy=True))


@contextmanager
def in_float32(parameters: Iterable[nn.Parameter], *, whole: bool = False) -> Generator[None]:
    """Inside, parameters in bfloat16 have their values in float32; `whole`: those of their masters."""
    held = [(part, part.data) for part in parameters if part.dtype == torch.bfloat16]
    for part, values in held:
        part.data = (master_of(part) if whole else values).to(part.device, torch.float32)
    try:
        yield
    finally:
        for part, values in held:
            part.data = values.copy_(part.data) if not whole else values
