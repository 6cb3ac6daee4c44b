"""Training that goes on where it stopped: the newest whole checkpoint first, then the loop, saved along the way."""

from __future__ import annotations

import platform
import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import nn

from posttrain.config import PPOConfig, Training
from posttrain.config.automatic import planned, steps_between
from posttrain.config.shared import Passes
from posttrain.counted import counted
from posttrain.engine.checkpoint import Checkpoints, RandomNumbers, Weights
from posttrain.engine.local import LocalEngine
from posttrain.engine.sealed import damage, write_sealed
from posttrain.errors import Diverged, Interrupted
from posttrain.loop import fit
from posttrain.recipes.fingerprinting import Fingerprinting
from posttrain.recipes.interruption import Interruption
from posttrain.recipes.keeping import Average, Best
from posttrain.recipes.load import Load
from posttrain.recipes.preflight import fly
from posttrain.recipes.setup import Machine, Telling, reporting
from posttrain.recipes.shortage import Shortage
from posttrain.run.record import versions
from posttrain.run.trackers import Tracked, tracking
from posttrain.run.wires import Wires
from posttrain.types import Hook, Objective, Source, State, Stateful


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What trains. `models` give the trained parameters their names; `also` is what else has a state, by name.

    `load` is what the preflight tries before the first step. `save` writes the model as it stands into a folder; it is
    needed where a run keeps its `best` weights or their `average`, under the run folder. `wires` may end the run.
    `at_start` measures the weights before the first step, as step 0.
    """

    source: Source
    objective: Objective
    engine: LocalEngine
    models: Mapping[str, nn.Module]
    load: Load
    also: Mapping[str, Stateful] = field(default_factory=dict[str, Stateful])
    save: Callable[[Path], None] | None = None
    best: Best | None = None
    average: Average | None = None
    wires: Wires | None = None
    at_start: Callable[[int], Mapping[str, float]] | None = None

    @property
    def beside(self) -> dict[str, Stateful]:
        """What has a state besides source, weights and engine, by name."""
        kept = {"best": self.best, "average": self.average, "wires": self.wires}
        return {**self.also, **{name: part for name, part in kept.items() if part is not None}}

    @property
    def hooks(self) -> list[Hook]:
        """What looks at each step before it is written."""
        return [part.after for part in (self.average, self.best) if part is not None]

    @property
    def last_hooks(self) -> list[Hook]:
        """What looks at a step once it is written."""
        return [] if self.wires is None else [self.wires.look]


def train(
    config: Training, run: Telling, parts: Parts, where: Machine, hooks: Sequence[Hook] = ()
) -> dict[str, object]:
    """Trains to the end of the source, from the run's newest whole checkpoint; what was kept besides the last weights.

    Every step is written and shown after `hooks`. Raises Interrupted when a signal asks to stop, with a checkpoint of
    the last whole step saved, and Diverged when a loss or gradient is not finite or a trip wire is hit; then what the
    run kept is written first, and the message names it.
    """
    interruption = Interruption()
    keeper = _Keeper(config, run, parts, where)
    prints = Fingerprinting(run, Weights(parts.models, parts.engine.trained))
    with _own_random_numbers(config.seed), interruption.watching():
        run.console.say(_planned(config, parts.source.steps))
        start = keeper.restore()
        try:
            fly(
                config, run, parts.source.steps, parts.load, parts.objective, parts.engine, where,
                parts.models.values(),
            )  # fmt: skip
            title = f"{config.command}  {config.model} → {config.out}"
            run.console.start(title, parts.source.steps, where=where.where, done=start)
            prints.begin(start)
            if start == 0:
                _measure_start(run, parts)
            keeper.note()
            shortage = Shortage(keeper, parts.load.budget, parts.engine, run.console)
            with tracking(config.track, _tracked(config, run, start)) as tracked:
                every = [
                    prints.after, *hooks, *parts.hooks, reporting(run), *tracked, *parts.last_hooks, keeper.after,
                ]  # fmt: skip
                whole = partial(shortage.whole, interruption.held_off)

                def fitted(done: int) -> int:
                    seen = prints.watched(parts.source)
                    return fit(seen, parts.objective, parts.engine, hooks=every, start=done, whole=whole)

                shortage.train(fitted)
        except Interrupted:
            raise Interrupted(f"interrupted: {keeper.stop()}") from None
        except Diverged as error:
            _write_kept(run, parts)
            raise type(error)(f"{error}{_left(config, parts)}") from error
    return _write_kept(run, parts)


def _measure_start(run: Telling, parts: Parts) -> None:
    """The row of step 0: what training is compared with."""
    if parts.at_start is not None:
        found = parts.at_start(0)
        run.writer.metrics(0, found)
        run.console.say("before the first step: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
        if parts.best is not None:
            parts.best.after(0, found)


def _write_kept(run: Telling, parts: Parts) -> dict[str, object]:
    """Writes the best model and the averaged one under the run folder; the facts of each, by the name of its folder."""
    folder, kept = run.writer.path / "run", dict[str, object]()
    if parts.save is None:
        return kept
    if parts.best is not None and parts.best.facts:
        parts.best.write(folder / "best", parts.save)
        kept["best"] = parts.best.facts
    if parts.average is not None:
        parts.average.write(folder / "ema", parts.save)
        kept["ema"] = {"decay": parts.average.decay}
    run.writer.note(kept=kept)
    return kept


def told(config: Training, parts: Parts) -> list[str]:
    """Where the models that were kept besides the last weights stand, in words."""
    lines: list[str] = []
    if parts.best is not None and parts.best.facts:
        facts = ", ".join(f"{name} {value:.4g}" for name, value in parts.best.facts.items())
        lines.append(f"the best in {config.out}/run/best ({facts})")
    if parts.average is not None:
        lines.append(f"their average in {config.out}/run/ema (decay {parts.average.decay:g})")
    return lines


def _left(config: Training, parts: Parts) -> str:
    """Where a run that went wrong left its best model, for the end of the message."""
    if parts.best is None:
        return ""
    if not parts.best.facts:
        return "\n  no model is kept: nothing healthy was measured, or best is null"
    facts = ", ".join(f"{name} {value:.4g}" for name, value in parts.best.facts.items())
    return f"\n  the best model so far is kept in {config.out}/run/best: {facts}"


def _planned(config: Training, steps: int) -> str:
    """`1,240 steps of 32 rows; eval_every 10% is every 124 steps, save_every 25% is every 310 steps`."""
    of = f" of {counted(config.batch_size, 'row')}" if isinstance(config, Passes) else ""
    shares = {name: getattr(config, name, None) for name in ("eval_every", "save_every")}
    if isinstance(config, PPOConfig):  # whose steps are rounds, each of several updates
        evaluated = shares["eval_every"] if config.eval_prompts is not None else None
        apart = planned(config.steps, {"eval_every": evaluated, "rollouts_every": config.rollouts_every})
        shares["eval_every"] = None
        of = f" in {counted(config.steps, 'round')}" + (f"; of rounds, {apart}" if apart else "")
    return "; ".join(part for part in (f"{counted(steps, 'step')}{of}", planned(steps, shares)) if part)


def _tracked(config: Training, run: Telling, start: int) -> Tracked:
    folder, name = run.writer.path / "run", run.writer.path.name
    return Tracked(folder=folder, name=name, id=run.writer.id, settings=config.model_dump(mode="json"), start=start)


def once(run: Telling, name: str, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The arrays of `make`, kept beside the run's checkpoints: a run that goes on reads them, where they are whole."""
    folder = run.writer.checkpoints / name
    if run.writer.resuming and damage(folder) is None:
        return load_file(folder / "arrays.safetensors")
    arrays = make()
    write_sealed(folder, lambda part: save_file(arrays, part / "arrays.safetensors"))
    return arrays


