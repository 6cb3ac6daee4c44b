"""Versions of the ranking store: what the first one wrote is read as it was, and becomes one of today without a loss.

`feedback_version_1.db` was written by the code of the first version.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from posttrain.data import feedback_db
from posttrain.data.feedback_db import Event
from posttrain.data.feedback_schema import VERSION, migrate
from posttrain.errors import DataError

FIRST = Path(__file__).parent / "feedback_version_1.db"
# What the code of the first version said of it.
IDENTITY = "1a39c962fb690324d29a5ed35708f450b2da3349c2ec56390139d3e491da0af4"
RANKED = [(1, "a/ann", [1, 2, None]), (4, "a/ben", [1, 1, 2])]


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A store of the first version."""
    return Path(shutil.copy(FIRST, tmp_path / "feedback.db"))


def ranked(path: Path) -> list[tuple[int, object, object]]:
    rows = [(number, row) for number, row in feedback_db.rankings(path) if isinstance(row, dict)]
    return [(number, row["id"], row["ranks"]) for number, row in rows]


def tables(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Everything that a store is made of, whatever the lines of its statements."""
    found = connection.execute("SELECT type, name, ifnull(sql, '') FROM sqlite_master ORDER BY type, name").fetchall()
    return [(kind, name, " ".join(sql.split())) for kind, name, sql in found]


def test_a_store_of_the_first_version_is_read_as_it_stands(first: Path) -> None:
    before = first.read_bytes()
    assert feedback_db.version_of(first) == 1
    assert ranked(first) == RANKED
    assert feedback_db.fingerprint(first) == IDENTITY
    assert first.read_bytes() == before


def test_whoever_writes_makes_it_one_of_today_and_it_says_the_same(first: Path, tmp_path: Path) -> None:
    with closing(feedback_db.connect(first)) as connection:
        assert feedback_db.version_of(first) == VERSION == 2
        assert ranked(first) == RANKED
        assert feedback_db.fingerprint(first) == IDENTITY
        names = connection.execute("SELECT name, link FROM annotators ORDER BY name").fetchall()
        assert names == [("ann", None), ("ben", None)]
        event = Event(item="c", annotator="cy", kind="rank", payload={"ranks": [1, 2]}, key="k", seconds=2.5)
        assert feedback_db.append(connection, event) == feedback_db.append(connection, event) == 7
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        with closing(feedback_db.create(tmp_path / "new.db")) as fresh:
            assert tables(connection) == tables(fresh)


def test_a_step_that_fails_leaves_the_earlier_version(first: Path) -> None:
    with closing(sqlite3.connect(first)) as connection:
        connection.execute("CREATE TABLE settings (taken TEXT)")  # in the way of the last statement
        connection.commit()
    with pytest.raises(DataError, match="the store cannot be written to: table settings already exists"):
        feedback_db.connect(first)
    with closing(sqlite3.connect(first)) as connection:
        names = [name for kind, name, _ in tables(connection) if kind == "table" and not name.startswith("sqlite")]
        assert names == ["events", "items", "settings"]
    assert feedback_db.version_of(first) == 1
    assert ranked(first) == RANKED


def test_several_that_migrate_at_once_do_it_once(first: Path) -> None:
    code = f"from pathlib import Path; from posttrain.data import feedback_db as f; f.connect(Path({str(first)!r}))"
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0, 0]
    assert feedback_db.version_of(first) == 2
    assert ranked(first) == RANKED


def test_a_migration_says_which_version_there_was(first: Path) -> None:
    with closing(sqlite3.connect(first)) as connection:
        assert migrate(connection) == 1
        assert migrate(connection) == 2


def test_a_store_that_may_not_be_written_to_is_an_error_in_our_words(first: Path) -> None:
    with closing(sqlite3.connect(first)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(feedback_db, "PATIENCE", 1)
            with pytest.raises(DataError, match="database is locked\n  fix: wait for whoever writes"):
                feedback_db.connect(first)
