"""The one thread that writes: what waits together is one transaction, nobody is told before it is on disk."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from rankings_at_hand import EVERYTHING_ONCE, Clock, item, store

from posttrain.data import feedback_db
from posttrain.errors import DataError
from posttrain.feedback import actions
from posttrain.feedback.asked import Asked
from posttrain.feedback.desk import Desk
from posttrain.feedback.ledger import Ledger
from posttrain.pages.refused import Refused


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return store(tmp_path / "feedback.db", *(item(f"i{n:03}") for n in range(40)))


@pytest.fixture
def desk(path: Path) -> Iterator[Desk]:
    desk = Desk(path, EVERYTHING_ONCE, clock=Clock())
    yield desk
    desk.close()


def ranks_next(who: str) -> object:
    def work(ledger: Ledger) -> str:
        shown = actions.next_item(ledger, who)["item"]
        assert isinstance(shown, dict)
        actions.say(ledger, who, Asked(item=str(shown["id"]), kind="rank", key=f"k{who}", tiers=(("a",), ("b",))))
        return str(shown["id"])

    return work


def held(desk: Desk, started: threading.Event, go_on: threading.Event) -> None:
    """Keeps the thread of the desk busy until it may go on."""

    def work(ledger: Ledger) -> None:
        started.set()
        go_on.wait()

    desk._put(work)
    started.wait()


def test_what_waits_together_is_one_commit(desk: Desk) -> None:
    commits: list[str] = []
    desk.do(lambda ledger: ledger.connection.set_trace_callback(commits.append))
    started, go_on = threading.Event(), threading.Event()
    held(desk, started, go_on)
    commits.clear()
    outcomes = [desk._put(ranks_next(f"p{n:02}")) for n in range(30)]
    go_on.set()
    items = [outcome.result() for outcome in outcomes]
    assert len(set(items)) == 30
    assert sum(statement == "COMMIT" for statement in commits) == 2  # what kept it busy, and all of them


def test_nobody_is_told_before_it_is_on_disk(desk: Desk, path: Path) -> None:
    async def several() -> list[str]:
        return await asyncio.gather(*(desk.ask(ranks_next(f"p{n}")) for n in range(8)))

    items = asyncio.run(several())
    with closing(sqlite3.connect(path)) as other:
        kept = [row[0] for row in other.execute("SELECT item FROM events WHERE kind = 'rank'")]
    assert sorted(kept) == sorted(items)


def test_one_that_fails_leaves_the_others_and_nothing_of_its_own(desk: Desk) -> None:
    def fails(ledger: Ledger) -> None:
        ranks_next("bad")(ledger)
        raise Refused(400, "no")

    started, go_on = threading.Event(), threading.Event()
    held(desk, started, go_on)
    first, bad, last = (desk._put(work) for work in (ranks_next("ann"), fails, ranks_next("ben")))
    go_on.set()
    with pytest.raises(Refused, match="no"):
        bad.result()
    assert first.result() != last.result()
    who = desk.do(lambda ledger: sorted(ledger.standing.annotators()))
    assert who == ["ann", "ben"]
    events = "SELECT count(*) FROM events"
    assert desk.do(lambda ledger: ledger.connection.execute(events).fetchone()) == (2,)
    assert desk.do(lambda ledger: [each.annotator for each in ledger.held]) == []


def test_an_error_of_the_store_tells_all_to_come_again_and_keeps_nothing(desk: Desk, path: Path) -> None:
    def broken(ledger: Ledger) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    started, go_on = threading.Event(), threading.Event()
    held(desk, started, go_on)
    outcomes = [desk._put(work) for work in (ranks_next("ann"), broken, ranks_next("ben"))]
    go_on.set()
    for outcome in outcomes:
        with pytest.raises(Refused, match="cannot be written to now: database or disk is full") as refused:
            outcome.result()
        assert refused.value.status == 503
    assert desk.do(lambda ledger: ledger.standing.annotators()) == []
    assert desk.do(ranks_next("ann"))
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM events").fetchone() == (1,)


def test_a_store_that_another_holds_for_too_long_is_told_and_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback_db, "PATIENCE", 20)
    desk = Desk(path, EVERYTHING_ONCE)
    with closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Refused, match="database is locked"):
            desk.do(ranks_next("ann"))
        other.execute("ROLLBACK")
    assert desk.do(ranks_next("ann"))
    desk.close()


def test_who_went_away_before_their_turn_is_left_out(desk: Desk) -> None:
    started, go_on = threading.Event(), threading.Event()
    held(desk, started, go_on)
    gone, there = desk._put(ranks_next("ann")), desk._put(ranks_next("ben"))
    assert gone.cancel()
    go_on.set()
    assert there.result()
    assert desk.do(lambda ledger: ledger.standing.annotators()) == ["ben"]


def test_closing_finishes_what_waits_and_takes_nothing_more(path: Path) -> None:
    desk = Desk(path, EVERYTHING_ONCE)
    outcomes = [desk._put(ranks_next(f"p{n:03}")) for n in range(40)]
    desk.close()
    assert len({outcome.result() for outcome in outcomes}) == 40
    with pytest.raises(Refused, match="the server is ending"):
        desk.do(ranks_next("late"))


def test_a_store_that_cannot_be_read_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        Desk(tmp_path / "gone.db", EVERYTHING_ONCE)
    path = store(tmp_path / "feedback.db", item("a"))
    with closing(sqlite3.connect(path)) as connection:
        say = "INSERT INTO events (item, annotator, kind, payload) VALUES ('a', 'ann', 'rank', '{\"ranks\": 5}')"
        connection.execute(say)
        connection.commit()
    with pytest.raises(DataError, match=r"feedback\.db  the store cannot be read: "):
        Desk(path, EVERYTHING_ONCE)


def test_threads_on_desks_of_their_own_never_rank_the_same_item(path: Path) -> None:
    """Two servers on one store, twenty people at each, all at once."""
    taken: list[str] = []

    def all_day(desk: Desk, who: str) -> None:
        for turn in range(2):
            shown = desk.do(lambda ledger: actions.next_item(ledger, who))["item"]
            if shown is None:
                return
            time.sleep(0.001)
            asked = Asked(item=shown["id"], kind="rank", key=f"{who}{turn}", tiers=(("a",), ("b",)))
            desk.do(lambda ledger, asked=asked: actions.say(ledger, who, asked))
            taken.append(shown["id"])

    desks = [Desk(path, EVERYTHING_ONCE) for _ in range(2)]
    threads = [threading.Thread(target=all_day, args=(desks[n % 2], f"p{n}")) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for desk in desks:
        desk.close()
    assert sorted(taken) == [f"i{n:03}" for n in range(40)]
