"""The store with all that stands in it: one connection, kept in step with whoever else writes to the same file.

Everything happens inside `transaction`, which first takes in what others wrote, so that two servers on one store know
of each other's locks and rankings. What is in memory is only ever read from the file, and read anew where a transaction
fails.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import orjson

from posttrain.data import feedback_db
from posttrain.data.feedback_db import Event, EventKind
from posttrain.data.json_rows import Row
from posttrain.feedback.assigning import Assignment, Rules, Showing
from posttrain.feedback.kept import first_of
from posttrain.feedback.mirror import Mirror

_HELD = "SELECT item, annotator, round, until FROM showings WHERE until > ?"
_SHOW = """
INSERT INTO showings (item, annotator, round, until) VALUES (?, ?, ?, ?)
ON CONFLICT (item, annotator) DO UPDATE SET round = excluded.round, until = excluded.until
"""
_LAST = """
SELECT json_extract(payload, '$.ranks') FROM events
WHERE item = ? AND annotator = ? AND kind = 'rank' AND json_extract(payload, '$.adjudicates') IS NULL
ORDER BY id DESC LIMIT 1
"""
_UNDO = """
SELECT undo.id, undone.id, undone.item, undone.kind
FROM events AS undo JOIN events AS undone ON undone.id = json_extract(undo.payload, '$.event')
WHERE undo.annotator = ? AND undo.key = ? AND undo.kind = 'undo'
"""


class Undo(NamedTuple):
    """An undo, and the event that it took back."""

    number: int
    undone: int
    item: str
    kind: EventKind


class Ledger:
    """A store, read and written by one thread. `clock` tells seconds since 1970."""

    def __init__(self, connection: sqlite3.Connection, rules: Rules, *, clock: Callable[[], float] = time.time) -> None:
        self.connection = connection
        self.rules = rules
        self.held: Sequence[Showing] = ()
        self._clock = clock
        self._forget()

    def _forget(self) -> None:
        self._mirror = Mirror(self.connection)
        self.standing = self._mirror.standing
        self.assignment = Assignment(self.standing, self.rules)

    def now(self) -> float:
        """Seconds since 1970."""
        return self._clock()

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Inside, nobody else writes, and what others wrote is known; what happens inside is on disk after it.

        Where it fails, nothing of it has happened.
        """
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            self._catch_up()
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            self._forget()
            raise

    @contextmanager
    def part(self) -> Generator[None]:
        """A part of a transaction, which fails by itself; an error of the store leaves nothing to go back to."""
        self.connection.execute("SAVEPOINT part")
        try:
            yield
        except Exception as error:
            if not isinstance(error, sqlite3.Error) or isinstance(error, sqlite3.IntegrityError):
                self._back()
            raise
        self.connection.execute("RELEASE part")

    def _back(self) -> None:
        """Goes back to the beginning of a part, in the file and in memory."""
        self.connection.execute("ROLLBACK TO part")
        self.connection.execute("RELEASE part")
        newest = self.connection.execute("SELECT ifnull(max(id), 0) FROM events").fetchone()[0]
        if self._mirror.last_event != newest:
            self._forget()
        self._catch_up()

    def record(self, event: Event) -> tuple[int, bool]:
        """The id of an event, and whether it is new. Raises ValueError as `feedback_db.append` does."""
        number, new = feedback_db.record(self.connection, event)
        if new:
            self._catch_up()
        return number, new

    def texts(self, item: str) -> tuple[list[Row], list[Row]]:
        """The messages of an item's prompt, and its answers."""
        return feedback_db.texts(self.connection, item)

    def number_of(self, annotator: str, key: str) -> int | None:
        """The number of a person's event with this key; None where there is none."""
        query = "SELECT id FROM events WHERE annotator = ? AND key = ?"
        found = self.connection.execute(query, (annotator, key)).fetchone()
        return None if found is None else int(found[0])

    def undo_of(self, annotator: str, key: str) -> Undo | None:
        """A person's undo with this key; None where there is none."""
        found = self.connection.execute(_UNDO, (annotator, key)).fetchone()
        return None if found is None else Undo(*found)

    def last_ranks(self, item: str, annotator: str) -> list[int | None] | None:
        """The ranks of a person's newest own ranking of an item, taken back or not; None where there is none."""
        found = self.connection.execute(_LAST, (item, annotator)).fetchone()
        return None if found is None else orjson.loads(found[0])

    # --- what is before whom --------------------------------------------------------------------------------------

    def show(self, item: str, annotator: str, round: int) -> None:
        """Holds an item for a person for as long as the rules say, and whatever else they held no longer."""
        self.release(annotator)
        self.connection.execute(_SHOW, (item, annotator, round, self.now() + self.rules.hold))
        self._read_held()

    def release(self, annotator: str) -> None:
        """Holds nothing for a person."""
        own = "UPDATE showings SET until = 0 WHERE annotator = ? AND until > 0"
        self.connection.execute(own, (annotator,))
        self._read_held()

    def holds(self, item: str, annotator: str) -> bool:
        """Whether an item is held for a person now."""
        return any(each.item == item and each.annotator == annotator for each in self.held)

    def round_of(self, item: str, annotator: str) -> int | None:
        """In which round an item was last put before a person; None when it never was."""
        query = "SELECT round FROM showings WHERE item = ? AND annotator = ?"
        found = self.connection.execute(query, (item, annotator)).fetchone()
        return None if found is None else int(found[0])

    # --- keeping in step ------------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        items, said = self._mirror.catch_up()
        if items:
            self.assignment.arrange(first_of(self.connection))
        for item in said:
            self.assignment.look_again(item)
        self._read_held()

    def _read_held(self) -> None:
        rows = self.connection.execute(_HELD, (self.now(),)).fetchall()
        self.held = [Showing(item=item, annotator=who, round=round, until=until) for item, who, round, until in rows]
