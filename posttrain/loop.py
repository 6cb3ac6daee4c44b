"""The only training loop: a source's steps through an objective into an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext

import torch
from torch import Tensor

from posttrain.engine.local import Engine
from posttrain.errors import Diverged
from posttrain.types import Batch, Hook, Largest, Mean, Objective, Scored, Step, objectives_of


def fit(
    source: Iterable[Step],
    objective: Objective,
    engine: Engine,
    *,
    hooks: Sequence[Hook] = (),
    start: int = 0,
    whole: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> int:
    """Trains to the end of the source; the number of the last step. Hooks see every step, in their order.

    An update and its hooks happen inside `whole()`: between two of them nothing is half done, and before its update a
    step has changed no weight. Raises Diverged, before the update, when a loss or gradient is not finite.
    """
    number = start
    for number, step in enumerate(source, start + 1):
        means = accumulate(step, objective, engine)
        with whole():
            update = engine.step(step.rows)
            metrics = {**step.metrics, **means, **update}
            for hook in hooks:
                hook(number, metrics)
    return number


def accumulate(step: Step, objective: Objective, engine: Engine) -> dict[str, float]:
    """Adds up the gradient of a step's micro-batches and returns its metrics, divided once.

    Raises RuntimeError where there is something to divide by and nothing to add up: batches may come but once.
    """
    totals: dict[str, Mean | Largest] = {}
    empty = True
    with closing(engine.fetched(step.micro_batches)) as batches:
        for batch in batches:
            empty = False
            for part in objectives_of(objective):
                _merge(totals, backwards(part, batch, step.counts, engine))
    if empty and any(step.counts.values()):
        raise RuntimeError(f"a step that counts {dict(step.counts)} has no micro-batches: were they taken before?")
    return _divided(totals, engine, step)


def backwards(
    objective: Objective, batch: Batch, counts: Mapping[str, float], engine: Engine
) -> Mapping[str, Mean | Largest]:
    """Adds the gradient of an objective on a micro-batch, and gives its metrics; nothing of its graph is left."""
    with engine.precision():
        scored = objective(batch)
        loss = loss_of(scored, counts)
    if loss is not None:
        engine.backward(loss)
    return scored.metrics


def loss_of(scored: Scored, counts: Mapping[str, float]) -> Tensor | None:
    """The sum over terms of weight * total / count; None when no term stands. A term without a count is an error."""
    loss: Tensor | None = None
    for name, term in scored.terms.items():
        part = term.total * (term.weight / counts[name])
        loss = part if loss is None else loss + part
    return loss


def measure(batches: Iterable[Batch], objective: Objective, engine: Engine) -> dict[str, float]:
    """The metrics of an objective over batches without training, divided once: they do not depend on batch size."""
    totals: dict[str, Mean | Largest] = {}
    with torch.inference_mode(), closing(engine.fetched(batches)) as fetched:
        for batch in fetched:
            with engine.precision():
                _merge(totals, objective(batch).metrics)
    return _values(totals, engine)


def every(steps: int | None, act: Callable[[int], Mapping[str, float]], *, last: int) -> list[Hook]:
    """A hook that acts after each `steps` steps and after the last one, and adds what it measured; none for None."""
    if steps is None:
        return []

    def hook(number: int, metrics: dict[str, float]) -> None:
        if number % steps == 0 or number == last:
            metrics.update(act(number))

    return [hook]


def _merge(totals: dict[str, Mean | Largest], metrics: Mapping[str, Mean | Largest]) -> None:
    for name, found in metrics.items():
        before = totals.get(name, found)
        if before is found:
            totals[name] = found
        elif isinstance(found, Mean) and isinstance(before, Mean):
            totals[name] = Mean(total=before.total + found.total, count=before.count + found.count)
        elif isinstance(found, Largest) and isinstance(before, Largest):
            totals[name] = Largest(value=torch.maximum(before.value, found.value))
        else:
            raise TypeError(f"{name} is a mean in one micro-batch and a largest value in another")


def _divided(totals: Mapping[str, Mean | Largest], engine: Engine, step: Step) -> dict[str, float]:
    metrics = _values(totals, engine)
    for name, value in metrics.items():
        if "loss" in name and value != value:
            shown = ", ".join(step.rows[:8])
            raise Diverged(f"{name} is not a number; nothing was updated\n  rows in the batch: {shown}")
    return metrics


def _values(totals: Mapping[str, Mean | Largest], engine: Engine) -> dict[str, float]:
    """The number of each metric, over all ranks; a device is waited for twice, however many there are."""
    means = {name: found for name, found in totals.items() if isinstance(found, Mean)}
    largest = {name: found.value for name, found in totals.items() if isinstance(found, Largest)}
    values: dict[str, float] = {}
    if means:
        sums = torch.stack([torch.stack([mean.total.double(), mean.count.double()]) for mean in means.values()])
        for name, (total, count) in zip(means, engine.total(sums).tolist(), strict=True):
            values[name] = total / count if count else 0.0
    if largest:
        values |= dict(zip(largest, torch.stack(list(largest.values())).tolist(), strict=True))
    return {name: values[name] for name in totals}
