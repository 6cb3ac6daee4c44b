"""Who ranks: annotators by name or by a personal link, and the sessions of their browsers.

The store holds hashes alone: whoever reads it can neither follow a link nor take over a session.
"""

from __future__ import annotations

import hashlib
import sqlite3
import unicodedata

from posttrain.pages.refused import Refused
from posttrain.pages.secret import new_secret


def hash_of_secret(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def new_link(connection: sqlite3.Connection, name: str) -> str:
    """A personal link for a name, which from now on is entered by it alone; an earlier one, and its sessions, end."""
    link = new_secret()
    with_link = (
        "INSERT INTO annotators (name, link) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET link = excluded.link"
    )
    connection.execute(with_link, (name, hash_of_secret(link)))
    connection.execute("DELETE FROM sessions WHERE annotator = ?", (name,))
    return link


def enter_by_name(connection: sqlite3.Connection, name: str) -> str:
    """The cookie of a new session. Raises Refused for a name with a personal link, however it is written."""
    linked = connection.execute("SELECT name FROM annotators WHERE link IS NOT NULL").fetchall()
    for (other,) in linked:
        if _looks(other) == _looks(name):
            raise Refused(403, f"{other} has a personal link: enter by it, or under another name")
    connection.execute("INSERT INTO annotators (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
    return _session(connection, name)


def enter_by_link(connection: sqlite3.Connection, link: str) -> str:
    """The cookie of a new session. Raises Refused for a link that there is not."""
    found = connection.execute("SELECT name FROM annotators WHERE link = ?", (hash_of_secret(link),)).fetchone()
    if found is None:
        raise Refused(404, "there is no such link; ask for a new one")
    return _session(connection, str(found[0]))


def annotator_of(connection: sqlite3.Connection, cookie: str) -> tuple[str, bool] | None:
    """Whose session a cookie is of, and whether they have a personal link; None for no session."""
    query = """
    SELECT annotators.name, link IS NOT NULL FROM sessions JOIN annotators ON annotators.name = sessions.annotator
    WHERE hash = ?
    """
    found = connection.execute(query, (hash_of_secret(cookie),)).fetchone()
    return None if found is None else (str(found[0]), bool(found[1]))


def leave(connection: sqlite3.Connection, cookie: str) -> None:
    """Ends a session."""
    connection.execute("DELETE FROM sessions WHERE hash = ?", (hash_of_secret(cookie),))


def _looks(name: str) -> str:
    """A name as people tell it from others: without case, and in one way of writing its letters."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _session(connection: sqlite3.Connection, name: str) -> str:
    cookie = new_secret()
    connection.execute("INSERT INTO sessions (hash, annotator) VALUES (?, ?)", (hash_of_secret(cookie), name))
    return cookie
