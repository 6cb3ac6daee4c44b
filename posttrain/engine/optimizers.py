"""What updates weights: AdamW in 32 or in 8 bits, of float32 weights always, beside the model or in CPU memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor, nn

from posttrain.errors import ModelError
from posttrain.models.precision import master_of, set_master
from posttrain.types import JSON

BETAS, EPSILON = (0.9, 0.95), 1e-8
LEAST = 4096
"""Weights of the smallest tensor whose moments bitsandbytes keeps in 8 bits."""
Numbers: TypeAlias = "dict[str, JSON | Tensor]"
"""What an optimizer has noted of one parameter, by name."""


class Optimizer(Protocol):
    """Updates groups of parameters from the gradients that stand on them."""

    def step(self, rates: Sequence[float]) -> None:
        """One update, each group at its learning rate."""
        ...

    def numbers(self) -> dict[int, Numbers]:
        """What is noted of each parameter, by its place; nothing before the first update."""
        ...

    def take(self, numbers: Mapping[int, Numbers]) -> None:
        """Goes on from these numbers; the parameters have their values already."""
        ...

    def takes(self, parameter: Tensor) -> int:
        """Bytes that the numbers of a parameter take on its device."""
        ...


MakeOptimizer = Callable[[Sequence[Sequence[nn.Parameter]], float], Optimizer]
"""From groups of parameters and the weight decay."""


class InPlace:
    """An optimizer of torch, its numbers beside the weights: two of `bytes_each` for each of them."""

    def __init__(self, optimizer: torch.optim.Optimizer, *, bytes_each: int = 4, least: int = 0) -> None:
        self._optimizer = optimizer
        self._bytes_each, self._least = bytes_each, least
        self._parameters = [part for slot in optimizer.param_groups for part in cast("list[Tensor]", slot["params"])]

    def step(self, rates: Sequence[float]) -> None:
        """One update, each group at its learning rate."""
        for slot, rate in zip(self._optimizer.param_groups, rates, strict=True):
            slot["lr"] = rate
        self._optimizer.step()

    def numbers(self) -> dict[int, Numbers]:
        """What is noted of each parameter that has had a gradient, by its place."""
        state = cast("Mapping[Tensor, Numbers]", self._optimizer.state)
        return {place: {**state[part]} for place, part in enumerate(self._parameters) if part in state}

    def takes(self, parameter: Tensor) -> int:
        """Bytes of both moments; tensors below the least size keep theirs in 32 bits."""
        return 2 * parameter.numel() * (self._bytes_each if parameter.numel() >= self._least else 4)

    def take(self, numbers: Mapping[int, Numbers]) -> None:
        """Goes on from these numbers, on each parameter's device."""
        for place, noted in numbers.items():
            part = self._parameters[place]
            self._optimizer.state[part] = {
                name: value.to(part.device) if isinstance(value, Tensor) else value for name, value in noted.items()
            }


class Masters:
    """An optimizer of float32 copies of the weights: of those in bfloat16, or with `device` of all, which lie there.

    Gradients go to the copies and new weights come back, rounded where the model is in bfloat16. The gradients of such
    weights are added up in float32 as well. A weight that needs no copy is updated itself.
    """

    def __init__(
        self,
        make: MakeOptimizer,
        groups: Sequence[Sequence[nn.Parameter]],
        weight_decay: float,
        device: torch.device | None = None,
    ) -> None:
        self._here = [part for group in groups for part in group]
        self._apart = device is not None
        masters = [[_copy(part, device) for part in group] for group in groups]
        self._masters = [part for group in masters for part in group]
        self._inner = make(masters, weight_decay)

    def step(self, rates: Sequence[float]) -> None:
        """One update, each group at its learning rate."""
        copied = [pair for pair in zip(self._here, self._masters, strict=True) if pair[0] is not pair[1]]
        for here, master in copied:
            master.grad = None if here.grad is None else here.grad.to(master.device)
        self._inner.step(rates)
        with torch.no_grad():
            for here, master in copied:
                here.copy_(master)
                master.grad = None

    def numbers(self) -> dict[int, Numbers]:
        """What is noted of each parameter, by its place."""
        return self._inner.numbers()

    def takes(self, parameter: Tensor) -> int:
        """Bytes of the moments, which take none on the weights' device where they are kept apart."""
        return 0 if self._apart else self._inner.takes(parameter)

    def take(self, numbers: Mapping[int, Numbers]) -> None:
        """Goes on from these numbers, and from the values that the parameters and their masters have."""
        with torch.no_grad():
            for here, master in zip(self._here, self._masters, strict=True):
                if here is not master and here.dtype == master.dtype:
                    master.copy_(here)
        self._inner.take(numbers)


