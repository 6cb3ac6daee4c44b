"""Settings that belong to a store rather than to a start of the server: what they are, and what a start changes."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Mapping, Sequence
from typing import cast

from posttrain.records import JSON

KEPT = ("seed", "overlap", "audit", "repeat", "lock", "guidelines")
_PUT = "INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"


def kept_settings(connection: sqlite3.Connection) -> dict[str, JSON]:
    """The settings that a store holds."""
    rows = connection.execute("SELECT name, value FROM settings ORDER BY name").fetchall()
    return {name: cast("JSON", json.loads(value)) for name, value in rows}


def keep_settings(connection: sqlite3.Connection, settings: Mapping[str, JSON]) -> dict[str, tuple[JSON, JSON]]:
    """The earlier and the new value of each setting that is another one from now on, in the caller's transaction."""
    before = kept_settings(connection)
    changed = {name: (before[name], value) for name, value in settings.items() if before.get(name, value) != value}
    connection.executemany(_PUT, [(name, json.dumps(value)) for name, value in settings.items()])
    return changed


def put_first(connection: sqlite3.Connection, items: Sequence[str]) -> None:
    """From now on these items are handed out before all others, in the caller's transaction."""
    connection.execute(_PUT, ("first", json.dumps(list(items))))


def first_of(connection: sqlite3.Connection) -> frozenset[str]:
    """The items that are handed out before all others."""
    found = connection.execute("SELECT value FROM settings WHERE name = 'first'").fetchone()
    return frozenset(cast("list[str]", json.loads(found[0]))) if found is not None else frozenset()


def mark_of(connection: sqlite3.Connection) -> str:
    """A word of its own for every store, made once, in the caller's transaction.

    Cookies of two servers on one machine keep apart by it, and so does what their pages keep in one browser.
    """
    fresh = json.dumps(secrets.token_hex(4))
    connection.execute("INSERT INTO settings (name, value) VALUES ('mark', ?) ON CONFLICT DO NOTHING", (fresh,))
    return str(kept_settings(connection)["mark"])
