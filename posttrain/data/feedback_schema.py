"""The tables of the ranking store, and how a store of an earlier version becomes one of this.

A new store takes the same steps as an old one, so that both hold the same tables. What training reads (items, and what
was said of them in `events`) is the same in every version; an older store is read as it stands, and changed only by
those who write.
"""

from __future__ import annotations

import sqlite3
import time

APPLICATION = 0x70747266  # "ptrf"

_FIRST = (
    """
CREATE TABLE items (
    id        TEXT PRIMARY KEY,
    prompt    TEXT NOT NULL CHECK (json_valid(prompt)),       -- [{"role", "content"}, …]
    responses TEXT NOT NULL CHECK (json_valid(responses)),    -- [{"text", "stopped", "model"}, …]
    seed      INTEGER NOT NULL,                               -- with the annotator: the order in which they are shown
    audit     INTEGER NOT NULL DEFAULT 0 CHECK (audit IN (0, 1)),
    created   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
)""",
    """
CREATE TABLE events (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    time      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    item      TEXT NOT NULL REFERENCES items (id),
    annotator TEXT NOT NULL CHECK (annotator <> ''),
    kind      TEXT NOT NULL CHECK (kind IN ('rank', 'skip', 'cant_judge', 'flag', 'note', 'undo')),
    payload   TEXT NOT NULL CHECK (json_valid(payload))       -- {"ranks": [1, 2, 2, null]}, {"event": 12}, …
)""",
    "CREATE INDEX events_of_items ON events (item, annotator, id)",
    """
CREATE TRIGGER events_stay BEFORE UPDATE ON events
BEGIN SELECT RAISE (ABORT, 'events are only appended'); END""",
    """
CREATE TRIGGER events_are_kept BEFORE DELETE ON events
BEGIN SELECT RAISE (ABORT, 'events are only appended'); END""",
    f"PRAGMA application_id = {APPLICATION}",
)
_SECOND = (
    # Made by whoever sends an event: what is sent again after an answer that never came is not kept twice.
    "ALTER TABLE events ADD COLUMN key TEXT",
    "ALTER TABLE events ADD COLUMN seconds REAL CHECK (seconds >= 0)",
    "CREATE UNIQUE INDEX events_once ON events (annotator, key)",
    """
CREATE TABLE annotators (
    name      TEXT PRIMARY KEY CHECK (name <> ''),
    link      TEXT UNIQUE,                                    -- sha256 of the personal link; null: the name alone
    created   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
)""",
    "INSERT INTO annotators (name) SELECT DISTINCT annotator FROM events",
    """
CREATE TABLE sessions (
    hash      TEXT PRIMARY KEY,                               -- sha256 of the cookie
    annotator TEXT NOT NULL REFERENCES annotators (name),
    created   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
)""",
    # What was last put before whom, and until when (seconds since 1970) it is held for them. `round` counts how often
    # it came back: with seed and annotator it tells the order of the answers.
    """
CREATE TABLE showings (
    item      TEXT NOT NULL REFERENCES items (id),
    annotator TEXT NOT NULL,
    round     INTEGER NOT NULL DEFAULT 0 CHECK (round >= 0),
    until     REAL NOT NULL,
    PRIMARY KEY (item, annotator)
)""",
    "CREATE INDEX showings_held ON showings (until)",
    """
CREATE TABLE settings (
    name      TEXT PRIMARY KEY,                               -- overlap, audit, guidelines, …
    value     TEXT NOT NULL CHECK (json_valid(value))
)""",
)
# What makes a store of version n from one of version n - 1, a step a version.
_STEPS = (_FIRST, _SECOND)
VERSION = len(_STEPS)


def write_ahead(connection: sqlite3.Connection, patience: float) -> None:
    """Has a store write ahead. Where several begin at once SQLite tells one that it is locked, without its patience.

    So that is waited for here, `patience` seconds. Raises sqlite3.OperationalError after that, and for all else.
    """
    until = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as reason:
            if reason.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.02)


def migrate(connection: sqlite3.Connection) -> int:
    """The version that the store had: 0 for a new, empty file. Whole or not at all: a kill leaves the earlier version.

    Several may do so at once; the later ones find it done.
    """
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        for step in _STEPS[version:]:
            for statement in step:
                connection.execute(statement)
        if version < VERSION:
            connection.execute(f"PRAGMA user_version = {VERSION}")
    return version
