"""One process's engine: losses in, one update out. Verbs: place, backward, step, total, state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from posttrain.errors import Diverged
from posttrain.types import JSON, Batch, State, Stateful, moved

Schedule = Callable[[int], float]
"""From the number of updates done to the factor on every learning rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterGroup:
    """Parameters that share a learning rate and a gradient norm: an actor's, a critic's."""

    name: str
    parameters: Sequence[nn.Parameter]
    learning_rate: float


class Engine(Stateful, Protocol):
    """What the loop needs of a machine, be it one device or many."""

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of `loss` to what the next step applies."""
        ...

    def step(self, rows: Sequence[str]) -> dict[str, float]:
        """Clips, updates, clears; gradient norms and learning rates by group. Raises Diverged before a bad update."""
        ...

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks."""
        ...

    def precision(self) -> AbstractContextManager[object]:
        """Forward passes run inside."""
        ...

    def place(self, batch: Batch) -> Batch:
        """The batch where the weights are."""
        ...


class LocalEngine:
    """AdamW on one device, with a schedule and a gradient norm limit for each group."""

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        *,
        schedule: Schedule,
        grad_clip: float | None,
        weight_decay: float = 0.0,
        bf16: bool = False,
    ) -> None:
        self._groups = tuple(groups)
        self._schedule = schedule
        self._grad_clip = grad_clip
        self._bf16 = bf16
        self._done = 0
        self._device = next(iter(groups[0].parameters)).device
        self._optimizer = torch.optim.AdamW(
            [{"params": list(group.parameters), "lr": group.learning_rate} for group in groups],
            betas=(0.9, 0.95),
            eps=1e-8,
            weight_decay=weight_decay,
            fused=True,
        )

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters of all groups, in order."""
        return [parameter for group in self._groups for parameter in group.parameters]

    @property
    def has_moments(self) -> bool:
        """Whether the optimizer holds its moments already: they are made in the first update."""
        return bool(self._optimizer.state)

    def clear(self) -> None:
        """Forgets every gradient."""
        self._optimizer.zero_grad(set_to_none=True)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of `loss` to what the next step applies."""
        loss.backward()  # pyright: ignore[reportUnknownMemberType]

    def step(self, rows: Sequence[str]) -> dict[str, float]:
        """Clips each group's gradient, updates, clears. Raises Diverged before an update that would not be finite."""
        factor = self._schedule(self._done)
        metrics: dict[str, float] = {}
        for group, slot in zip(self._groups, self._optimizer.param_groups, strict=True):
            norm = self._norm(group, rows)
            suffix = "" if len(self._groups) == 1 else f"_{group.name}"
            slot["lr"] = group.learning_rate * factor
            metrics[f"grad_norm{suffix}"] = norm
            metrics[f"learning_rate{suffix}"] = slot["lr"]
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._done += 1
        return metrics

    def _norm(self, group: ParameterGroup, rows: Sequence[str]) -> float:
        limit = math.inf if self._grad_clip is None else self._grad_clip
        norm = float(nn.utils.clip_grad_norm_(group.parameters, limit, foreach=True))
        if not math.isfinite(norm):
            self._optimizer.zero_grad(set_to_none=True)
            shown = ", ".join(rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
            raise Diverged(
                f"update {self._done + 1}: the gradient of {group.name} is not finite; nothing was updated"
                f"\n  rows in the batch: {shown}\n  fix: lower learning_rate, or look at these rows"
            )
        return norm

    def total(self, tensor: Tensor) -> Tensor:
        """The tensor itself: one rank is all there are."""
        return tensor

    def precision(self) -> AbstractContextManager[object]:
        """bfloat16 autocast when asked for; weights, optimizer and log-softmax stay float32."""
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._bf16)

    def place(self, batch: Batch) -> Batch:
        """The batch on this engine's device."""
        return moved(batch, self._device)

    def state(self) -> State:
        """The optimizer's moments and the number of updates, by place."""
        found: State = {"done": self._done}
        for number, entry in self._optimizer.state_dict()["state"].items():
            for name, value in entry.items():
                found[f"{number}.{name}"] = value
        return found

    def load_state(self, state: State) -> None:
        """Takes up where `state` was taken."""
        self._done = cast("int", state["done"])
        moments: dict[int, dict[str, JSON | Tensor]] = {}
        for key, value in state.items():
            number, _, name = key.partition(".")
            if name:
                moments.setdefault(int(number), {})[name] = value
        whole = self._optimizer.state_dict()
        whole["state"] = moments
        self._optimizer.load_state_dict(whole)


def schedule(kind: str, *, steps: int, warmup: float) -> Schedule:
    """Linear warm-up over the share `warmup` of the steps, then `cosine` or `linear` to 0, or `constant`."""
    rising = round(warmup * steps)

    def factor(done: int) -> float:
        if done < rising:
            return (done + 1) / rising
        share = min(1.0, (done - rising) / max(1, steps - rising))
        if kind == "cosine":
            return 0.5 * (1 + math.cos(math.pi * share))
        return 1 - share if kind == "linear" else 1.0

    return factor
