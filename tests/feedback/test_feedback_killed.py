"""A server killed in the middle of its work loses nothing that it acknowledged, and pages go on with the next one."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
from http_at_hand import Caller
from rankings_at_hand import item, store

from posttrain.data import feedback_db
from posttrain.feedback.assigning import Rules

SERVE = """
import sys
from pathlib import Path
from posttrain.feedback.assigning import Rules
from posttrain.feedback.server import Options, application
from posttrain.pages.serving import Serving
app = application(Path(sys.argv[1]), Options(rules=Rules(overlap=0.5, repeat=0.0)))
with Serving(app, host="127.0.0.1", port=int(sys.argv[2])) as serving:
    print(serving.address, flush=True)
    serving.wait()
"""
PEOPLE, LIVES, SECONDS = 6, 3, 0.6
RULES = Rules(overlap=0.5, repeat=0.0)


class Person(threading.Thread):
    """Ranks as fast as it can; what was not acknowledged is sent again with the same key."""

    def __init__(self, name: str, address: str) -> None:
        super().__init__(name=name)
        self.browser = Caller(address)
        self.browser.enter(name)
        self.acknowledged: dict[str, int] = {}
        self.resent = 0
        self.turn = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            shown = self.tried(lambda: self.browser.get("/api/next").json)
            if shown is None or shown["item"] is None:
                return
            self.turn += 1
            key = f"{self.name}-{self.turn}"
            body = {"item": shown["item"]["id"], "kind": "rank", "tiers": [["a"], ["b"]], "key": key}
            answer = self.tried(lambda body=body: self.browser.post("/api/events", body))
            if answer is not None and answer.status in (200, 201):
                self.acknowledged[key] = answer.json["event"]
            elif answer is not None:
                assert answer.status == 409, answer.text

    def tried(self, ask: Callable[[], Any]) -> Any:
        """What an asking gives, tried until there is a server; None when the day is over."""
        while not self.over.is_set():
            try:
                return ask()
            except (OSError, ValueError, HTTPException):  # nobody there, or an answer that was cut
                self.resent += 1
                time.sleep(0.02)
        return None


def serving(path: Path, port: int) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(path), str(port)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.medium
def test_a_server_that_is_killed_under_load_loses_no_acknowledged_event(tmp_path: Path) -> None:
    path = store(tmp_path / "feedback.db", *(item(f"i{n:05}") for n in range(5000)))
    process, address = serving(path, 0)
    port = int(address.rsplit(":", 1)[1])
    people = [Person(f"p{n}", address) for n in range(PEOPLE)]
    for person in people:
        person.start()
    for _ in range(LIVES):
        time.sleep(SECONDS)
        kill(process)
        process, _ = serving(path, port)
    time.sleep(SECONDS)
    for person in people:
        person.over.set()
    for person in people:
        person.join()
    kill(process)
    acknowledged = {key: event for person in people for key, event in person.acknowledged.items()}
    assert len(acknowledged) > 50
    assert sum(person.resent for person in people) > 0
    with closing(feedback_db.connect(path)) as connection:
        kept = dict(connection.execute("SELECT key, id FROM events WHERE kind = 'rank'").fetchall())
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rankers = connection.execute(
            "SELECT item, count(DISTINCT annotator), count(*) FROM events WHERE kind = 'rank' GROUP BY item"
        ).fetchall()
    assert {key: kept.get(key) for key in acknowledged} == acknowledged
    # Locks are in the store too: nobody ranked what was another's, nor anything twice.
    assert all(people == events <= RULES.needs(name) for name, people, events in rankers)


def test_another_process_that_opens_and_closes_the_store_takes_no_log_from_under_its_server(tmp_path: Path) -> None:
    path = store(tmp_path / "feedback.db", *(item(f"i{n}") for n in range(4)))
    process, address = serving(path, 0)
    browser = Caller(address)
    browser.enter("ann")
    for key in ("first", "second"):
        feedback_db.connect(path).close()  # as `rank link` and `rank import` do
        shown = browser.get("/api/next").json["item"]["id"]
        body = {"item": shown, "kind": "rank", "tiers": [["a"], ["b"]], "key": key}
        assert browser.post("/api/events", body).status == 201
    kill(process)
    with closing(feedback_db.connect(path)) as connection:
        assert connection.execute("SELECT key FROM events ORDER BY id").fetchall() == [("first",), ("second",)]
