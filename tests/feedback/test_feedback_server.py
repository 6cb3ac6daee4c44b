"""The server over real HTTP: what a page is told, and what it may send."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest
from http_at_hand import Caller, Serve, served
from rankings_at_hand import Clock, item, store

from posttrain.data import feedback_db
from posttrain.feedback import people
from posttrain.feedback.assigning import Rules


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield partial(served, stack)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return store(tmp_path / "feedback.db", *(item(name, "one", "two", "three") for name in "abc"))


def entered(browser: Caller, name: str) -> Caller:
    assert browser.enter(name).status == 303
    return browser


def test_who_has_not_entered_gets_the_form_and_the_api_says_so(serve: Serve, path: Path) -> None:
    browser = serve(path)()
    for page in ("/", "/statistics", "/adjudicate"):
        answer = browser.open(page)
        assert answer.status == 200
        assert 'name="name"' in answer.text
    assert browser.csrf
    for page in ("/api/next", "/api/item/a", "/api/statistics", "/api/disputed", "/api/guidelines"):
        answer = browser.get(page)
        assert (answer.status, answer.json) == (401, {"error": "enter your name first"})


def test_a_person_enters_ranks_and_sees_how_far_it_is(serve: Serve, path: Path) -> None:
    ann = entered(serve(path)(), "  Ann   B. ")
    assert "Ann B." in ann.open().text
    shown = ann.get("/api/next").json
    assert set(shown) == {"item", "lock", "progress"}
    assert shown["lock"] == {"seconds": 600.0}
    assert shown["progress"] == {"done": 0, "of": 3, "mine": 0, "agreement": None, "last": None}
    name = shown["item"]["id"]
    sent = {"tiers": [["b", "c"], ["a"]], "seconds": 4.5}
    answer = ann.say(name, "rank", **sent)
    assert answer.status == 201
    assert answer.json["progress"] == {"done": 1, "of": 3, "mine": 1, "agreement": None, "last": answer.json["event"]}
    again = ann.get(f"/api/item/{name}").json["item"]
    assert {**shown["item"], "tiers": [["b", "c"], ["a"]]} == again
    with closing(feedback_db.reader(path)) as connection:
        kept = connection.execute("SELECT annotator, kind, seconds FROM events").fetchall()
    assert kept == [("Ann B.", "rank", 4.5)]


def test_what_is_sent_twice_is_kept_once(serve: Serve, path: Path) -> None:
    ann = entered(serve(path)(), "ann")
    name = ann.get("/api/next").json["item"]["id"]
    body = {"item": name, "kind": "rank", "tiers": [["a"], ["b"]], "key": "k1"}
    first, second = ann.post("/api/events", body), ann.post("/api/events", body)
    assert (first.status, second.status) == (201, 200)
    assert first.json["event"] == second.json["event"]


def test_undo_and_renew(serve: Serve, path: Path) -> None:
    ann = entered(serve(path)(), "ann")
    name = ann.get("/api/next").json["item"]["id"]
    event = ann.say(name, "rank", tiers=[["a"], ["b"]]).json["event"]
    for body in ({"key": "u1"}, {"key": "u1", "undoes": True}, {"key": "u1", "undoes": [event]}):
        assert ann.post("/api/undo", body).status == 400
    told = ann.post("/api/undo", {"key": "u1", "undoes": event}).json
    assert (told["undone"], told["item"], told["kind"]) == (event, name, "rank")
    assert ann.get(f"/api/item/{name}").json["item"]["tiers"] == [["a"], ["b"]]
    assert ann.get("/api/next").json["item"]["id"] == name
    assert ann.post("/api/renew", {"item": name}).json == {"lock": {"seconds": 600.0}}
    assert ann.post("/api/undo", {"key": "u2", "undoes": event}).status == 409
    assert ann.post("/api/undo", {"key": "u1", "undoes": event}).json["event"] == told["event"]


def test_two_people_at_once_never_have_the_same_item(serve: Serve, path: Path) -> None:
    browser = serve(path)
    ann, ben = entered(browser(), "ann"), entered(browser(), "ben")
    ranked: list[str] = []
    while True:
        both = [each.get("/api/next").json["item"] for each in (ann, ben)]
        names = [each["id"] for each in both if each is not None]
        if not names:
            break
        assert len(set(names)) == len(names)
        for who, shown in zip((ann, ben), both, strict=True):
            if shown is not None:
                assert who.say(shown["id"], "rank", tiers=[["a"], ["b", "c"]]).status == 201
                ranked.append(shown["id"])
    assert sorted(ranked) == ["a", "b", "c"]


def test_a_lock_expires_by_the_clock_of_the_server(serve: Serve, path: Path) -> None:
    clock = Clock()
    browser = serve(path, clock=clock, rules=Rules(overlap=0.0, repeat=0.0, hold=60.0))
    ann, ben = entered(browser(), "ann"), entered(browser(), "ben")
    mine = ann.get("/api/next").json["item"]["id"]
    assert ben.get("/api/next").json["item"]["id"] != mine
    ben.say(ben.get("/api/next").json["item"]["id"], "skip")
    clock.now += 61
    others = ben.get("/api/next").json["item"]["id"]
    assert others == mine
    ben.say(others, "rank", tiers=[["a"], ["b"]])
    answer = ann.say(mine, "rank", tiers=[["a"], ["b"]])
    assert answer.status == 409
    assert "someone else ranked it meanwhile" in answer.json["error"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "the body is no JSON"),
        (b"[]", 400, "the body is no JSON object"),
        (b'{"kind": "rank"}', 400, "item is missing, expected text"),
        (b'{"kind": "undo", "item": "a", "key": "k"}', 400, 'kind is "undo", expected one of rank, skip'),
        (b'{"kind": "skip", "item": "a"}', 400, "key is missing"),
        (b'{"kind": "rank", "item": "a", "key": "k", "tiers": [["a"]]}', 400, "rank at least two answers"),
        (b'{"kind": "rank", "item": "a", "key": "k", "tiers": [["a", "a"]]}', 400, "tiers name an answer twice"),
        (b'{"kind": "rank", "item": "a", "key": "k", "tiers": "ab"}', 400, 'tiers is "ab", expected lists'),
        (b'{"kind": "rank", "item": "a", "key": "k", "tiers": [["a", 1]]}', 400, "something other than keys"),
        (b'{"kind": "flag", "item": "a", "key": "k", "flags": ["odd"]}', 400, 'flags is ["odd"], expected some of'),
        (b'{"kind": "note", "item": "a", "key": "k", "text": "  "}', 400, "the note is empty"),
        (b'{"kind": "skip", "item": "a", "key": "k", "seconds": -1}', 400, "seconds is -1, expected a number from 0"),
        (b'{"kind": "skip", "item": "a", "key": "k", "seconds": 1e999}', 400, "the body is no JSON"),
        (b'{"kind": "note", "item": "a", "key": "k", "text": "\\ud800"}', 400, "the body is no JSON"),
        (b'{"kind": "skip", "item": "nowhere", "key": "k"}', 404, "there is no such item"),
    ],
)
def test_a_body_that_says_nothing_is_refused(serve: Serve, path: Path, body: bytes, status: int, said: str) -> None:
    ann = entered(serve(path)(), "ann")
    ann.get("/api/next")
    answer = ann.ask("POST", "/api/events", body, {"X-CSRF-Token": ann.csrf})
    assert answer.status == status
    assert said in answer.json["error"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "give a name"),
        ("   ", "give a name"),
        ("a" * 61, "the name has 61 characters, give at most 60"),
        ("ann\u202e", "the name holds characters that cannot be seen"),
    ],
)
def test_a_name_that_nobody_could_read_is_refused_in_the_form(serve: Serve, path: Path, name: str, said: str) -> None:
    browser = serve(path)()
    answer = browser.enter(name)
    assert answer.status == 400
    assert said in answer.text
    assert browser.get("/api/next").status == 401


def test_a_personal_link_lets_in_whom_it_is_of_and_nobody_else_takes_the_name(serve: Serve, path: Path) -> None:
    with closing(feedback_db.connect(path)) as connection, connection:
        link = people.new_link(connection, "ann")
    assert link.encode() not in path.read_bytes()
    browser = serve(path)
    ann = browser()
    answer = ann.get(f"/a/{link}")
    assert answer.status == 200
    assert 'http-equiv="refresh"' in answer.text  # a redirect from elsewhere would come without the strict cookie
    assert ann.get("/api/next").status == 200
    other = browser()
    assert "ann has a personal link" in other.enter("ann").text
    for alike in ("ANN", "Ann", "\uff41nn"):
        assert "ann has a personal link" in other.enter(alike).text
    assert other.get("/api/next").status == 401
    assert browser().get("/a/wrong").status == 404
    with closing(feedback_db.connect(path)) as connection, connection:
        people.new_link(connection, "ann")
    assert ann.get("/api/next").status == 401  # a new link ends the old one and its sessions


def test_who_leaves_is_gone(serve: Serve, path: Path) -> None:
    ann = entered(serve(path)(), "ann")
    assert ann.post("/leave", {}).status == 303
    assert ann.get("/api/next").status == 401


def test_sessions_outlive_the_server_and_so_do_the_tokens_of_open_pages(serve: Serve, path: Path) -> None:
    ann = entered(serve(path)(), "ann")
    name = ann.get("/api/next").json["item"]["id"]
    ann.host = serve(path)().host  # another server on the same store
    assert ann.get("/api/next").json["item"]["id"] == name
    assert ann.say(name, "skip").status == 201


def test_statistics_disputes_and_guidelines_are_told(serve: Serve, path: Path) -> None:
    browser = serve(path, rules=Rules(overlap=1.0, repeat=0.0), guidelines="Be <fair>.")
    for who, tiers in (("ann", [["a"], ["b"], ["c"]]), ("ben", [["c"], ["b"], ["a"]])):
        person = entered(browser(), who)
        while (shown := person.get("/api/next").json["item"]) is not None:
            order = sorted(shown["answers"], key=lambda answer: answer["text"])
            keys = [answer["key"] for answer in order]
            assert person.say(shown["id"], "rank", tiers=[[keys["abc".index(key)]] for [key] in tiers]).status == 201
    cy = entered(browser(), "cy")
    found = cy.get("/api/statistics").json
    assert found["progress"]["rankings"] == 6
    assert found["agreement"]["value"] == 0.0
    assert found["alpha"]["value"] < -0.9
    assert [each["id"] for each in found["disputed"]] == ["a", "b", "c"]
    first = cy.get("/api/disputed").json["item"]
    assert first["rankings"][0] == {"annotator": "ann", "tiers": [["a"], ["c"], ["b"]]}  # one, three, two in the store
    answer = cy.say(first["id"], "rank", tiers=[["a", "b", "c"]], adjudicates=True)
    assert answer.status == 201
    told = cy.get(f"/api/disputed?item={first['id']}").json
    assert told["item"]["adjudicated"] == {"annotator": "cy", "tiers": [["a", "b", "c"]]}
    assert cy.get("/api/guidelines").json == {"text": "Be <fair>."}


def test_paths_and_methods_that_there_are_not_are_told_as_json(serve: Serve, path: Path) -> None:
    browser = serve(path)()
    assert (browser.get("/nowhere").status, browser.get("/nowhere").json) == (404, {"error": "there is no such page"})
    assert browser.get("/static/../server.py").status == 404
    assert browser.get("/static/%2e%2e/server.py").status == 404
    assert browser.get("/enter").status == 405
