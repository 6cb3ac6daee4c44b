"""The one thread that reads and writes a store: what waits at the same time is done in one transaction.

A commit waits for the disk. While it does, requests gather, and the next commit is theirs together: many annotators
cost about as many waits as one. Nobody is answered before the commit that holds their part.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias, TypeVar

from posttrain.data import feedback_db
from posttrain.errors import DataError, Problem
from posttrain.feedback.assigning import Rules
from posttrain.feedback.ledger import Ledger
from posttrain.pages.refused import Refused

T = TypeVar("T")
Work: TypeAlias = Callable[[Ledger], Any]
_MOST = 100  # parts of one transaction: nobody's answer waits for all of a long queue


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Work on the ledger, and where its outcome goes."""

    work: Work
    outcome: Future[Any]


class Desk:
    """A store open for reading and writing until `close`. Raises DataError for what is no store, or a damaged one."""

    def __init__(self, path: Path, rules: Rules, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._rules = rules
        self._clock = clock
        self._waiting: SimpleQueue[_Part | None] = SimpleQueue()
        self._opened: Future[None] = Future()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="desk", daemon=True)
        self._thread.start()
        self._opened.result()

    async def ask(self, work: Callable[[Ledger], T]) -> T:
        """What `work` gives on the ledger, once it is on disk.

        Raises what it raises; Refused with 503 where the store cannot be written to.
        """
        return await asyncio.wrap_future(self._put(work))

    def do(self, work: Callable[[Ledger], T]) -> T:
        """As `ask`, for callers that are not asynchronous."""
        return self._put(work).result()

    def close(self) -> None:
        """Finishes what waits, and closes the store."""
        self._closed = True
        self._waiting.put(None)
        self._thread.join()

    def _put(self, work: Callable[[Ledger], T]) -> Future[T]:
        outcome: Future[T] = Future()
        if self._closed:
            outcome.set_exception(Refused(503, "the server is ending"))
        else:
            self._waiting.put(_Part(work=work, outcome=outcome))
        return outcome

    # --- in the thread --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            connection = feedback_db.connect(self._path)
        except BaseException as error:
            self._opened.set_exception(error)
            return
        with closing(connection):
            ledger = Ledger(connection, self._rules, clock=self._clock)
            try:
                with ledger.transaction():
                    pass
            except (sqlite3.Error, ValueError, TypeError, AttributeError) as reason:
                self._opened.set_exception(_damaged(self._path, reason))
                return
            self._opened.set_result(None)
            while parts := self._next():
                _do(ledger, parts)

    def _next(self) -> list[_Part]:
        """All that waits, at least one part; none when the desk closes."""
        parts: list[_Part] = []
        part = self._waiting.get()
        while part is not None:
            parts.append(part)
            if len(parts) == _MOST:
                return parts
            try:
                part = self._waiting.get_nowait()
            except Empty:
                return parts
        if parts:
            self._waiting.put(None)  # the end comes after them
        return parts


def _do(ledger: Ledger, parts: Sequence[_Part]) -> None:
    """Does all parts in one transaction, and tells each what it came to once that is on disk."""
    # A part whose page went away before it began is left out: nobody was told that it is kept.
    waited = [part for part in parts if part.outcome.set_running_or_notify_cancel()]
    try:
        with ledger.transaction():
            told = [_outcome(ledger, part.work) for part in waited]
    except sqlite3.Error as reason:
        refused = Refused(503, f"the store cannot be written to now: {reason}")
        told = [(None, refused)] * len(waited)
    except BaseException as reason:
        told = [(None, reason)] * len(waited)
    for part, (result, error) in zip(waited, told, strict=True):
        if error is None:
            part.outcome.set_result(result)
        else:
            part.outcome.set_exception(error)


def _outcome(ledger: Ledger, work: Work) -> tuple[Any, BaseException | None]:
    """What a part gives or raises. An error of the store ends the whole transaction, of which nothing may be left."""
    try:
        with ledger.part():
            return work(ledger), None
    except sqlite3.IntegrityError as error:
        return None, error
    except sqlite3.Error:
        raise
    except Exception as error:  # the part's own; the others are done all the same
        return None, error


def _damaged(path: Path, reason: Exception) -> DataError:
    what = f"the store cannot be read: {reason}"
    return DataError([Problem(place=str(path), what=what, fix="restore it from a copy")])
