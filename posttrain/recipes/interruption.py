"""Stopping when asked: at once while nothing is half done, else after the update under way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from posttrain.errors import Interrupted


class Interruption:
    """Turns Ctrl-C and SIGTERM into Interrupted, never in the middle of an update.

    Further SIGTERMs change nothing, since some senders repeat them; a second Ctrl-C stops at once, whatever is under
    way but a checkpoint that is being written, and loses what was not saved before.
    """

    def __init__(self) -> None:
        self._busy = False
        self._asked = False

    @contextmanager
    def watching(self) -> Generator[None]:
        """Inside, both signals come here; outside the main thread they cannot, and nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held_off(self) -> Generator[None]:
        """What happens inside happens whole: a signal takes effect at its end."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
        if self._asked:
            raise Interrupted

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self._asked = True
        if not self._busy:
            raise Interrupted
