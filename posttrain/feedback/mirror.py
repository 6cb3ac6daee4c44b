"""A store's items and events in memory, read as far as they are new."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import cast

import orjson

from posttrain.data.feedback_db import EventKind
from posttrain.data.json_rows import Row
from posttrain.feedback.standing import Facts, Said, Standing

_ITEMS = "SELECT rowid, id, seed, json_array_length(responses), audit FROM items WHERE rowid > ? ORDER BY rowid"
_EVENTS = "SELECT id, time, item, annotator, kind, payload, {}, {} IS NOT NULL FROM events WHERE id > ? ORDER BY id"
_LATER = ("seconds", "key")
"""Columns that a store of version 1, opened for reading alone, does not have."""


class Mirror:
    """What stands in a store, as of the last `catch_up`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.standing = Standing()
        self.last_event = 0
        self._last_item = 0
        there = {row[1] for row in connection.execute("PRAGMA table_info (events)")}
        self._events = _EVENTS.format(*(name if name in there else "NULL" for name in _LATER))

    def catch_up(self) -> tuple[int, list[str]]:
        """How many items are new, and of which items something was said since the last time."""
        items = self.connection.execute(_ITEMS, (self._last_item,)).fetchall()
        for number, item, seed, answers, audit in items:
            self.standing.add(Facts(id=item, seed=seed, answers=answers, audit=bool(audit)))
            self._last_item = number
        said = [_said(row) for row in self.connection.execute(self._events, (self.last_event,)).fetchall()]
        for each in said:
            self.standing.apply(each)
            self.last_event = each.event
        return len(items), [each.item for each in said]


def _said(row: tuple[int, str, str, str, EventKind, str, float | None, int]) -> Said:
    number, time, item, annotator, kind, payload, seconds, keyed = row
    told = cast("Row", orjson.loads(payload))
    return Said(
        event=number,
        time=datetime.fromisoformat(time).timestamp(),
        item=item,
        annotator=annotator,
        kind=kind,
        ranks=tuple(cast("list[int | None]", told.get("ranks") or ())),
        order=tuple(cast("list[int]", told.get("order") or ())),
        repeat=told.get("repeat") is True,
        adjudicates=told.get("adjudicates") is True,
        undone=cast("int | None", told.get("event")) if kind == "undo" else None,
        seconds=seconds,
        flags=tuple(cast("list[str]", told.get("flags") or ())),
        keyed=bool(keyed),
    )
