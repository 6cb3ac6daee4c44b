"""Hashes of files, folders and models: the same for the same content, and cheap."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest

from posttrain.run import content as run_content
from posttrain.run import content_hash


def test_hashes_follow_content_and_for_folders_names_too(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("abc")
    # the published SHA-256 example for "abc"
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert content_hash(tmp_path / "a" / "x") == known
    before = content_hash(tmp_path / "a")
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    assert content_hash(tmp_path / "a") != before


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    digest = hashlib.file_digest

    def counted(file: IO[bytes], name: str) -> object:
        read.append(file.name)
        return digest(file, name)  # type: ignore[arg-type]

    monkeypatch.setattr(run_content, "file_digest", counted)
    data = tmp_path / "data.jsonl"
    data.write_text("one")
    first = content_hash(data)
    assert content_hash(data) == first
    assert len(read) == 1
    data.write_text("three")
    assert content_hash(data) != first
    assert len(read) == 2


def test_a_database_is_its_rows_wherever_they_stand(tmp_path: Path) -> None:
    """Rows go into a log first, and into the file when the last writer leaves: only the former changes the content."""
    file = tmp_path / "feedback.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE events (kind TEXT)")
        connection.commit()
        empty = content_hash(file)
        connection.execute("INSERT INTO events VALUES ('rank')")
        connection.commit()
        ranked = content_hash(file)
        assert ranked != empty
    assert not file.with_name("feedback.db-wal").exists()
    assert content_hash(file) == ranked


def test_a_damaged_database_is_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "feedback.db"
    file.write_bytes(b"SQLite format 3\x00 and nothing else")
    assert content_hash(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_hash_of_a_model_sees_a_change_in_a_large_file_without_reading_all_of_it(tmp_path: Path) -> None:
    size = 40 * 2**20
    weights = tmp_path / "model.safetensors"
    with weights.open("wb") as file:
        file.truncate(size)
    (tmp_path / "config.json").write_text("{}")
    hashes = {run_content.model_hash(tmp_path)}
    for change in (b"head", b"tail"):  # every weight after, or before, the middle is another
        with weights.open("r+b") as file:
            file.seek(0 if change == b"head" else size // 2)
            file.write(b"x" * (size // 2))
        hashes.add(run_content.model_hash(tmp_path))
    (tmp_path / "config.json").write_text("{ }")
    hashes.add(run_content.model_hash(tmp_path))
    (tmp_path / ".cache").mkdir()
    (tmp_path / "checkpoint-1").mkdir()
    hashes.add(run_content.model_hash(tmp_path))
    assert len(hashes) == 4
