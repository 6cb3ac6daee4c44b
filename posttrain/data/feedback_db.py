"""The ranking store: answers that people rank, and everything they said of them, in one SQLite file.

Events are only ever appended: an undo is an event too, so that nothing acknowledged is lost and agreement can be told
at any time. Of each person's rankings of an item the newest that is not undone counts. An item marked `audit` serves
to check people and is never trained on. Labels outlive libraries: the file needs nothing but SQLite to be read.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import quote

from posttrain.data.json_rows import Row
from posttrain.errors import DataError, Problem
from posttrain.records import JSON, Message

EventKind: TypeAlias = Literal["rank", "skip", "cant_judge", "flag", "note", "undo"]

APPLICATION = 0x70747266  # "ptrf"
VERSION = 1
_MAGIC = b"SQLite format 3\x00"
_SUFFIXES = (".db", ".sqlite", ".sqlite3")
_SCHEMA = f"""
CREATE TABLE items (
    id        TEXT PRIMARY KEY,
    prompt    TEXT NOT NULL CHECK (json_valid(prompt)),       -- [{{"role", "content"}}, …]
    responses TEXT NOT NULL CHECK (json_valid(responses)),    -- [{{"text", "stopped", "model"}}, …]
    seed      INTEGER NOT NULL,                               -- with the annotator: the order in which they are shown
    audit     INTEGER NOT NULL DEFAULT 0 CHECK (audit IN (0, 1)),
    created   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
CREATE TABLE events (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    time      TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    item      TEXT NOT NULL REFERENCES items (id),
    annotator TEXT NOT NULL CHECK (annotator <> ''),
    kind      TEXT NOT NULL CHECK (kind IN ('rank', 'skip', 'cant_judge', 'flag', 'note', 'undo')),
    payload   TEXT NOT NULL CHECK (json_valid(payload))       -- {{"ranks": [1, 2, 2, null]}}, {{"event": 12}}, …
);
CREATE INDEX events_of_items ON events (item, annotator, id);
CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN SELECT RAISE (ABORT, 'events are only appended'); END;
CREATE TRIGGER events_are_kept BEFORE DELETE ON events BEGIN SELECT RAISE (ABORT, 'events are only appended'); END;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
"""
# The newest rank of each person and item that no undo names, in the order in which they were given.
_RANKINGS = """
SELECT max(events.id), items.id, annotator, prompt, responses, payload
FROM events JOIN items ON items.id = events.item
WHERE kind = 'rank' AND NOT audit
    AND events.id NOT IN (SELECT json_extract(payload, '$.event') FROM events WHERE kind = 'undo')
GROUP BY items.id, annotator ORDER BY 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer to rank: whether it ended by itself and which model wrote it, where that is known."""

    text: str
    stopped: bool | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A prompt with the answers to rank. `seed` and the annotator decide the order in which they are shown."""

    id: str
    prompt: Sequence[Message]
    responses: Sequence[Answer]
    seed: int = 0
    audit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a person said of an item: `{"ranks": [1, 2, null]}` for a rank, `{"event": id}` for an undo."""

    item: str
    annotator: str
    kind: EventKind
    payload: Mapping[str, JSON] = field(default_factory=dict[str, "JSON"])


# --- writing ----------------------------------------------------------------------------------------------------


def create(path: Path) -> sqlite3.Connection:
    """A connection to a new, empty store. Raises FileExistsError where there is a file already."""
    path.touch(exist_ok=False)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(_SCHEMA)
    return _writing(connection)


def connect(path: Path) -> sqlite3.Connection:
    """A connection to a store, for reading and writing. Raises DataError as `rankings` does."""
    _refuse_other_files(path)
    connection = sqlite3.connect(path)
    try:
        _refuse_other_databases(path, connection)
    except DataError:
        connection.close()
        raise
    return _writing(connection)


def _writing(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("PRAGMA foreign_keys = ON")
    # What was acknowledged survives a power cut, and a second writer waits instead of failing.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA busy_timeout = 5000")
    return connection


def add_items(connection: sqlite3.Connection, items: Iterable[Item]) -> int:
    """The number of items that were new; one whose id the store has already is left as it is."""
    rows = [
        (
            item.id,
            json.dumps([_spoken(m) for m in item.prompt], ensure_ascii=False),
            _answers(item),
            item.seed,
            item.audit,
        )
        for item in items
    ]
    with connection:
        before = connection.total_changes
        connection.executemany(
            "INSERT INTO items (id, prompt, responses, seed, audit) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", rows
        )
    return connection.total_changes - before


def append(connection: sqlite3.Connection, event: Event) -> int:
    """The id of the event once it is on disk.

    Raises ValueError for an item that the store does not have, ranks that are not one for each answer, and an undo of
    anything but an event of the same person and item.
    """
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        _check(connection, event)
        done = connection.execute(
            "INSERT INTO events (item, annotator, kind, payload) VALUES (?, ?, ?, ?)",
            (event.item, event.annotator, event.kind, json.dumps(dict(event.payload), ensure_ascii=False)),
        )
    return int(done.lastrowid or 0)


def _check(connection: sqlite3.Connection, event: Event) -> None:
    found = connection.execute("SELECT json_array_length(responses) FROM items WHERE id = ?", (event.item,)).fetchone()
    if found is None:
        raise ValueError(f"there is no item {event.item!r}")
    if event.kind == "rank":
        ranks = event.payload.get("ranks")
        if not isinstance(ranks, list) or len(ranks) != found[0]:
            raise ValueError(f"item {event.item!r} has {found[0]} answers, but its ranks are {ranks!r}")
        if not all(rank is None or (type(rank) is int and rank >= 1) for rank in ranks):
            raise ValueError(f"ranks are whole numbers from 1, or null for what is not ranked, not {ranks!r}")
    if event.kind == "undo":
        undone = event.payload.get("event")
        own = "SELECT 1 FROM events WHERE id = ? AND item = ? AND annotator = ? AND kind <> 'undo'"
        if type(undone) is not int or not connection.execute(own, (undone, event.item, event.annotator)).fetchone():
            raise ValueError(f"{event.annotator!r} has no event {undone!r} of item {event.item!r} to undo")


def _spoken(message: Message) -> Row:
    return {"role": message.role, "content": message.content}


def _answers(item: Item) -> str:
    answers = [{"text": a.text, "stopped": a.stopped, "model": a.model} for a in item.responses]
    return json.dumps(answers, ensure_ascii=False)


# --- reading ----------------------------------------------------------------------------------------------------


def is_database(path: Path) -> bool:
    """Whether `path` is named or begins like an SQLite database."""
    if path.suffix.lower() in _SUFFIXES:
        return True
    with path.open("rb") as handle:
        return handle.read(len(_MAGIC)) == _MAGIC


def rankings(path: Path) -> Iterator[tuple[int, Row | Problem]]:
    """The rankings that count, each as the number of its event and a row of prompt, responses, ranks and annotator.

    In the place of one whose item or event holds something else stands what is wrong.
    The store is opened for reading only; others may write meanwhile, and what they write then is not seen. Raises
    DataError for a file that is no ranking store, one of a newer version, and one in which nothing is ranked.
    """
    empty = True
    with _opened(path) as connection:
        for event, item, annotator, prompt, responses, payload in connection.execute(_RANKINGS):
            empty = False
            try:
                row = _row(item, annotator, json.loads(prompt), json.loads(responses), json.loads(payload))
            except (ValueError, TypeError, AttributeError, RecursionError):
                yield int(event), _no_ranking(f"{path}:{event}", item)
            else:
                yield int(event), row
        if empty:
            raise DataError([_unranked(path, connection)])


def _row(item: str, annotator: str, prompt: JSON, answers: list[Row], payload: Row) -> Row:
    row: Row = {"id": f"{item}/{annotator}", "prompt": prompt, "annotator": annotator}
    row["responses"] = [answer.get("text") for answer in answers]
    row["ranks"] = payload.get("ranks")
    stopped = [answer.get("stopped") for answer in answers]
    if None not in stopped:
        row["stopped"] = stopped
    return row


def _no_ranking(place: str, item: object) -> Problem:
    what = f"the answers of item {item!r:.60}, or this ranking of them, are not as this program writes them"
    return Problem(place=place, what=what, fix="restore the store from a copy, or undo the ranking")


def fingerprint(path: Path) -> str:
    """The sha256 of all items and events, whatever else the file and the log beside it hold."""
    digest = hashlib.sha256()
    with _opened(path) as connection:
        for query in ("SELECT id, prompt, responses, audit FROM items ORDER BY id", "SELECT * FROM events ORDER BY id"):
            for row in connection.execute(query):
                digest.update(
                    f"{json.dumps(row, default=repr)}\n".encode()
                )  # a column may hold bytes, by no hand of ours
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Generator[sqlite3.Connection]:
    """A connection for reading only; what breaks while it is read is a DataError."""
    _refuse_other_files(path)
    connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, timeout=5.0)
    with closing(connection):
        _refuse_other_databases(path, connection)
        try:
            yield connection
        except (sqlite3.Error, UnicodeDecodeError) as reason:
            raise DataError([_damaged(path, reason)]) from reason


def _damaged(path: Path, reason: Exception) -> Problem:
    return Problem(place=str(path), what=f"the database cannot be read: {reason}", fix="restore it from a copy")


def _refuse_other_files(path: Path) -> None:
    if not path.is_file():
        raise DataError([Problem(place=str(path), what="there is no such file", fix="check the path")])
    with path.open("rb") as handle:
        head = handle.read(len(_MAGIC))
    if head != _MAGIC:
        what = "the file is empty" if not head else "this is no SQLite database"
        raise DataError([Problem(place=str(path), what=what, fix="give a ranking store, or a file such as .jsonl")])


def _refuse_other_databases(path: Path, connection: sqlite3.Connection) -> None:
    """Raises DataError unless the connection is to a store that this version can read."""
    try:
        application = int(connection.execute("PRAGMA application_id").fetchone()[0])
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error as reason:
        raise DataError([_damaged(path, reason)]) from reason
    if application != APPLICATION:
        fix = "export its rows as .jsonl or .csv"
        raise DataError([Problem(place=str(path), what="this database was not made for rankings", fix=fix)])
    if version > VERSION:
        what = f"this ranking store has version {version}; this posttrain reads up to {VERSION}"
        raise DataError([Problem(place=str(path), what=what, fix="pip install --upgrade posttrain")])


def _unranked(path: Path, connection: sqlite3.Connection) -> Problem:
    items = int(connection.execute("SELECT count(*) FROM items WHERE NOT audit").fetchone()[0])
    what = f"there are no rankings yet of its {items:,} items" if items else "there is nothing to rank in it yet"
    return Problem(
        place=str(path), what=what, fix="rank some: posttrain rank" if items else "add answers: posttrain rank"
    )
