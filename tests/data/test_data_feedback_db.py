"""The ranking store: which rankings count, what is kept, and who may read it while another writes."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from posttrain.data import feedback_db
from posttrain.data.feedback_db import Answer, Event, Item
from posttrain.data.readers import open_data, read
from posttrain.errors import DataError
from posttrain.types import JSON, Message, PromptRecord, RankedRecord

ASKED = (Message(role="system", content="Be kind."), Message(role="user", content="你好?"))
CHECKED = (Message(role="user", content="Who checks?"),)


def item(name: str, *texts: str, audit: bool = False, stopped: bool | None = None) -> Item:
    answers = [Answer(text=text, stopped=stopped, model="sft") for text in texts]
    asked = CHECKED if audit else ASKED
    return Item(id=name, prompt=asked, responses=answers, audit=audit)


def store(path: Path, *items: Item) -> sqlite3.Connection:
    connection = feedback_db.create(path)
    assert feedback_db.add_items(connection, items) == len(items)
    return connection


def rank(connection: sqlite3.Connection, name: str, annotator: str, *ranks: JSON) -> int:
    return feedback_db.append(
        connection, Event(item=name, annotator=annotator, kind="rank", payload={"ranks": list(ranks)})
    )


def test_a_ranking_of_the_store_is_a_ranked_record(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with closing(store(path, item("a", "one", "two", "three", stopped=True))) as connection:
        rank(connection, "a", "ada", 2, 1, None)
    data = read(path, "ranked")
    assert data.format == "ranked (responses, ranks) → ranked"
    assert data.records == (
        RankedRecord(
            id="a/ada", prompt=ASKED, responses=("one", "two", "three"), ranks=(2, 1, None), stopped=(True,) * 3,
            annotator="ada",
        ),
    )  # fmt: skip


def test_the_newest_ranking_of_each_person_that_is_not_undone_counts(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with closing(store(path, item("a", "one", "two"), item("b", "three", "four"))) as connection:
        rank(connection, "a", "ada", 1, 2)
        rank(connection, "a", "bo", 1, 2)
        rank(connection, "a", "ada", 2, 1)
        slip = rank(connection, "a", "bo", 2, 1)
        only = rank(connection, "b", "bo", 1, 2)
        for event, name in ((slip, "a"), (only, "b")):
            feedback_db.append(connection, Event(item=name, annotator="bo", kind="undo", payload={"event": event}))
        feedback_db.append(connection, Event(item="a", annotator="ada", kind="note", payload={"text": "close"}))
    records = read(path, "ranked").records
    assert [(r.id, r.ranks) for r in records if isinstance(r, RankedRecord)] == [("a/bo", (1, 2)), ("a/ada", (2, 1))]


def test_items_that_check_people_are_not_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with closing(store(path, item("a", "one", "two"), item("b", "three", "four", audit=True))) as connection:
        rank(connection, "a", "ada", 1, 2)
        rank(connection, "b", "ada", 1, 2)
    assert [record.id for record in read(path, "ranked").records] == ["a/ada"]


def test_other_answers_to_an_audit_prompt_are_not_trained_on_either(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    vote = Item(id="chat/c", prompt=CHECKED, responses=[Answer(text="five"), Answer(text="six")])
    with closing(store(path, vote, item("a", "one", "two"), item("b", "three", "four", audit=True))) as connection:
        for name in ("a", "b", "chat/c"):
            rank(connection, name, "ada", 1, 2)
    assert [record.id for record in read(path, "ranked").records] == ["a/ada"]
    assert [record.id for record in open_data(path, "ranked", split="audit")] == ["b/ada", "chat/c/ada"]


def test_audit_items_are_a_split_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with closing(store(path, item("a", "one", "two"), item("b", "three", "four", audit=True))) as connection:
        rank(connection, "a", "ada", 1, 2)
        assert said(path, split="audit") == (
            "feedback.db  there are no rankings yet of its 1 audit items\n  fix: rank some: posttrain rank"
        )
        rank(connection, "b", "ada", 2, 1)
    audits, trained = open_data(path, "ranked", split="audit"), open_data(path, "ranked", split="train")
    assert [record.id for record in audits] == ["b/ada"]
    assert [record.id for record in trained] == ["a/ada"]
    assert (audits.audit, trained.audit) == (True, False)
    assert audits.identity != trained.identity
    assert "a ranking store has no such split; it has the splits train and audit" in said(path, split="test")


def test_of_an_item_that_was_settled_one_ranking_counts(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with closing(store(path, item("a", "one", "two"), item("b", "three", "four"))) as connection:
        rank(connection, "a", "ada", 1, 2)
        rank(connection, "b", "ada", 1, 2)
        rank(connection, "a", "bo", 2, 1)
        settles = Event(item="a", annotator="bo", kind="rank", payload={"ranks": [1, 1], "adjudicates": True})
        settled = feedback_db.append(connection, settles)
        rank(connection, "a", "cy", 1, 2)
        assert [(r.id, r.ranks) for r in ranked(path)] == [("b/ada", (1, 2)), ("a/bo", (1, 1))]
        feedback_db.append(connection, Event(item="a", annotator="bo", kind="undo", payload={"event": settled}))
    assert [r.id for r in ranked(path)] == ["a/ada", "b/ada", "a/bo", "a/cy"]


def ranked(path: Path) -> list[RankedRecord]:
    return [record for record in open_data(path, "ranked") if isinstance(record, RankedRecord)]


def test_an_event_that_is_sent_again_is_the_same(tmp_path: Path) -> None:
    with closing(store(tmp_path / "feedback.db", item("a", "one", "two"))) as connection:
        event = Event(item="a", annotator="ada", kind="rank", payload={"ranks": [1, 2]}, key="k", seconds=3.5)
        first = feedback_db.append(connection, event)
        assert feedback_db.append(connection, event) == first
        other = Event(item="a", annotator="bo", kind="skip", key="k")
        assert feedback_db.append(connection, other) != first
        kept = connection.execute("SELECT annotator, key, seconds FROM events ORDER BY id").fetchall()
    assert kept == [("ada", "k", 3.5), ("bo", "k", None)]


def test_the_items_serve_as_prompts(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with closing(store(path, item("a", "one", "two"))) as connection:
        rank(connection, "a", "ada", 1, 2)
    [record] = read(path, "prompt").records
    assert isinstance(record, PromptRecord)
    assert record.messages == ASKED


def test_events_are_never_changed(tmp_path: Path) -> None:
    with closing(store(tmp_path / "feedback.db", item("a", "one", "two"))) as connection:
        rank(connection, "a", "ada", 1, 2)
        for statement in ("DELETE FROM events", "UPDATE events SET annotator = 'bo'"):
            with pytest.raises(sqlite3.IntegrityError, match="only appended"):
                connection.execute(statement)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (Event(item="z", annotator="ada", kind="skip"), "there is no item 'z'"),
        (Event(item="a", annotator="ada", kind="rank", payload={"ranks": [1]}), "has 2 answers, but its ranks are"),
        (Event(item="a", annotator="ada", kind="rank", payload={"ranks": [0, 1]}), "whole numbers from 1, or null"),
        (Event(item="a", annotator="ada", kind="rank", payload={"ranks": [True, 1]}), "whole numbers from 1, or null"),
        (Event(item="a", annotator="bo", kind="undo", payload={"event": 1}), "'bo' has no event 1 of item 'a' to undo"),
    ],
)
def test_an_event_that_says_nothing_is_refused(event: Event, said: str, tmp_path: Path) -> None:
    with closing(store(tmp_path / "feedback.db", item("a", "one", "two"))) as connection:
        rank(connection, "a", "ada", 1, 2)
        with pytest.raises(ValueError, match=said):
            feedback_db.append(connection, event)
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (1,)


def test_a_store_is_read_while_another_writes_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    writer = store(path, item("a", "one", "two"), item("b", "three", "four"))
    rank(writer, "a", "ada", 1, 2)
    reading = open_data(path, "ranked")
    rows = iter(reading)
    assert next(rows).id == "a/ada"
    rank(writer, "b", "ada", 1, 2)
    assert len(list(rows)) == 0
    assert [record.id for record in reading] == ["a/ada", "b/ada"]
    writer.close()
    assert len(read(path, "ranked").records) == 2


def test_an_item_is_added_once(tmp_path: Path) -> None:
    with closing(store(tmp_path / "feedback.db", item("a", "one", "two"))) as connection:
        assert feedback_db.add_items(connection, [item("a", "other", "words"), item("b", "three", "four")]) == 1
        [kept] = connection.execute("SELECT responses FROM items WHERE id = 'a'").fetchone()
    assert [answer["text"] for answer in json.loads(kept)] == ["one", "two"]


def test_the_identity_follows_what_people_said(tmp_path: Path) -> None:
    path, copy = tmp_path / "feedback.db", tmp_path / "copy.db"
    with closing(store(path, item("a", "one", "two"))) as connection:
        rank(connection, "a", "ada", 1, 2)
        before = open_data(path, "ranked").identity
        connection.execute("VACUUM INTO ?", (str(copy),))
        assert open_data(copy, "ranked").identity == before
        rank(connection, "a", "bo", 1, 2)
    assert open_data(path, "ranked").identity != before


def said(path: Path, split: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        list(open_data(path, "ranked", split=split))
    return str(caught.value).replace(f"{path.parent}/", "")


def test_other_files_and_empty_stores_say_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    path.write_bytes(b"not a database at all")
    assert said(path) == (
        "feedback.db  this is no SQLite database\n  fix: give a ranking store, or a file such as .jsonl"
    )
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE songs (title TEXT)")
    assert said(path) == (
        "feedback.db  this database was not made for rankings\n  fix: export its rows as .jsonl or .csv"
    )
    path.unlink()
    with closing(feedback_db.create(path)) as connection:
        assert said(path) == "feedback.db  there is nothing to rank in it yet\n  fix: add answers: posttrain rank"
        feedback_db.add_items(connection, [item("a", "one", "two")])
        assert said(path) == "feedback.db  there are no rankings yet of its 1 items\n  fix: rank some: posttrain rank"
        connection.execute("PRAGMA user_version = 3")
    assert said(path) == (
        "feedback.db  this ranking store has version 3; this posttrain reads up to 2\n"
        "  fix: pip install --upgrade posttrain"
    )
    with pytest.raises(FileExistsError):
        feedback_db.create(path)


def test_a_damaged_store_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with closing(store(path, item("a", "one", "two"))) as connection:
        rank(connection, "a", "ada", 1, 2)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\x5a" * (len(content) - 4096)
    path.write_bytes(content)
    assert said(path).startswith("feedback.db  the database cannot be read: ")
