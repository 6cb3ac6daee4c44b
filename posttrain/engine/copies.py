"""Copies of states in CPU memory, so that what they are of may change while they are written."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from posttrain.types import State


class Copies:
    """Copies states into memory that it holds on to: fresh pages cost a CPU several times the copying."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], Tensor] = {}

    def of(self, states: Mapping[str, State]) -> dict[str, State]:
        """The states with every tensor copied, none sharing memory with another; the copies before are written over.

        What is not a tensor is taken as it is.
        """
        held: dict[tuple[str, str], Tensor] = {}
        made: dict[str, State] = {}
        for name, state in states.items():
            made[name] = {**state}
            for key, value in state.items():
                if isinstance(value, Tensor):
                    made[name][key] = held[name, key] = self._copy((name, key), value.detach())
        self._held = held
        return made

    def _copy(self, place: tuple[str, str], value: Tensor) -> Tensor:
        before = self._held.get(place)
        if before is None or (before.shape, before.dtype) != (value.shape, value.dtype):
            before = torch.empty(value.shape, dtype=value.dtype)
        return before.copy_(value)
