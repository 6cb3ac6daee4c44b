"""A conversation in a terminal or a pipe: lines of a person come in, pieces of answers go out as they come."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import TextIO

from posttrain.inert import inert


class Talk:
    """What a person types and reads. Text of models goes through it: nothing in it steers the terminal.

    A person `at_terminal` is shown what is asked of them; a pipe gives one message a line, and gets the answers alone.
    """

    def __init__(self, lines: Iterable[str], out: TextIO, *, at_terminal: bool) -> None:
        self._lines: Iterator[str] = iter(lines)
        self._out = out
        self.at_terminal = at_terminal

    def ask(self, what: str) -> str | None:
        """The next line, without its end and the spaces around it; None when there is none."""
        if not self.at_terminal:
            line = next(self._lines, None)
            return None if line is None else line.strip()
        try:
            return input(what).strip()
        except EOFError:
            self.line("")
            return None

    def piece(self, text: str) -> None:
        """Shows a part of an answer at once, where the last one ended."""
        self._out.write(inert(text))
        self._out.flush()

    def line(self, text: str) -> None:
        """Shows the rest of a line, or a line of its own."""
        self.piece(f"{text}\n")

    def hint(self, text: str) -> None:
        """Shows a line to a person alone, not to a pipe."""
        if self.at_terminal:
            self.line(text)


def open_talk() -> Talk:
    """The conversation on standard input and output."""
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if at_terminal:
        with suppress(ImportError):  # `input` edits lines where the system has it
            import_module("readline")
    return Talk(sys.stdin, sys.stdout, at_terminal=at_terminal)
