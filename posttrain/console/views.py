"""The three faces of a console: nothing, plain lines, and a panel drawn in place."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Protocol

from rich.console import Console as Terminal
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from posttrain.console.page import Line, brackets_for, drawn, label_of
from posttrain.console.progress import Progress, number
from posttrain.inert import inert

_LINES_A_RUN = 20


class View(Protocol):
    """Where a console's words go."""

    def say(self, line: str) -> None: ...

    def start(self, progress: Progress) -> None: ...

    def step(self, progress: Progress) -> None: ...

    def sample(self, prompt: str, answer: str, *, stopped: bool) -> None: ...

    def table(self, rows: Sequence[Mapping[str, object]], title: str) -> None: ...

    def page(self, lines: Sequence[Line]) -> None: ...

    def working(self, line: str) -> None: ...

    def stop(self) -> None: ...


class Silent:
    """Shows nothing."""

    def say(self, line: str) -> None: ...

    def start(self, progress: Progress) -> None: ...

    def step(self, progress: Progress) -> None: ...

    def sample(self, prompt: str, answer: str, *, stopped: bool) -> None: ...

    def table(self, rows: Sequence[Mapping[str, object]], title: str) -> None: ...

    def page(self, lines: Sequence[Line]) -> None: ...

    def working(self, line: str) -> None: ...

    def stop(self) -> None: ...


class Lines:
    """Plain lines, some twenty for a run of any length."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def say(self, line: str) -> None:
        self._terminal.print(line, markup=False)

    def start(self, progress: Progress) -> None:
        self.say(progress.title + (f"   {progress.where}" if progress.where else ""))

    def step(self, progress: Progress) -> None:
        """A line at the first and last step, and about twenty times in between; every evaluation."""
        if progress.again:
            self.say(f"step {progress.step:,}/{progress.steps:,}   {progress.latest_news}")
            return
        between = max(1, progress.steps // _LINES_A_RUN)
        if progress.step in (1, progress.steps) or progress.step % between == 0:
            parts = [f"step {progress.step:,}/{progress.steps:,}", progress.numbers, progress.pace]
            self.say("   ".join(part for part in parts if part))

    def sample(self, prompt: str, answer: str, *, stopped: bool) -> None:
        self.say(_sample(prompt, answer, stopped=stopped))

    def table(self, rows: Sequence[Mapping[str, object]], title: str) -> None:
        self._terminal.print(_table(rows, title))

    def page(self, lines: Sequence[Line]) -> None:
        _print_page(self._terminal, lines)

    def working(self, line: str) -> None:
        """Nothing: a line for every look at the work would be too many."""

    def stop(self) -> None: ...


class Panel:
    """A panel that is drawn in place, over the lines that are said."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._live: Live | None = None
        self._sample = ""

    def say(self, line: str) -> None:
        self._terminal.print(line, markup=False)

    def start(self, progress: Progress) -> None:
        self.stop()
        self._live = Live(self._drawn(progress), console=self._terminal, refresh_per_second=4)
        self._live.start()

    def step(self, progress: Progress) -> None:
        if self._live is not None:
            self._live.update(self._drawn(progress))

    def sample(self, prompt: str, answer: str, *, stopped: bool) -> None:
        self._sample = _sample(prompt, answer, stopped=stopped)

    def table(self, rows: Sequence[Mapping[str, object]], title: str) -> None:
        self._terminal.print(_table(rows, title))

    def page(self, lines: Sequence[Line]) -> None:
        self.stop()
        _print_page(self._terminal, lines)

    def working(self, line: str) -> None:
        if self._live is None:
            self._live = Live(console=self._terminal, refresh_per_second=4, transient=True)
            self._live.start()
        self._live.update(Text(line, style="dim"))

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()
        self._live = None

    def _drawn(self, progress: Progress) -> RenderableType:
        title = Table.grid(expand=True)
        title.add_column()
        title.add_column(justify="right")
        where = " · ".join(part for part in (progress.where, memory()) if part)
        title.add_row(Text(progress.title, style="bold"), Text(where, style="dim"))
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            f"step {progress.step:,}/{progress.steps:,}",
            ProgressBar(total=max(progress.steps, 1), completed=progress.step, width=32),
            f"{progress.step / max(progress.steps, 1):.0%}",
            progress.pace,
        )
        curves = [Text(line) for line in progress.curves if line]
        return Group(title, bar, *curves, *([Text(self._sample, style="dim")] if self._sample else []))


def _print_page(terminal: Terminal, lines: Sequence[Line]) -> None:
    """The lines one by one; on a terminal the second line of a long one begins where its first did."""
    colour = terminal.color_system is not None and not terminal.no_color
    brackets = brackets_for(lines)
    for given in lines:
        label, body = label_of(given), drawn(given, colour=colour, brackets=brackets)
        if not given.label or not terminal.is_terminal:
            terminal.print(Text.assemble(label, body))
            continue
        grid = Table.grid()
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        grid.add_row(label, body)
        terminal.print(grid, soft_wrap=False)


def memory() -> str:
    """`2.1/23 GB`: this process's resident memory and the machine's; empty where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return ""
    return f"{pages * os.sysconf('SC_PAGE_SIZE') / 1e9:.1f}/{total / 1e9:.0f} GB"


def _sample(prompt: str, answer: str, *, stopped: bool) -> str:
    end = "⏹ stopped by itself" if stopped else "✂ cut at the limit"
    return f'sample  "{_short(prompt)}" → "{_short(answer)}" {end}'


def _short(text: str, limit: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _table(rows: Sequence[Mapping[str, object]], title: str) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(
        title=Text(inert(title)) if title else None, title_justify="left", box=None, pad_edge=False, padding=(0, 2)
    )
    for name in names:
        numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
        table.add_column(Text(inert(name)), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(name))) for name in names))
    return table


def _cell(value: object) -> str:
    if value is None:
        return ""
    return number(value) if isinstance(value, float) else inert(str(value))