class _Keeper:
    """Saves a run's checkpoints and goes on from them.

    Weights and optimizer change in an update alone; everything else is noted after each step. So the last whole step
    can be saved at any instant before the next update, however far its sampling and gradients have come.
    """

    def __init__(self, config: Training, run: Telling, parts: Parts, where: Machine) -> None:
        self._run = run
        self._steps = parts.source.steps
        self._interval = steps_between(config.save_every, self._steps)
        self._checkpoints = Checkpoints(run.writer.checkpoints, keep=config.keep)
        self._made = _Circumstances(where, same_bits=config.deterministic)
        self._heavy: dict[str, Stateful] = {
            "weights": Weights(parts.models, parts.engine.trained),
            "engine": parts.engine,
        }
        self._light: dict[str, Stateful] = {
            "source": parts.source,
            "random": RandomNumbers(),
            "run": run.writer,
            "made": self._made,
            "budget": parts.load.budget,
            **parts.beside,
        }
        self._step = self._saved = 0
        self._noted: dict[str, State] = {}

    def restore(self) -> int:
        """The step that the run goes on from, 0 for a new one; says what it found."""
        writer, say = self._run.writer, self._run.console.say
        writer.note(machine=self._made.machine)
        for line in writer.remarks:
            say(line)
        if not writer.resuming:
            return 0
        saved, passed = self._checkpoints.newest()
        for line in passed:
            say(line)
        if saved is None:
            say("no checkpoint is whole: the run starts over")
            writer.rewind()
            return 0
        saved.restore({**self._heavy, **self._light})
        writer.resumed(saved.step)
        say(f"going on from the checkpoint of step {saved.step} of {self._steps}")
        for line in self._made.differences:
            say(f"{line}: the same method, but not bit for bit as without the interruption")
        self._step = self._saved = saved.step
        return saved.step

    @property
    def step(self) -> int:
        """The last whole step."""
        return self._step

    def note(self) -> None:
        """Everything but weights and optimizer as it stands, between two steps."""
        self._noted = {name: part.state() for name, part in self._light.items()}

    def back(self) -> None:
        """Everything but weights and optimizer stands as it was noted last, but for the tokens of a micro-batch."""
        for name, part in self._light.items():
            if name != "budget":
                part.load_state(self._noted[name])

    def after(self, number: int, metrics: dict[str, float]) -> None:
        """The last hook of a step: notes where it stands, and saves when it is time."""
        self._step = number
        self.note()
        if self._interval is not None and (number % self._interval == 0 or number == self._steps):
            self._save()

    def stop(self) -> str:
        """Saves the last whole step; the words of what was kept."""
        if self._step > self._saved:
            self._save()
        if self._saved == 0:
            return "nothing was saved; the same command begins again"
        return f"checkpoint at step {self._saved} of {self._steps}; the same command goes on"

    def _save(self) -> None:
        """A full disk or a folder that cannot be written is said, and does not end the run."""
        began = time.monotonic()
        self._run.writer.flush()
        noted: dict[str, Stateful] = {name: _Noted(state) for name, state in self._noted.items()}
        try:
            self._checkpoints.save(self._step, {**self._heavy, **noted})
        except OSError as error:
            self._run.console.say(f"step {self._step} is not saved: {error}")
            return
        self._saved = self._step
        self._run.writer.log(f"checkpoint of step {self._step} in {time.monotonic() - began:.2f} s")


