"""`posttrain rank` as a process: what it says, what it keeps, what it refuses before anything is written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from http_at_hand import Caller
from rankings_at_hand import store

from posttrain.cli import main
from posttrain.data import feedback_db
from posttrain.feedback.kept import kept_settings

pytestmark = pytest.mark.medium

ROWS = [{"prompt": f"Say {n}.", "responses": [f"{n}", f"{n} {n}", "no"]} for n in range(12)]
ENVIRONMENT = os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with a pool."""
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return tmp_path


def refused(folder: Path, *words: str) -> str:
    """What an attempt says that ends with exit code 2."""
    command = [sys.executable, "-m", "posttrain", "rank", *words]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2, done.stdout + done.stderr
    return done.stderr


class Running:
    """A server, what it said until it listened, and where it is."""

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        command = [sys.executable, "-m", "posttrain", "rank", *words, "--port", "0"]
        self.process = subprocess.Popen(
            command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        self.lines: list[str] = []
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("Ctrl-C"):
                break
        found = re.search(r"^rank at (http://\S+)$", "\n".join(self.lines), re.MULTILINE)
        assert found, self.lines
        self.url = found.group(1)
        self.caller = Caller(self.url)

    def end(self, number: int) -> tuple[int, list[str]]:
        """The exit code and the last lines after a signal."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=30)
        return self.process.returncode, out.splitlines()


@contextmanager
def running(folder: Path, *words: str) -> Generator[Running]:
    server = Running(folder, words)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.communicate()


def items_in(folder: Path) -> list[tuple[str, int]]:
    with closing(feedback_db.reader(folder / "feedback.db")) as connection:
        return connection.execute("SELECT id, audit FROM items ORDER BY id").fetchall()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_what_it_read_where_it_is_and_in_the_end_what_was_ranked(folder: Path, number: int) -> None:
    with running(folder, "pool.jsonl", "--audit", "0") as server:
        assert server.lines[:2] == [
            "feedback.db: a new store",
            "pool.jsonl: 12 rows, responses → pool; 12 items new",
        ]
        ann = server.caller
        ann.enter("ann")
        for _ in range(3):
            shown = ann.get("/api/next").json["item"]
            assert ann.say(shown["id"], "rank", tiers=[["a"], ["b", "c"]]).status == 201
        assert server.end(number) == (0, ["3 of 12 items are ranked in feedback.db: ann 3"])


def test_a_second_start_adds_nothing_twice_and_keeps_to_the_settings_of_the_first(folder: Path) -> None:
    with running(folder, "pool.jsonl", "--overlap", "1", "--seed", "5", "--audit", "0.5") as server:
        server.end(signal.SIGINT)
    before = items_in(folder)
    assert 0 < sum(audit for _, audit in before) < 12
    with running(folder, "pool.jsonl", "--overlap", "0") as server:
        said = "\n".join(server.lines)
        server.end(signal.SIGINT)
    assert "pool.jsonl: 12 rows, responses → pool; 0 items new; 12 in the store already" in said
    assert "feedback.db: overlap was 1.0, and is 0.0 from now on" in said
    assert "feedback.db: as it was set before: seed 5, audit 0.5" in said
    assert items_in(folder) == before
    with running(folder) as server:  # without a pool: what is in the store
        assert "feedback.db: as it was set before: seed 5, overlap 0.0, audit 0.5" in server.lines


def test_what_is_left_out_of_a_pool_is_said(folder: Path) -> None:
    rows = [*ROWS, ROWS[0], {"prompt": "x", "responses": ["a", "a"]}, {"prompt": "y", "responses": ["a"]}]
    (folder / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with running(folder, "more.jsonl", "--max-bad", "20%") as server:
        [line] = [line for line in server.lines if line.startswith("more.jsonl: ")]
        assert line == (
            "more.jsonl: 15 rows, responses → pool; 12 items new; 1 bad (left out); 1 twice (left out); "
            "1 with one answer left (left out); 1 answer of the same text as another left out"
        )
        assert "more.jsonl:15  responses has 1, expected at least 2" in server.lines


def test_for_other_machines_a_token_is_made_and_asked_for(folder: Path) -> None:
    with running(folder, "pool.jsonl", "--host", "0.0.0.0") as server:
        address, token = server.url.split("/?token=")
        assert len(token) >= 32
        caller = Caller(f"http://127.0.0.1:{address.rsplit(':', 1)[1]}")
        assert caller.get("/api/next").status == 403
        assert caller.get(f"/?token={token}").status == 200
        assert caller.enter("ann").status == 303
        assert caller.get("/api/next").status == 200
        _, lines = server.end(signal.SIGINT)
    assert token not in "\n".join(lines)
    assert token.encode() not in (folder / "feedback.db").read_bytes()


def test_guidelines_are_read_and_kept(folder: Path) -> None:
    (folder / "guide.txt").write_text("Prefer the shorter one. 👍", encoding="utf-8")
    with running(folder, "pool.jsonl", "--guidelines", "guide.txt") as server:
        server.end(signal.SIGINT)
    with running(folder) as server:
        server.caller.enter("ann")
        assert server.caller.get("/api/guidelines").json == {"text": "Prefer the shorter one. 👍"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "error: feedback.db  there is no such store yet\n  fix: give a pool: posttrain rank pool.jsonl\n"),
        (("gone.jsonl",), "error: gone.jsonl  there is no such file or folder\n"),
        (
            ("pool.jsonl", "--host", "0.0.0.0", "--token", "guessed"),
            "error: --token  the token has 7 characters, and 0.0.0.0 is reached from other machines\n"
            "  fix: give at least 16, or leave token out: one is made and printed\n",
        ),
        (
            ("pool.jsonl", "--host", "0.0.0.0", "--token", "null"),
            "error: --token  0.0.0.0 is reached from other machines, and nothing would keep strangers out\n"
            "  fix: leave token out: one is made and printed\n",
        ),
        (("pool.jsonl", "--guidelines", "gone.txt"), "error: --guidelines  gone.txt cannot be read as text: No such"),
        (("pool.jsonl", "--choose", "uncertain"), "error: --reward  choose uncertain asks a reward model"),
        (("{path: pool.jsonl, weight: 2}",), "error: "),
        (("bad.jsonl",), "error: bad.jsonl:1  responses has 1, expected at least 2"),
        (("expotr",), "error: expotr  there is no such file\n  fix: did you mean posttrain rank export?\n"),
        (
            ("mine.db",),
            "error: mine.db  this is a database; a pool is a file of answers\n"
            "  fix: to rank what is in a store: posttrain rank --db mine.db\n",
        ),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_written(
    folder: Path,
    words: tuple[str, ...],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    (folder / "bad.jsonl").write_text('{"prompt": "p", "responses": ["a"]}\n')
    store(folder / "mine.db")
    assert main(["rank", *words]) == 2
    assert capsys.readouterr().err.startswith(says)
    assert not (folder / "feedback.db").exists()


def test_a_port_that_is_taken_is_told_and_changes_no_setting(folder: Path) -> None:
    with running(folder, "pool.jsonl", "--overlap", "0.5") as server:
        port = server.url.rsplit(":", 1)[1].rstrip("/")
        said = refused(folder, "--port", port, "--overlap", "1")
    with closing(feedback_db.reader(folder / "feedback.db")) as connection:
        assert kept_settings(connection)["overlap"] == 0.5
    assert said == (
        f"error: 127.0.0.1:{port}  cannot be served: Address already in use\n"
        "  fix: give another --port, or --port 0 for any that is free\n"
    )
