"""Calls of people's own functions: at once or one after another, each within its time, and a failure for each error."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call has no result."""

    reason: str


Outcome: TypeAlias = "Result | Failure"


def late(timeout: float | None) -> Failure:
    """The failure of a call that took longer."""
    return Failure(f"no answer within {timeout or 0:g} s")


def call_plain(calls: Sequence[Callable[[], Result]], *, at_once: int, timeout: float | None) -> list[Result | Failure]:
    """The outcomes of plain functions, in order.

    One at a time and without a time-out they run where we are. Else each has a thread of its own, and one that is late
    is left behind: Python cannot stop it, so it may go on until the program ends.
    """
    if at_once == 1 and timeout is None:
        return [_outcome(call) for call in calls]
    outcomes: list[Result | Failure] = [late(timeout)] * len(calls)
    done: queue.SimpleQueue[tuple[int, Result | Failure]] = queue.SimpleQueue()
    waiting, running = deque(range(len(calls))), dict[int, float]()
    while waiting or running:
        while waiting and len(running) < at_once:
            place = waiting.popleft()
            running[place] = time.monotonic() + (timeout if timeout is not None else float("inf"))
            threading.Thread(target=_run, args=(place, calls[place], done), daemon=True).start()
        room = min(running.values()) - time.monotonic()
        try:
            place, outcome = done.get(timeout=None if room == float("inf") else max(0.0, room))
        except queue.Empty:
            now = time.monotonic()
            running = {place: end for place, end in running.items() if end > now}
            continue
        if running.pop(place, None) is not None:
            outcomes[place] = outcome
    return outcomes


def call_async(
    calls: Sequence[Callable[[], Awaitable[Result]]], *, at_once: int, timeout: float | None
) -> list[Result | Failure]:
    """The outcomes of async functions, in order. They run in a loop of their own, whether one is running or not."""
    outcomes: list[Result | Failure] = []

    async def every() -> list[Result | Failure]:
        room = asyncio.Semaphore(at_once)
        return list(await asyncio.gather(*(_awaited(call, room, timeout) for call in calls)))

    # A notebook has a running loop in this thread, in which no second one can run.
    thread = threading.Thread(target=lambda: outcomes.extend(asyncio.run(every())), daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)  # so that Ctrl-C is heard
    return outcomes


async def _awaited(
    call: Callable[[], Awaitable[Result]], room: asyncio.Semaphore, timeout: float | None
) -> Result | Failure:
    async with room:
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                return await call()
        except TimeoutError as error:
            return late(timeout) if limit.expired() else failure_of(error)
        except Exception as error:  # whatever the user's own code raises
            return failure_of(error)


def _run(place: int, call: Callable[[], Result], done: queue.SimpleQueue[tuple[int, Result | Failure]]) -> None:
    done.put((place, _outcome(call)))


def _outcome(call: Callable[[], Result]) -> Result | Failure:
    try:
        return call()
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        return failure_of(error)


def failure_of(error: BaseException) -> Failure:
    """`KeyError: 'word'`, in one line whatever the error says."""
    said = " ".join(str(error).split())
    return Failure(f"{type(error).__name__}: {said}" if said else type(error).__name__)
