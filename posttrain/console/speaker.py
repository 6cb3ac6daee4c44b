"""The console of a run: what it says goes to a view and to the run's log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TextIO

from rich.console import Console as Terminal

from posttrain.console.page import Line
from posttrain.console.progress import Clock, Progress
from posttrain.console.views import Lines, Panel, Silent, View
from posttrain.counted import counted
from posttrain.inert import inert


class Console:
    """Speaks for one run. Every line that is said also goes to the run's log, whatever the view shows.

    Texts of data and models are among it: nothing in a line can steer the terminal, nor whatever shows the log.
    """

    def __init__(self, view: View, *, clock: Clock = time.monotonic) -> None:
        self._view = view
        self._clock = clock
        self._log: Callable[[str], None] | None = None
        self._waiting: list[str] = []
        self._progress: Progress | None = None
        self.choices: dict[str, object] = {}

    def attach(self, log: Callable[[str], None]) -> None:
        """From now on lines also go to `log`, those said before it first."""
        self._log = log
        for line in self._waiting:
            log(line)
        self._waiting.clear()

    def say(self, line: str) -> None:
        """Show a line: an automatic choice with its reason, a count of lost rows."""
        line = inert(line)
        self._record(line)
        self._view.say(line)

    def choose(self, setting: str, value: object, reason: str) -> None:
        """Say what an automatic setting (a dotted name) came to, and why; `choices` keeps them all."""
        self.choices[setting] = value
        self.say(reason)

    def start(self, title: str, steps: int, *, where: str = "", done: int = 0) -> None:
        """Begin to show `steps` steps, `done` of them earlier. `where` is the device and precision: `cpu · fp32`."""
        title = inert(title)
        self._progress = Progress(title=title, steps=steps, where=where, clock=self._clock, step=done, earlier=done)
        self._record(f"{title}: {counted(steps, 'step')}" + (f" on {where}" if where else ""))
        self._view.start(self._progress)

    def step(self, number: int, metrics: Mapping[str, float]) -> None:
        """Show a step's metrics; `tokens` among them gives the tokens per second."""
        if self._progress is None:
            return
        self._progress.advance(number, metrics)
        self._view.step(self._progress)

    def sample(self, prompt: str, answer: str, *, stopped: bool) -> None:
        """Show an answer of the model in training."""
        self._view.sample(inert(prompt), inert(answer), stopped=stopped)

    def table(self, rows: Sequence[Mapping[str, object]], title: str = "") -> None:
        """Show rows under their keys; numbers are rounded for reading."""
        self._view.table(rows, title)

    def page(self, lines: Sequence[Line]) -> None:
        """Show a page of lines whose parts have a tone; the log gets none of it."""
        self._view.page(lines)

    def working(self, line: str) -> None:
        """Show that something goes on, until the next page or the end; it is not kept."""
        self._view.working(inert(line))

    def finish(self, summary: str = "") -> None:
        """End the panel and say how it went."""
        self._view.stop()
        self._progress = None
        if summary:
            self.say(summary)

    def _record(self, line: str) -> None:
        if self._log is None:
            self._waiting.append(line)
        else:
            self._log(line)


def open_console(*, quiet: bool = False, stream: TextIO | None = None) -> Console:
    """A console for `stream` (standard output): a live panel on a terminal, else plain lines; silent when `quiet`."""
    if quiet:
        return Console(Silent())
    terminal = _Unread(file=stream or sys.stdout, highlight=False, soft_wrap=True)
    return Console(Panel(terminal) if terminal.is_terminal else Lines(terminal))


class _Unread(Terminal):
    """A terminal that falls silent once nobody reads on (`| head`): a run is worth more than its lines."""

    def on_broken_pipe(self) -> None:
        """What is still held back for the pipe, and all that follows, goes nowhere."""
        self.quiet = True
        with suppress(OSError):  # a file that is none of the system's
            target = self.file.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, target)
            os.close(nowhere)
