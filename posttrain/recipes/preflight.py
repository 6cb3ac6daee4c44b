"""The worst batch first: before the first step a run measures what that takes, and picks what fits."""

from __future__ import annotations

import gc
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from posttrain.config import Training
from posttrain.engine.checkpoint import RandomNumbers
from posttrain.engine.local import LocalEngine
from posttrain.engine.memory import available, bytes_of, peak_of
from posttrain.errors import DoesNotFit, out_of_memory
from posttrain.loop import backwards
from posttrain.models.compiled import plainly
from posttrain.models.precision import master_of
from posttrain.recipes.disk import checkpoint, free_disk, refuse_shortage, writes
from posttrain.recipes.forecast import (
    BETTER,
    CACHE,
    COPY,
    COPY_APART,
    LENT,
    MASTERS,
    Forecast,
    highest,
    is_copied,
    shortage,
    size,
)
from posttrain.recipes.load import Load
from posttrain.recipes.setup import Machine, Telling
from posttrain.recipes.weights import BYTES
from posttrain.types import Batch, Objective, Step, TokenBatch, objectives_of

SMALL = 1024
"""Tokens of the first try, from which the memory of larger batches is bounded."""
LEAST = 512
SHARE = 0.85
"""The part of the free memory that a run plans with: other processes and the allocator take their own."""


