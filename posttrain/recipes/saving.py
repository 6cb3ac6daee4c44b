"""A run's checkpoints: saved beside the training that goes on, and gone on from."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from posttrain.config import Training
from posttrain.config.automatic import steps_between
from posttrain.engine.beside import Beside
from posttrain.engine.checkpoint import Checkpoints
from posttrain.engine.copies import Copies
from posttrain.errors import out_of_memory
from posttrain.recipes.setup import Machine, Telling
from posttrain.run.record import processor, versions
from posttrain.types import State, Stateful


@dataclass(frozen=True, slots=True, kw_only=True)
class _Written:
    """What came of a save: seconds of writing, and lines to say."""

    seconds: float
    lines: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _UnderWay:
    """A save that is being written: of which step, and where training goes on, the seconds that it waited."""

    step: int
    waited: float | None
    writing: Beside[_Written]


class Keeper:
    """Saves a run's checkpoints and goes on from them.

    Weights and optimizer change in an update alone; everything else is noted after each step. So the last whole step
    can be saved at any instant before the next update, however far its sampling and gradients have come.

    With `beside` a thread writes a copy in CPU memory while training goes on, one save at a time; else training waits.
    """

    def __init__(
        self,
        config: Training,
        run: Telling,
        where: Machine,
        steps: int,
        *,
        heavy: Mapping[str, Stateful],
        light: Mapping[str, Stateful],
    ) -> None:
        self.beside = False
        self._run = run
        self._steps = steps
        self._interval = steps_between(config.save_every, self._steps)
        self._checkpoints = Checkpoints(run.writer.checkpoints, keep=config.keep)
        self._copies = Copies()
        self._made = Circumstances(where, same_bits=config.deterministic)
        self._heavy = heavy
        self._light: dict[str, Stateful] = {**light, "run": run.writer, "made": self._made}
        self._step = self._saved = 0
        self._noted: dict[str, State] = {}
        self._under_way: _UnderWay | None = None
        self._full = False

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
        if self._made.differences:
            writer.resumed_with(differences=self._made.differences)
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
            if name == "budget":
                self._noted[name] = part.state()
            else:
                part.load_state(self._noted[name])

    def after(self, number: int, metrics: dict[str, float]) -> None:
        """The last hook of a step: notes where it stands, and saves when it is time."""
        if self._under_way is not None and self._under_way.writing.over:
            self.settle()
        self._say_room()
        self._step = number
        self.note()
        last = number == self._steps
        if self._interval is not None and (number % self._interval == 0 or last):
            self._save(beside=self.beside and not last)  # after the last step nothing goes on

    def stop(self) -> str:
        """Saves the last whole step; the words of what was kept."""
        self.settle()
        if self._step > self._saved:
            self._save(beside=False)
        if self._saved == 0:
            return "nothing was saved; the same command begins again"
        return f"checkpoint at step {self._saved} of {self._steps}; the same command goes on"

    def settle(self) -> None:
        """Waits for the save under way, if there is one, and says what came of it.

        A full disk or a folder that cannot be written does not end the run.
        """
        if self._under_way is None:
            return
        save = self._under_way
        try:
            written = save.writing.end()
        except Exception as error:
            if not (isinstance(error, OSError) or out_of_memory(error)):
                raise
            self._run.console.say(f"step {save.step} is not saved: {error}")
        else:
            self._saved = save.step
            copied = "" if save.waited is None else f" beside the training, which waited {save.waited:.3f} s"
            self._run.writer.log(f"checkpoint of step {save.step} in {written.seconds:.2f} s{copied}")
            for line in written.lines:
                self._run.console.say(line)
        self._under_way = None

    def _save(self, *, beside: bool) -> None:
        """Begins to write the last whole step, and waits for its end unless `beside`."""
        began = time.monotonic()
        self.settle()
        live = {name: part.state() for name, part in self._heavy.items()} | self._noted
        copied = self._copied(live) if beside else None
        step, states = self._step, live if copied is None else copied
        waited = None if copied is None else time.monotonic() - began
        self._under_way = _UnderWay(step=step, waited=waited, writing=Beside(lambda: self._write(step, states)))
        if copied is None:
            self.settle()

    def _copied(self, states: Mapping[str, State]) -> dict[str, State] | None:
        """A copy of the states; None, also from here on, where there turns out to be no memory for it."""
        try:
            return self._copies.of(states)
        except Exception as error:
            if not out_of_memory(error):
                raise
        self.beside, self._copies = False, Copies()
        self._run.console.say("training waits from here on while a checkpoint is written: no memory is left for a copy")
        return None

    def _write(self, step: int, states: Mapping[str, State]) -> _Written:
        """What the thread does: files that grow are on the disk before a checkpoint counts on them."""
        began = time.monotonic()
        self._run.writer.flush()
        lines = self._checkpoints.save(step, states)
        return _Written(seconds=time.monotonic() - began, lines=lines)

    def _say_room(self) -> None:
        """Says when the files of the run begin to wait for room on the disk, and when they have it again."""
        waiting = self._run.writer.waiting
        if waiting != self._full:
            self._full = waiting
            full = "the disk is full: the lines of the files in run/ wait in memory until there is room"
            self._run.console.say(full if waiting else "there is room on the disk again: nothing of the run is missing")


class Circumstances:
    """What the bits of a run depend on besides its settings: versions, processor, threads.

    A checkpoint that does not know of the processor yet is taken to be of this one.
    """

    def __init__(self, where: Machine, *, same_bits: bool) -> None:
        self._always = [] if same_bits or where.device.type == "cpu" else ["a GPU without deterministic: true"]
        device = torch.cuda.get_device_name(where.device) if where.device.type == "cuda" else platform.machine()
        self.machine = {"device": device, "threads": str(torch.get_num_threads()), "where": where.where}
        self._here = {
            "python": platform.python_version(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "processor": processor(),
        }
        self._facts = {**versions(), **self._here, **self.machine}
        self.differences: list[str] = []

    def state(self) -> State:
        """The facts, by name."""
        return {**self._facts}

    def load_state(self, state: State) -> None:
        """Notes the differences; nothing of them stands in the way."""
        state = {**self._here, **state}
        names = dict.fromkeys([*state, *self._facts])
        changed = [name for name in names if state.get(name) != self._facts.get(name)]
        differences = [f"{name} was {state.get(name)}, is {self._facts.get(name)}" for name in changed]
        self.differences = [*differences, *self._always]
