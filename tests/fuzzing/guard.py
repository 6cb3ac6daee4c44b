"""Work in a process of its own: what hangs, dies or fills the memory ends that process, and is told."""

from __future__ import annotations

import faulthandler
import gc
import os
import resource
import select
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What one piece of work may take: seconds of CPU time, bytes beyond those in use, seconds by the clock."""

    seconds: float = 20.0
    memory: int = 2 << 30
    patience: float = 300.0


class Hangs(BaseException):
    """The work takes too long. No Exception, so that nothing on the way catches it."""


def guarded(work: Callable[[int], str], count: int, guard: Guard) -> Iterator[tuple[int, str]]:
    """The line that `work` gives for each number below `count`; for one that ends its process, how that ended."""
    number = 0
    while number < count:
        child, results = _started(work, number, count, guard)
        silent = False
        while number < count:
            silent = not select.select([results], [], [], guard.patience)[0]
            said = b"" if silent else _line(results)
            if not said:
                break
            yield number, said.decode().rstrip("\n")
            number += 1
        os.close(results)
        if silent:
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if number < count:
            yield number, "Hangs: no answer" if silent else _ended(status)
            number += 1


def _line(results: int) -> bytes:
    """The next line, which is there; nothing where the process has ended."""
    found = b""
    while not found.endswith(b"\n") and (more := os.read(results, 1)):
        found += more
    return found


def _started(work: Callable[[int], str], first: int, count: int, guard: Guard) -> tuple[int, int]:
    """A process that does the work from `first` on, and where to read what it says."""
    reading, writing = os.pipe()
    gc.freeze()  # the child looks through what it makes itself, not through all that is imported
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    os.close(reading)
    faulthandler.disable()
    _limit(guard)
    try:
        for number in range(first, count):
            said = _timed(work, number, guard.seconds).replace("\n", " ")
            os.write(writing, f"{said}\n".encode("utf-8", "replace"))
    finally:
        os._exit(0)


def _limit(guard: Guard) -> None:
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + guard.memory, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _hangs)


def _hangs(number: int, frame: FrameType | None) -> None:
    raise Hangs("it takes too long")


def _timed(work: Callable[[int], str], number: int, seconds: float) -> str:
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        return work(number)
    except Hangs as late:
        return f"Hangs: {late}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _ended(status: int) -> str:
    """How a process ended that should have gone on."""
    return f"killed by {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else "the process ended"