def _copy(part: nn.Parameter, device: torch.device | None) -> nn.Parameter:
    """What is updated for a parameter: a float32 copy on `device`, or where there is no need of one, itself."""
    half = part.dtype == torch.bfloat16
    if not half and device is None:
        return part
    found = master_of(part).detach().to(part.device if device is None else device, torch.float32)
    master = nn.Parameter(found.clone() if found.data_ptr() == part.data_ptr() else found)
    if half:
        part.grad_dtype = torch.float32
        set_master(part, master)
    return master


def adamw(groups: Sequence[Sequence[nn.Parameter]], weight_decay: float) -> Optimizer:
    """AdamW (Loshchilov 2019) with two moments of 32 bits a weight."""
    return Masters(_adamw, groups, weight_decay)


def _adamw(groups: Sequence[Sequence[nn.Parameter]], weight_decay: float) -> Optimizer:
    slots = [{"params": list(group)} for group in groups]
    return InPlace(torch.optim.AdamW(slots, betas=BETAS, eps=EPSILON, weight_decay=weight_decay, fused=True))


def adamw8bit(groups: Sequence[Sequence[nn.Parameter]], weight_decay: float) -> Optimizer:
    """The same with moments of 8 bits in blocks (Dettmers 2022); those of tensors below 4,096 stay in 32.

    Blocks have 256 numbers, as bitsandbytes has them; the paper has 2,048.
    Raises ModelError where bitsandbytes is not installed.
    """
    return Masters(_adamw8bit, groups, weight_decay)


def _adamw8bit(groups: Sequence[Sequence[nn.Parameter]], weight_decay: float) -> Optimizer:
    slots = [{"params": list(group)} for group in groups]
    kind = _eight_bits().AdamW8bit
    made = cast("torch.optim.Optimizer", kind(slots, betas=BETAS, eps=EPSILON, weight_decay=weight_decay))
    return InPlace(made, bytes_each=1, least=LEAST)


def on_cpu(make: MakeOptimizer) -> MakeOptimizer:
    """The same optimizer with its numbers and its copy of the weights in CPU memory: two copies an update."""
    return lambda groups, weight_decay: Masters(make, groups, weight_decay, torch.device("cpu"))


def check_eight_bits(device: torch.device) -> None:
    """Raises ModelError when this machine has no AdamW of 8 bits, before anything is read."""
    try:
        part = nn.Parameter(torch.zeros(LEAST, device=device))
        part.grad = torch.ones_like(part)
        adamw8bit([[part]], 0.0).step([1e-3])
    except ModelError:
        raise
    except Exception as error:  # whatever a build of the package without this device says
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"optimizer adamw8bit does not work on {device}: {why}\n  fix: optimizer: adamw") from error


def _eight_bits() -> Any:
    try:
        return import_module("bitsandbytes.optim")
    except ImportError as error:
        raise ModelError(
            "optimizer adamw8bit needs the package bitsandbytes, which is not installed"
            "\n  fix: pip install 'posttrain[quantize]', or optimizer: adamw"
        ) from error
