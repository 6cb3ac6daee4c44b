"""A number of 32 bits for what a tensor holds, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

_WIDTH = 2**16
# Rows of that width which are multiplied at once: few stay in a processor's cache, many keep a GPU busy.
_ROWS = {"cpu": 4}
_MANY = 64


def fingerprints(tensors: Sequence[Tensor]) -> list[int]:
    """One number in [0, 2**32) for each tensor: other bits, or the same ones in other places, give another number.

    `sum of bits[i] * across[i % 65536] * down[i // 65536]` modulo 2**32, where `bits` are the values as integers in the
    order of the tensor's axes and both weights are fixed odd numbers. One changed value always changes it, several do
    but for one chance in 2**32. Nothing is rounded, so that neither threads nor the device matter; a tensor without
    values gives 0. Each device is waited for once, however many tensors there are.
    """
    found = [_sum(tensor.detach()) for tensor in tensors]
    numbers = [0] * len(found)
    for device in dict.fromkeys(part.device for part in found):
        places = [place for place, part in enumerate(found) if part.device == device]
        for place, number in zip(places, torch.stack([found[place] for place in places]).tolist(), strict=True):
            numbers[place] = number % 2**32
    return numbers


def _sum(tensor: Tensor) -> Tensor:
    bits = _bits(tensor)
    across, down = _weights(bits.device)
    whole, rest = divmod(len(bits), _WIDTH)
    if not whole:  # most tensors of a small model: as few calls as can be, since `down` begins with 1
        return (bits * across[:rest]).sum(dtype=torch.int32)
    rows = bits[: whole * _WIDTH].view(whole, _WIDTH).split(_ROWS.get(bits.device.type, _MANY))
    last = (bits[whole * _WIDTH :] * across[:rest]).sum(dtype=torch.int32)
    sums = torch.cat([*((part * across).sum(1, dtype=torch.int32) for part in rows), last.view(1)])
    again = torch.arange(whole + 1, device=bits.device) % _WIDTH
    return (sums * down[again]).sum(dtype=torch.int32)


def _bits(tensor: Tensor) -> Tensor:
    """Int32 [N]: the values as they lie in memory, those of fewer than 32 bits each in a number of its own."""
    flat = tensor.reshape(-1)
    narrow = {1: torch.int8, 2: torch.int16}.get(flat.element_size())
    return flat.view(torch.int32) if narrow is None else flat.view(narrow).to(torch.int32)


@lru_cache
def _weights(device: torch.device) -> tuple[Tensor, Tensor]:
    """Two int32 [65536] of odd numbers, the same everywhere, the second beginning with 1 (Steele 2014, SplitMix)."""
    state = torch.arange(1, 2 * _WIDTH + 1) * _signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ ((state >> shift) & (2 ** (64 - shift) - 1))) * _signed(factor)
    odd = ((state >> 32) | 1).to(torch.int32).to(device)
    odd[_WIDTH] = 1
    return odd[:_WIDTH], odd[_WIDTH:]


def _signed(number: int) -> int:
    return number - 2**64
