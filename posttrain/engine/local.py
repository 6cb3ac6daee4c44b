"""One process's engine: losses in, one update out. Verbs: fetched, backward, step, total, state."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from posttrain.data.ahead import ahead
from posttrain.engine.optimizers import MakeOptimizer, Numbers, adamw
from posttrain.engine.scaling import LossScale
from posttrain.errors import Diverged
from posttrain.types import Batch, State, Stateful, moved, pinned

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

    def fetched(self, batches: Iterable[Batch]) -> Generator[Batch]:
        """The batches where the weights are."""
        ...


class LocalEngine:
    """Updates on one device, with a schedule and a gradient norm limit for each group.

    `half` of float16 is autocast with a loss scale; weights in bfloat16 have float32 masters and need neither.
    """

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        *,
        schedule: Schedule,
        grad_clip: float | None,
        weight_decay: float = 0.0,
        half: torch.dtype | None = None,
        optimizer: MakeOptimizer = adamw,
    ) -> None:
        self._groups = tuple(groups)
        self._schedule = schedule
        self._grad_clip = grad_clip
        self._autocasts = half == torch.float16
        self._scale = LossScale() if self._autocasts else None
        self._done = 0
        self._device = next(iter(groups[0].parameters)).device
        self._optimizer = optimizer([group.parameters for group in groups], weight_decay)

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters of all groups, in order."""
        return [parameter for group in self._groups for parameter in group.parameters]

    @property
    def gradients(self) -> int:
        """Bytes of all gradients on the weights' device."""
        return sum(part.numel() * (part.grad_dtype or part.dtype).itemsize for part in self.trained)

    @property
    def on_device(self) -> int:
        """Bytes on the weights' device that the optimizer takes on in its first update; 0 once it has them."""
        return 0 if self._optimizer.numbers() else sum(map(self._optimizer.takes, self.trained))

    def clear(self) -> None:
        """Forgets every gradient."""
        for parameter in self.trained:
            parameter.grad = None

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of `loss` to what the next step applies."""
        scaled = loss if self._scale is None else loss * self._scale.value
        scaled.backward()  # pyright: ignore[reportUnknownMemberType]

    def step(self, rows: Sequence[str]) -> dict[str, float]:
        """Clips each group's gradient, updates, clears. Raises Diverged before an update that would not be finite.

        In float16 such a gradient first lowers the loss scale: the step counts as `skipped`, and changes nothing.
        """
        factor = self._schedule(self._done)
        rates = [group.learning_rate * factor for group in self._groups]
        norms = self._norms()
        bad = [group.name for group, norm in zip(self._groups, norms, strict=True) if not math.isfinite(norm)]
        skipped = bool(bad) and self._scale is not None and self._scale.lowered()
        if bad and not skipped:
            self._diverged(bad[0], rows)
        metrics: dict[str, float] = {}
        for group, norm, rate in zip(self._groups, norms, rates, strict=True):
            suffix = "" if len(self._groups) == 1 else f"_{group.name}"
            if not skipped:
                metrics[f"grad_norm{suffix}"] = norm
            metrics[f"learning_rate{suffix}"] = rate
        if not skipped:
            self._optimizer.step(rates)
            self._done += 1
        self.clear()
        return metrics if self._scale is None else metrics | self._scaled(skipped=skipped)

    def _norms(self) -> list[float]:
        """The norm of each group's gradient, which is divided by the loss scale and clipped."""
        if self._scale is not None:
            gradients = [part.grad for part in self.trained if part.grad is not None]
            if gradients:
                torch._foreach_mul_(gradients, 1 / self._scale.value)  # pyright: ignore[reportPrivateUsage]
        return [self._clipped(group.parameters) for group in self._groups]

    def _clipped(self, parameters: Sequence[nn.Parameter]) -> float:
        """The norm of these gradients, which are scaled down to the limit only where they are above it."""
        gradients = [part.grad for part in parameters if part.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True)
        found = float(norm)
        if self._grad_clip is not None and found > self._grad_clip:
            nn.utils.clip_grads_with_norm_(parameters, self._grad_clip, norm, foreach=True)
        return found

    def _scaled(self, *, skipped: bool) -> dict[str, float]:
        """What is told of the loss scale after a step."""
        if self._scale is None:
            return {}
        if not skipped:
            self._scale.raised()
        return {"skipped": float(skipped), "loss_scale": self._scale.value}

    def _diverged(self, group: str, rows: Sequence[str]) -> None:
        self.clear()
        shown = ", ".join(rows[:8]) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
        raise Diverged(
            f"update {self._done + 1}: the gradient of {group} is not finite; nothing was updated"
            f"\n  rows in the batch: {shown}\n  fix: lower learning_rate, or look at these rows"
        )

    def total(self, tensor: Tensor) -> Tensor:
        """The tensor itself: one rank is all there are."""
        return tensor

    def precision(self) -> AbstractContextManager[object]:
        """Autocast for float16; else computations follow the weights. Optimizer and log-softmax are float32 always."""
        return torch.autocast(self._device.type, dtype=torch.float16, enabled=self._autocasts)

    def place(self, batch: Batch) -> Batch:
        """The batch on this engine's device."""
        return moved(batch, self._device)

    def fetched(self, batches: Iterable[Batch]) -> Generator[Batch]:
        """The batches on this engine's device; a GPU gets each while it works on the one before."""
        if self._device.type != "cuda":
            yield from map(self.place, batches)
            return
        with closing(ahead(batches, pinned)) as waiting:
            yield from map(self.place, waiting)

    def state(self) -> State:
        """The optimizer's numbers by place, the number of updates, and the loss scale where there is one."""
        found: State = {"done": self._done, **(self._scale.state() if self._scale else {})}
        for number, noted in self._optimizer.numbers().items():
            for name, value in noted.items():
                found[f"{number}.{name}"] = value
        return found

    def load_state(self, state: State) -> None:
        """Takes up where `state` was taken; the weights have their values already."""
        self._done = cast("int", state["done"])
        if self._scale is not None:
            self._scale.load_state(state)
        numbers: dict[int, Numbers] = {}
        for key, value in state.items():
            number, _, name = key.partition(".")
            if name:
                numbers.setdefault(int(number), {})[name] = value
        self._optimizer.take(numbers)


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