@dataclass(frozen=True, slots=True)
class _Noted:
    """A state that was taken before."""

    noted: State

    def state(self) -> State:
        return self.noted

    def load_state(self, state: State) -> None:
        raise RuntimeError("a noted state is only written")


class _Circumstances:
    """What the bits of a run depend on besides its settings: versions, processor, threads."""

    def __init__(self, where: Machine, *, same_bits: bool) -> None:
        self._always = [] if same_bits or where.device.type == "cpu" else ["a GPU without deterministic: true"]
        device = torch.cuda.get_device_name(where.device) if where.device.type == "cuda" else platform.machine()
        self.machine = {"device": device, "threads": str(torch.get_num_threads()), "where": where.where}
        self._facts = {**versions(), **self.machine}
        self.differences: list[str] = []

    def state(self) -> State:
        return {**self._facts}

    def load_state(self, state: State) -> None:
        """Notes the differences; nothing of them stands in the way."""
        names = dict.fromkeys([*state, *self._facts])
        changed = [name for name in names if state.get(name) != self._facts.get(name)]
        differences = [f"{name} was {state.get(name)}, is {self._facts.get(name)}" for name in changed]
        self.differences = [*differences, *self._always]


@contextmanager
def _own_random_numbers(seed: int) -> Generator[None]:
    """Inside, the process-wide generators start from the run's seed; outside they are as they were."""
    generators = RandomNumbers()
    before = generators.state()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        generators.load_state(before)