class Rehearsed(Exception):
    """A dry run has come to where training would begin."""

    def __init__(self, forecast: Forecast) -> None:
        super().__init__(forecast.line)
        self.forecast = forecast


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Bytes and seconds of one micro-batch of `tokens`, forwards and backwards."""

    tokens: int
    peak: int
    seconds: float


class Preflight:
    """Tries micro-batches of a run without changing it: gradients and random numbers are as before."""

    def __init__(self, objective: Objective, engine: LocalEngine, where: Machine) -> None:
        self._objective = objective
        self._engine = engine
        self.device = where.device
        self._checkpointing = where.checkpointing
        gc.collect()
        self.free = available(where.device)
        trained = engine.trained
        self.weights = sum(part.numel() for part in trained)
        self.gradients = engine.gradients
        self.optimizer = engine.on_device

    def settle(self, load: Load) -> Trial:
        """Picks the tokens of a micro-batch where they are automatic, and tries the worst one.

        Raises DoesNotFit when even the longest row alone is too much, or what the settings ask for is.
        """
        budget, floor = load.budget, max(load.longest, LEAST)
        with self._undisturbed():
            tokens = min(SMALL, budget.tokens)
            step = load.worst(tokens)
            batch = next(iter(step.micro_batches))
            self._train(step, batch)  # so that gradients exist, and nothing is done for the first time
            small = self._try(step, batch)
            while True:
                step = load.worst(budget.tokens)
                batches = list(islice(step.micro_batches, 2))
                wanted = self._wanted(small, _tokens(batches[0]), load)
                fits = highest(wanted) <= SHARE * self.free
                trial = self._largest(step, batches, small) if fits else None
                if trial is not None:
                    return trial
                if not budget.automatic or budget.tokens <= floor:
                    self._refuse(load, wanted, _tokens(batches[0]))
                budget.tokens = max(floor, budget.tokens // 2)

    def _largest(self, step: Step, batches: Sequence[Batch], small: Trial) -> Trial | None:
        """The first micro-batch of the worst step, tried; None when there was no room for it."""
        alone = len(batches) == 1
        if _tokens(batches[0]) <= small.tokens and not alone:
            return small
        if alone:
            # The only micro-batch of its step begins without gradients: they grow while activations shrink.
            self._engine.clear()
        try:
            trial = self._try(step, batches[0])
        except Exception as error:
            if not out_of_memory(error):
                raise
            self._engine.clear()
            return None
        peak = max(0, trial.peak - self.gradients) if alone else trial.peak
        return Trial(tokens=trial.tokens, peak=peak, seconds=trial.seconds)

    def _try(self, step: Step, batch: Batch) -> Trial:
        began = time.perf_counter()
        peak = peak_of(lambda: self._train(step, batch), self.device)
        return Trial(tokens=_tokens(batch), peak=peak, seconds=time.perf_counter() - began)

    def _train(self, step: Step, batch: Batch) -> None:
        # On a CPU tensors are counted as operations make them, and what is compiled makes its own unseen.
        with plainly() if self.device.type == "cpu" else nullcontext():
            placed = self._engine.place(batch)
            for part in objectives_of(self._objective):
                backwards(part, placed, step.counts, self._engine)

    def better(self, load: Load) -> dict[str, int]:
        """What better weights than the best take beside these, where the run keeps some and trains on a CPU."""
        return {BETTER: self.weights * BYTES} if "best" in load.kept and self.device.type == "cpu" else {}

    def _wanted(self, small: Trial, tokens: int, load: Load) -> dict[str, int]:
        activations = round(small.peak * max(1.0, tokens / small.tokens))
        return {
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": activations,
            CACHE: load.cache,
            **self.better(load),
        }

    def _refuse(self, load: Load, wanted: dict[str, int], tokens: int) -> None:
        raise DoesNotFit(shortage(wanted, round(SHARE * self.free), tokens, list(self._fixes(load, wanted))))

    def _fixes(self, load: Load, wanted: dict[str, int]) -> Iterable[str]:
        tokens, activations = load.budget.tokens, wanted["activations"]
        held = wanted["gradients"] + wanted["optimizer"]
        if tokens > max(load.longest, LEAST):
            # A run that goes on keeps its tokens where they are automatic.
            auto = "" if load.budget.going_on else "auto, or "
            yield f"--micro_batch_tokens {auto}{max(load.longest, tokens // 2):,}: the same results in less memory"
        if activations > held and not self._checkpointing:
            yield "--activation_checkpointing true: the same results in less memory, slower by about a third"
        if tokens <= load.longest and load.longest > LEAST:
            saved = size(activations / 2)
            yield f"--max_length {load.longest // 2}: {saved} less; longer rows are dropped, counted and said"
        if held > 0.1 * highest(wanted):
            yield f"--lora.rank 16: nearly {size(held)} less, for gradients and optimizer"
        if wanted[CACHE] > activations:
            yield "fewer rollouts, or a smaller max_new_tokens"
        yield "a smaller model, or a machine with more memory"

    @contextmanager
    def _undisturbed(self) -> Generator[None]:
        numbers = RandomNumbers()
        before = numbers.state()
        try:
            yield
        finally:
            self._engine.clear()
            numbers.load_state(before)
            gc.collect()


def forecast(
    config: Training, steps: int, load: Load, trial: Trial, preflight: Preflight, models: Iterable[nn.Module]
) -> Forecast:
    """What the run will take, by what was measured. `models`: those that are trained."""
    parts = [part for model in (*models, *load.frozen) for part in model.parameters()]
    of = [*parts, *(part for model in (*models, *load.frozen) for part in model.buffers())]
    masters = [master for part in parts if (master := master_of(part)) is not part]
    here = [tensor for tensor in of if tensor.device.type == preflight.device.type]
    memory = {
        "weights": bytes_of(here),
        "gradients": preflight.gradients,
        "optimizer": preflight.optimizer,
        "activations": trial.peak,
        **preflight.better(load),
    }
    if masters:
        memory[MASTERS] = bytes_of([part for part in masters if part.device.type == preflight.device.type])
    if load.cache:
        memory[CACHE] = load.cache
    if len(here) < len(of):
        memory[LENT] = bytes_of(of) - bytes_of(here)
    if config.save_every is not None:
        memory |= _copy(checkpoint(preflight.weights, load.kept), memory, preflight, load)
    return Forecast(
        command=config.command,
        steps=steps,
        tokens=trial.tokens,
        memory=memory,
        available=preflight.free,
        disk=writes(config, preflight.weights, load.kept),
        disk_free=free_disk(Path(config.out)),
        seconds=trial.seconds / max(1, trial.tokens) * load.tokens,
    )


def _copy(size: int, memory: Mapping[str, int], preflight: Preflight, load: Load) -> dict[str, int]:
    """The copy of a checkpoint, where it has room in CPU memory beside everything else; nothing where it has not."""
    if preflight.device.type == "cpu":
        return {COPY: size} if highest(memory) + size <= SHARE * preflight.free else {}
    better = preflight.weights * BYTES if "best" in load.kept else 0
    return {COPY_APART: size} if size + better <= SHARE * available(torch.device("cpu")) else {}


def _tokens(batch: Batch) -> int:
    return len(batch.tokens if isinstance(batch, TokenBatch) else batch.tokens.tokens)


def fly(
    config: Training,
    run: Telling,
    steps: int,
    load: Load,
    objective: Objective,
    engine: LocalEngine,
    where: Machine,
    models: Iterable[nn.Module],
) -> None:
    """Tries the worst batch, picks the tokens of a micro-batch, and says what the run will take.

    Raises DoesNotFit, and Rehearsed at the end of a dry run.
    """
    asked = load.budget.automatic
    preflight = Preflight(objective, engine, where)
    trial = preflight.settle(load)
    found = forecast(config, steps, load, trial, preflight, models)
    tokens = load.budget.tokens
    if config.micro_batch_tokens == "auto":
        rule = "the most that the memory allows, and no more than keeps the machine busy" if asked else "as before"
        run.console.choose("micro_batch_tokens", tokens, f"micro_batch_tokens {tokens:,}: {rule}")
    elif tokens != config.micro_batch_tokens:
        run.console.say(
            f"micro_batch_tokens {tokens:,}: as before, since memory ran out with {config.micro_batch_tokens:,}"
        )
    run.console.say(found.line)
    if config.save_every is not None and not is_copied(found.facts()):
        copy = size(checkpoint(preflight.weights, load.kept))
        run.console.say(f"training waits while a checkpoint is written: there is no memory for a copy of {copy}")
    run.writer.note(automatic=dict(run.console.choices), forecast=found.facts())
    refuse_shortage(config, found.disk)
    if run.dry:
        raise Rehearsed(found if load.sampling is None else _with_sampling(found, load.sampling()))


def _with_sampling(found: Forecast, seconds: float) -> Forecast:
    """The forecast with the time of the sampler, for which every answer has its full length."""
    return replace(found, seconds=(found.seconds or 0.0) + seconds, at_most=True)
