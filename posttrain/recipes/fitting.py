"""Training that goes on where it stopped: the newest whole checkpoint first, then the loop, saved along the way."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import nn

from posttrain.config import PPOConfig, Training
from posttrain.config.automatic import planned
from posttrain.config.shared import Passes
from posttrain.counted import counted
from posttrain.engine.checkpoint import RandomNumbers, Weights
from posttrain.engine.local import LocalEngine
from posttrain.engine.sealed import damage, write_sealed
from posttrain.errors import Diverged, Interrupted
from posttrain.loop import fit
from posttrain.models.compiled import explained
from posttrain.models.compiled_gate import gate_models
from posttrain.recipes.fingerprinting import Fingerprinting
from posttrain.recipes.forecast import is_copied
from posttrain.recipes.interruption import Interruption
from posttrain.recipes.keeping import Average, Best
from posttrain.recipes.load import Load
from posttrain.recipes.preflight import fly
from posttrain.recipes.saving import Keeper
from posttrain.recipes.setup import Machine, Telling, reporting
from posttrain.recipes.shortage import Shortage
from posttrain.run import Run
from posttrain.run.trackers import Tracked, tracking
from posttrain.run.wires import Wires
from posttrain.types import Hook, Objective, Source, Stateful


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What trains. `models` give the trained parameters their names; `also` is what else has a state, by name.

    `load` is what the preflight tries before the first step. `save` writes the model as it stands into a folder: also
    with its `best` weights and their `average`, as far as those are kept, under the run folder. `wires` may end the
    run. `at_start` measures the weights before the first step, as step 0; `inspect` keeps something of them then.
    """

    source: Source
    objective: Objective
    engine: LocalEngine
    models: Mapping[str, nn.Module]
    load: Load
    save: Callable[[Path], None]
    best: Best
    also: Mapping[str, Stateful] = field(default_factory=dict[str, Stateful])
    average: Average | None = None
    wires: Wires | None = None
    at_start: Callable[[int], Mapping[str, float]] | None = None
    inspect: Callable[[int], object] | None = None

    @property
    def heavy(self) -> dict[str, Stateful]:
        """What has a state that an update alone changes, by name."""
        return {"weights": Weights(self.models, self.engine.trained), "engine": self.engine}

    @property
    def light(self) -> dict[str, Stateful]:
        """What else has a state, by name."""
        always: dict[str, Stateful] = {"source": self.source, "random": RandomNumbers(), "budget": self.load.budget}
        kept = {"best": self.best, "average": self.average, "wires": self.wires}
        return {**always, **self.also, **{name: part for name, part in kept.items() if part is not None}}

    @property
    def kept(self) -> list[str]:
        """The models that are kept besides the last weights, by the name of their folder."""
        return ["best"] * (self.best.measure is not None) + ["ema"] * (self.average is not None)

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
    keeper = Keeper(config, run, where, parts.source.steps, heavy=parts.heavy, light=parts.light)
    prints = Fingerprinting(run, Weights(parts.models, parts.engine.trained))
    compiling = explained("layers") if where.compiles else nullcontext()
    with _own_random_numbers(config.seed), interruption.watching(), compiling:
        run.console.say(_planned(config, parts.source.steps))
        if where.compiles:
            with where.autocast():
                gate_models(parts.models, run.console.say)
        start = keeper.restore()
        try:
            fly(
                config, run, parts.source.steps, replace(parts.load, kept=parts.kept), parts.objective, parts.engine,
                where, parts.models.values(),
            )  # fmt: skip
            keeper.beside = is_copied(run.writer.run.record.get("forecast", {}))
            title = f"{config.command}  {config.model} → {config.out}"
            run.console.start(title, parts.source.steps, where=where.where, done=start)
            prints.begin(start)
            if start == 0:
                _measure_start(run, parts)
            keeper.note()
            shortage = Shortage(keeper, parts.load.budget, parts.engine, run)
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
            raise type(error)(f"{error}{_left(config, run, parts)}") from error
        finally:
            keeper.settle()
    return _write_kept(run, parts)


def _measure_start(run: Telling, parts: Parts) -> None:
    """The row of step 0: what training is compared with."""
    if parts.inspect is not None:
        parts.inspect(0)
    if parts.at_start is not None:
        found = parts.at_start(0)
        run.writer.metrics(0, found)
        run.console.say("before the first step: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()))
        parts.best.after(0, found)


def _write_kept(run: Telling, parts: Parts) -> dict[str, object]:
    """Writes the best model and the averaged one under the run folder; the facts of each, by the name of its folder."""
    folder, kept = run.writer.path / "run", dict[str, object]()
    if parts.best.facts:
        parts.best.write(folder / "best", parts.save)
        kept["best"] = parts.best.facts
    if parts.average is not None:
        parts.average.write(folder / "ema", parts.save)
        kept["ema"] = {"decay": parts.average.decay}
    run.writer.note(kept=kept)
    return kept


def ended(config: Training, run: Telling, parts: Parts, results: Mapping[str, object]) -> Run:
    """The finished run, whose last weights are written; says where they and the models kept besides them stand."""
    done = run.writer.finish(**results)
    lines: list[str] = []
    if parts.best.facts:
        lines.append(f"the best in {config.out}/run/best ({_facts(parts.best)})")
    if parts.average is not None:
        lines.append(f"their average in {config.out}/run/ema (decay {parts.average.decay:g})")
    run.console.finish("; ".join([f"saved {config.out}" + (", the last weights" if lines else ""), *lines]))
    return done


def _facts(best: Best) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in best.facts.items())


def _left(config: Training, run: Telling, parts: Parts) -> str:
    """Where a run that went wrong leaves its best model, which is written, for the end of the message."""
    try:
        _write_kept(run, parts)
    except (OSError, SafetensorError) as error:
        return f"\n  what the run kept cannot be written: {error}; the same command comes here again and writes it"
    if parts.best.measure is None:
        return "\n  no best model is kept: best is null"
    if not parts.best.facts:
        return f"\n  no best model is kept: there is no healthy {parts.best.measure} yet"
    return f"\n  the best model so far is kept in {config.out}/run/best: {_facts(parts.best)}"


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
