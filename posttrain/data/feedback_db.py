"""The ranking store: answers that people rank, and everything they said of them, in one SQLite file.

Events are only ever appended: an undo is an event too, so that nothing acknowledged is lost and agreement can be told
at any time. Of each person's rankings of an item the newest that is not undone counts. The prompt of an item marked
`audit` serves to check people and is never trained on, whatever its answers. Labels outlive libraries: the file needs
nothing but SQLite to be read.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, cast
from urllib.parse import quote

import orjson

from posttrain.data.feedback_schema import APPLICATION, VERSION, migrate, write_ahead
from posttrain.data.json_rows import Row
from posttrain.errors import DataError, Problem
from posttrain.records import JSON, Message

EventKind: TypeAlias = Literal["rank", "skip", "cant_judge", "flag", "note", "undo"]

PATIENCE = 5000
"""Milliseconds that a writer waits for another one."""

_MAGIC = b"SQLite format 3\x00"
_HEADER = 100  # bytes that every database begins with
_SUFFIXES = (".db", ".sqlite", ".sqlite3")
STANDS = """id NOT IN (
    SELECT json_extract(payload, '$.event') FROM events
    WHERE kind = 'undo' AND json_extract(payload, '$.event') IS NOT NULL
)"""
"""What is asked of an event in a query: that no undo names it. One NULL in the list would hide every event."""
# The newest rank of each person and item that no undo names, in the order in which they were given. Of an item that was
# adjudicated, that ranking alone. Whoever brings other answers to an audit prompt (a file, a chat) brings more of what
# nothing trains on: prompts are told apart, not items. Bytes in a payload are no JSON, and the row that holds them is
# told by itself.
_RANKINGS = f"""
WITH live AS (
    SELECT id, item, annotator, CASE WHEN json_valid(payload) THEN json_extract(payload, '$.adjudicates') END AS settles
    FROM events
    WHERE kind = 'rank' AND {STANDS}
), settled AS (
    SELECT item, max(id) AS event FROM live WHERE settles GROUP BY item
), counted AS (
    SELECT event FROM settled
    UNION ALL
    SELECT max(id) FROM live WHERE item NOT IN (SELECT item FROM settled) GROUP BY item, annotator
)
SELECT events.id, items.id, annotator, prompt, responses, payload
FROM counted JOIN events ON events.id = counted.event JOIN items ON items.id = events.item
WHERE (prompt IN (SELECT prompt FROM items WHERE audit)) = ? ORDER BY events.id
"""
_REMARKS = f"""
SELECT item, annotator, payload FROM events WHERE kind IN ('note', 'flag') AND {STANDS} ORDER BY id
"""
# What an identity is made of: columns that every version has, so that a store keeps it when it becomes a later one.
_CONTENT = (
    "SELECT id, prompt, responses, audit FROM items ORDER BY id",
    "SELECT id, time, item, annotator, kind, payload FROM events ORDER BY id",
)


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
    """What a person said of an item: `{"ranks": [1, 2, null]}` for a rank, `{"event": id}` for an undo.

    A rank with `"adjudicates": true` in its payload is the only one of its item that counts. `key` is made by the
    sender: an event of the same person and key is the same event, however often it is sent. `seconds` were spent on it.
    """

    item: str
    annotator: str
    kind: EventKind
    payload: Mapping[str, JSON] = field(default_factory=dict[str, "JSON"])
    key: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """A note, or the flags of an item or of one of its answers, by its place in the item."""

    item: str
    annotator: str
    note: str
    flags: tuple[str, ...]
    answer: int | None


# --- writing ----------------------------------------------------------------------------------------------------


def create(path: Path) -> sqlite3.Connection:
    """A connection to a new, empty store. Raises FileExistsError where there is a file already."""
    path.touch(exist_ok=False)
    return _writing(sqlite3.connect(path))


def connect(path: Path) -> sqlite3.Connection:
    """A connection to a store, for reading and writing; one of an earlier version becomes one of this.

    Raises DataError as `rankings` does.
    """
    _refuse_other_files(path)
    connection = sqlite3.connect(path, timeout=PATIENCE / 1000)
    try:
        _refuse_other_databases(path, connection)
        return _writing(connection)
    except DataError:
        connection.close()
        raise
    except sqlite3.Error as reason:
        connection.close()
        raise DataError([_unwritten(path, reason)]) from reason


def version_of(path: Path) -> int:
    """The version of a store, which `connect` makes this one's. Raises DataError for what is none."""
    with _opened(path) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _writing(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute(f"PRAGMA busy_timeout = {PATIENCE}")
    write_ahead(connection, PATIENCE / 1000)
    # What was acknowledged survives a power cut, and a second writer waits instead of failing.
    connection.execute("PRAGMA synchronous = FULL")
    migrate(connection)
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def add_items(connection: sqlite3.Connection, items: Iterable[Item]) -> int:
    """The number of items that were new; one whose id the store has already is left as it is."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        return put_items(connection, items)


def put_items(connection: sqlite3.Connection, items: Iterable[Item]) -> int:
    """As `add_items`, inside the caller's transaction."""
    rows = [(item.id, _prompt(item), _answers(item), item.seed, item.audit) for item in items]
    before = connection.total_changes
    connection.executemany(
        "INSERT INTO items (id, prompt, responses, seed, audit) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", rows
    )
    return connection.total_changes - before


def append(connection: sqlite3.Connection, event: Event) -> int:
    """The id of the event once it is on disk; that of the earlier one where its key was sent before.

    Raises ValueError for an item that the store does not have, ranks that are not one for each answer, and an undo of
    anything but an event of the same person and item.
    """
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        number, _ = record(connection, event)
    return number


def record(connection: sqlite3.Connection, event: Event) -> tuple[int, bool]:
    """The id of the event, and whether it is new, inside the caller's transaction. Raises ValueError as `append`."""
    if event.key is not None:
        own = "SELECT id FROM events WHERE annotator = ? AND key = ?"
        if found := connection.execute(own, (event.annotator, event.key)).fetchone():
            return int(found[0]), False
    _check(connection, event)
    payload = json.dumps(dict(event.payload), ensure_ascii=False)
    done = connection.execute(
        "INSERT INTO events (item, annotator, kind, payload, key, seconds) VALUES (?, ?, ?, ?, ?, ?)",
        (event.item, event.annotator, event.kind, payload, event.key, event.seconds),
    )
    return int(done.lastrowid or 0), True


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


def _prompt(item: Item) -> str:
    spoken = [{"role": message.role, "content": message.content} for message in item.prompt]
    return json.dumps(spoken, ensure_ascii=False)


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


def rankings(path: Path, *, audit: bool = False, empty: bool = False) -> Iterator[tuple[int, Row | Problem]]:
    """The rankings that count, each as the number of its event and a row of prompt, responses, ranks and annotator.

    Those of prompts to train on, or with `audit` those of prompts that check people. In the place of one whose item or
    event holds something else stands what is wrong. The store is opened for reading only; others may write meanwhile,
    and what they write then is not seen. Raises DataError for a file that is no ranking store, one of a newer version,
    and, unless it may be `empty`, one in which none of these items is ranked.
    """
    ranked = False
    with _opened(path) as connection:
        for event, item, annotator, prompt, responses, payload in connection.execute(_RANKINGS, (audit,)):
            ranked = True
            try:
                row = _row(item, annotator, json.loads(prompt), json.loads(responses), json.loads(payload))
            except (ValueError, TypeError, AttributeError, RecursionError):
                yield int(event), _no_ranking(f"{path}:{event}", item)
            else:
                yield int(event), row
        if not ranked and not empty:
            raise DataError([_unranked(path, connection, audit=audit)])


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
        for query in _CONTENT:
            for row in connection.execute(query):
                digest.update(
                    f"{json.dumps(row, default=repr)}\n".encode()
                )  # a column may hold bytes, by no hand of ours
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Generator[sqlite3.Connection]:
    """A connection for reading only; what breaks while it is read is a DataError."""
    with closing(reader(path)) as connection:
        try:
            yield connection
        except (sqlite3.Error, UnicodeDecodeError) as reason:
            raise DataError([_damaged(path, reason)]) from reason


def reader(path: Path) -> sqlite3.Connection:
    """A connection for reading only, of a store of any version, for threads that take turns.

    Raises DataError as `rankings` does.
    """
    _refuse_other_files(path)
    name = f"file:{quote(str(path.resolve()))}?mode=ro"
    connection = sqlite3.connect(name, uri=True, timeout=5.0, check_same_thread=False)
    try:
        _refuse_other_databases(path, connection)
    except DataError:
        connection.close()
        raise
    return connection


def remarks(path: Path) -> list[Remark]:
    """The notes and flags that nobody took back, oldest first. Raises DataError as `rankings` does."""
    with _opened(path) as connection:
        return [_remark(*row) for row in connection.execute(_REMARKS)]


def _remark(item: str, annotator: str, payload: str) -> Remark:
    told = cast("Row", orjson.loads(payload))
    flags, answer = told.get("flags"), told.get("answer")
    return Remark(
        item=item,
        annotator=annotator,
        note=str(told.get("text") or ""),
        flags=tuple(map(str, flags)) if isinstance(flags, list) else (),
        answer=answer if type(answer) is int else None,
    )


def texts(connection: sqlite3.Connection, item: str) -> tuple[list[Row], list[Row]]:
    """The messages of an item's prompt, and its answers. Raises KeyError for an item that there is not."""
    found = connection.execute("SELECT prompt, responses FROM items WHERE id = ?", (item,)).fetchone()
    if found is None:
        raise KeyError(item)
    return orjson.loads(found[0]), orjson.loads(found[1])


def _unwritten(path: Path, reason: sqlite3.Error) -> Problem:
    fix = "check the rights of the file and its folder, the room on the disk, and who else writes to it"
    return Problem(place=str(path), what=f"the store cannot be written to: {reason}", fix=fix)


def _damaged(path: Path, reason: Exception) -> Problem:
    fix = "wait for whoever writes to it" if "locked" in str(reason) else "restore it from a copy"
    return Problem(place=str(path), what=f"the database cannot be read: {reason}", fix=fix)


def _other(path: Path, what: str) -> Problem:
    return Problem(place=str(path), what=what, fix="give a ranking store, or a file such as .jsonl")


def _refuse_other_files(path: Path) -> None:
    if not path.is_file():
        raise DataError([Problem(place=str(path), what="there is no such file", fix="check the path")])
    # SQLite alone opens the file: whatever else closes it takes away the locks of all connections of this process, and
    # another process that comes and goes removes the log from under a server that goes on writing to it.
    size = path.stat().st_size
    if size < _HEADER:  # SQLite takes such a file for an empty database
        raise DataError([_other(path, "this is no SQLite database" if size else "the file is empty")])


def _refuse_other_databases(path: Path, connection: sqlite3.Connection) -> None:
    """Raises DataError unless the connection is to a store that this version can read."""
    try:
        application = int(connection.execute("PRAGMA application_id").fetchone()[0])
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error as reason:
        if reason.sqlite_errorcode == sqlite3.SQLITE_NOTADB:
            raise DataError([_other(path, "this is no SQLite database")]) from reason
        raise DataError([_damaged(path, reason)]) from reason
    if application != APPLICATION:
        fix = "export its rows as .jsonl or .csv"
        raise DataError([Problem(place=str(path), what="this database was not made for rankings", fix=fix)])
    if version > VERSION:
        what = f"this ranking store has version {version}; this posttrain reads up to {VERSION}"
        raise DataError([Problem(place=str(path), what=what, fix="pip install --upgrade posttrain")])


def _unranked(path: Path, connection: sqlite3.Connection, *, audit: bool) -> Problem:
    items = int(connection.execute("SELECT count(*) FROM items WHERE audit = ?", (audit,)).fetchone()[0])
    kind = "audit items" if audit else "items"
    nothing = "it has no audit items" if audit else "there is nothing to rank in it yet"
    what = f"there are no rankings yet of its {items:,} {kind}" if items else nothing
    return Problem(
        place=str(path), what=what, fix="rank some: posttrain rank" if items else "add answers: posttrain rank"
    )
