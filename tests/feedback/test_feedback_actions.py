"""What an annotator does, on a real store: items are handed out, held, ranked, taken back, and nobody collides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rankings_at_hand import Clock, People, item, store

from posttrain.data import feedback_db
from posttrain.data.feedback_db import Event
from posttrain.data.readers import read
from posttrain.feedback import actions
from posttrain.feedback.assigning import Rules
from posttrain.pages.refused import Refused
from posttrain.records import RankedRecord


@pytest.fixture
def people(tmp_path: Path) -> Iterator[People]:
    people = People(store(tmp_path / "feedback.db", *(item(name, "one", "two", "three", "four") for name in "abcde")))
    yield people
    people.close()


def path_of(people: People) -> Path:
    return Path(people.connection.execute("PRAGMA database_list").fetchone()[2])


def test_a_ranking_by_keys_of_the_page_is_one_of_the_answers_in_the_store(people: People) -> None:
    shown = people.shown("ann")["item"]
    key_of = {answer["text"]: answer["key"] for answer in shown["answers"]}
    tiers = ((key_of["three"],), (key_of["one"], key_of["four"]))
    people.say("ann", shown["id"], "rank", tiers=tiers)
    [record] = read(path_of(people), "ranked").records
    assert isinstance(record, RankedRecord)
    assert (record.responses, record.ranks) == (("one", "two", "three", "four"), (2, None, 1, 2))
    assert record.annotator == "ann"


def test_an_item_is_shown_blind_in_an_order_of_the_persons_own(people: People) -> None:
    orders: set[tuple[str, ...]] = set()
    for who in ("ann", "ben", "cy", "dan", "eve"):
        shown = people.shown(who)["item"]
        assert set(shown) == {"id", "prompt", "answers"}
        assert [answer["key"] for answer in shown["answers"]] == ["a", "b", "c", "d"]
        assert {key for answer in shown["answers"] for key in answer} == {"key", "text", "stopped"}
        assert people.shown(who)["item"] == shown
        orders.add(tuple(answer["text"] for answer in shown["answers"]))
    assert len(orders) > 1


def test_people_at_once_get_items_of_their_own_until_others_hold_the_rest(people: People) -> None:
    held = [people.next(who) for who in ("ann", "ben", "cy", "dan", "eve")]
    assert sorted(held, key=str) == ["a", "b", "c", "d", "e"]
    told = people.shown("fay")
    assert (told["item"], told["why"]) == (None, "others hold the rest")
    for who, name in zip(("ann", "ben", "cy", "dan", "eve"), held, strict=True):
        people.rank(who, str(name), [1, 2, 3, 4])
    told = people.shown("fay")
    assert (told["item"], told["why"]) == (None, "all done")
    assert told["progress"] == {"done": 5, "of": 5, "mine": 0, "agreement": None, "last": None}


def test_a_lock_that_is_over_lets_the_next_person_in_and_the_late_ranking_is_told(people: People) -> None:
    first = people.next("ann")
    assert first is not None
    tiers = people.tiers("ann", first, [1, 2, None, None])
    people.clock.now += people.ledger.rules.hold - 1
    assert people.next("ben") != first
    people.clock.now += 2
    assert people.next("cy") == first
    people.rank("cy", first, [1, 2, 3, 4])
    with pytest.raises(Refused, match="someone else ranked it meanwhile") as refused:
        people.say("ann", first, "rank", tiers=tiers)
    assert refused.value.status == 409


def test_a_late_ranking_without_a_collision_is_kept(people: People) -> None:
    first = people.next("ann")
    assert first is not None
    tiers = people.tiers("ann", first, [1, 2, None, None])
    people.clock.now += 10_000
    assert people.next("ben") == first
    people.say("ann", first, "rank", tiers=tiers)
    people.rank("ben", first, [2, 1, None, None])  # who holds it may rank it all the same: nothing is lost
    assert {said.annotator for said in people.ledger.standing.rankings(first)} == {"ann", "ben"}


def test_a_lock_is_renewed_while_nobody_else_has_the_item(people: People) -> None:
    first = people.next("ann")
    assert first is not None
    for _ in range(3):
        people.clock.now += 500
        with people.ledger.transaction():
            assert actions.renew(people.ledger, "ann", first) == {"lock": {"seconds": 600.0}}
    people.clock.now += 601
    assert people.next("ben") == first
    with people.ledger.transaction(), pytest.raises(Refused, match="someone else has this item"):
        actions.renew(people.ledger, "ann", first)


def test_the_same_key_is_the_same_event(people: People) -> None:
    first = people.next("ann")
    assert first is not None
    tiers = people.tiers("ann", first, [1, 2, 3, 4])
    told, new = people.say("ann", first, "rank", key="k", tiers=tiers)
    again, still_new = people.say("ann", first, "rank", key="k", tiers=tiers)
    assert (new, still_new) == (True, False)
    assert told["event"] == again["event"]
    other, by_another = people.say("ben", str(people.next("ben")), "skip", key="k")
    assert by_another
    assert other["event"] != told["event"]


def test_undo_takes_back_the_newest_event_and_brings_the_item_with_its_tiers_back(people: People) -> None:
    first = people.next("ann")
    assert first is not None
    event = people.rank("ann", first, [2, 1, 3, None])
    second = people.next("ann")
    assert second != first
    undone = people.take_back("ann", "u")
    assert (undone["undone"], undone["item"], undone["kind"]) == (event, first, "rank")
    assert undone["progress"]["done"] == 0
    assert people.take_back("ann", "u")["event"] == undone["event"]
    with people.ledger.transaction():
        told = actions.own_item(people.ledger, "ann", first)["item"]
    assert isinstance(told, dict)
    texts = {answer["key"]: answer["text"] for answer in told["answers"]}
    assert [[texts[key] for key in tier] for tier in told["tiers"]] == [["two"], ["one"], ["three"]]
    assert people.next("ann") == first
    with pytest.raises(Refused, match="nothing to undo"):
        people.take_back("ann")
    assert people.next("ben") == second


def test_an_undo_names_what_it_undoes_and_takes_back_nothing_newer(people: People) -> None:
    first = people.rank("ann", str(people.next("ann")), [1, 2, 3, 4], key="phone")
    second = people.rank("ann", str(people.next("ann")), [4, 3, 2, 1], key="laptop")
    for stale in (first, "phone", "of another store", 99):
        with pytest.raises(Refused, match="not the last thing that you did") as refused:
            people.take_back("ann", undoes=stale)
        assert refused.value.status == 409
    assert people.take_back("ann", undoes="laptop")["undone"] == second
    assert people.take_back("ann", undoes=first)["undone"] == first


def test_the_key_of_a_ranking_is_none_of_an_undo_and_the_other_way_round(people: People) -> None:
    event = people.rank("ann", str(people.next("ann")), [1, 2, 3, 4], key="k")
    with pytest.raises(Refused, match="which is no undo") as refused:
        people.take_back("ann", "k", undoes=event)
    assert refused.value.status == 409
    people.take_back("ann", "u", undoes=event)
    with pytest.raises(Refused, match="that of an undo"):
        people.say("ann", str(people.next("ann")), "skip", key="u")


def test_an_undo_takes_back_only_what_the_page_made(people: People) -> None:
    first = str(people.next("ann"))
    made = people.rank("ann", first, [1, 2, 3, 4])
    vote = Event(item="a", annotator="ann", kind="rank", payload={"ranks": [2, 1, None, None]})
    feedback_db.append(people.connection, vote)
    assert people.take_back("ann")["undone"] == made
    with pytest.raises(Refused, match="nothing to undo"):
        people.take_back("ann")
    assert [record.ranks for record in read_all(path_of(people))] == [(2, 1, None, None)]


def test_what_is_skipped_goes_to_others_and_does_not_come_back(people: People) -> None:
    first = people.next("ann")
    assert first is not None
    people.say("ann", first, "skip")
    assert people.next("ann") != first
    assert people.next("ben") == first
    people.say("ben", first, "cant_judge")
    people.take_back("ann")
    assert people.next("ann") == first


def test_a_ranking_that_is_taken_back_leaves_its_item_to_others(people: People) -> None:
    first = people.next("ann")
    assert first is not None
    people.rank("ann", first, [1, 2, 3, 4])
    assert people.next("ben") != first
    people.say("ben", str(people.next("ben")), "skip")
    people.take_back("ann")
    people.say("ann", first, "skip")
    assert people.next("ben") == first


def test_what_is_sent_again_is_acknowledged_whatever_happened_since(people: People) -> None:
    first = people.next("ann")
    assert first is not None
    tiers = people.tiers("ann", first, [1, 2, 3, 4])
    told, _ = people.say("ann", first, "rank", key="k", tiers=tiers)
    people.take_back("ann")
    people.next("ann")
    people.clock.now += 10_000
    assert people.next("ben") == first
    people.rank("ben", first, [4, 3, 2, 1])
    again, new = people.say("ann", first, "rank", key="k", tiers=tiers)
    assert (again["event"], new) == (told["event"], False)


def test_flags_and_notes_are_kept_with_the_row_of_the_answer_and_hold_nothing_up(people: People) -> None:
    shown = people.shown("ann")["item"]
    key_of = {answer["text"]: answer["key"] for answer in shown["answers"]}
    people.say("ann", shown["id"], "flag", flags=("wrong", "harmful"), answer=key_of["two"])
    people.say("ann", shown["id"], "note", text="close")
    assert people.next("ann") == shown["id"]
    said = people.connection.execute("SELECT kind, payload FROM events ORDER BY id").fetchall()
    assert said == [("flag", '{"flags": ["wrong", "harmful"], "answer": 1}'), ("note", '{"text": "close"}')]


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({"name": "z", "kind": "skip"}, 404, "there is no such item"),
        ({"name": "a", "kind": "rank", "tiers": (("a",), ("q",))}, 400, "there is no answer 'q' to this item"),
        ({"name": "a", "kind": "rank", "tiers": (("a",), ("b",)), "adjudicates": True}, 409, "nobody disputes this"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_nothing_is_written(
    people: People, asked: dict[str, object], status: int, said: str
) -> None:
    while (name := people.next("ann")) != "a":
        people.say("ann", str(name), "skip")
    events = people.connection.execute("SELECT count(*) FROM events").fetchone()
    with pytest.raises(Refused, match=said) as refused:
        people.say("ann", **asked)
    assert refused.value.status == status
    assert people.connection.execute("SELECT count(*) FROM events").fetchone() == events


def test_an_item_that_was_never_before_a_person_is_not_theirs(people: People) -> None:
    first = people.next("ann")
    assert first is not None
    with people.ledger.transaction(), pytest.raises(Refused, match="no such item of yours"):
        actions.own_item(people.ledger, "ben", first)
    with pytest.raises(Refused, match="no such item of yours"):
        people.say("ben", first, "rank", tiers=(("a",), ("b",)))


def test_a_dispute_is_settled_by_one_ranking_that_alone_counts(tmp_path: Path) -> None:
    path = store(tmp_path / "feedback.db", item("a", "one", "two"))
    people = People(path, Rules(overlap=1.0, repeat=0.0))
    for who, ranks in (("ann", [1, 2]), ("ben", [2, 1])):
        assert people.next(who) == "a"
        people.rank(who, "a", ranks)
    assert people.ledger.standing.disputed() == ["a"]
    people.say("cy", "a", "rank", tiers=(("a", "b"),), adjudicates=True)
    assert [(r.annotator, r.ranks) for r in read_all(path)] == [("cy", (1, 1))]
    people.say("cy", "a", "rank", tiers=(("b",), ("a",)), adjudicates=True)
    assert [(r.annotator, r.ranks) for r in read_all(path)] == [("cy", (2, 1))]
    assert people.ledger.standing.rankers("a") == {"ann", "ben"}
    people.take_back("cy")
    people.take_back("cy")
    assert [r.annotator for r in read_all(path)] == ["ann", "ben"]
    people.close()


def test_what_nobody_disputes_is_not_overridden(people: People) -> None:
    name = str(people.next("ann"))
    people.rank("ann", name, [1, 2, 3, 4])
    with pytest.raises(Refused, match="nobody disputes this item") as refused:
        people.say("cy", name, "rank", tiers=(("d",), ("a",)), adjudicates=True)
    assert refused.value.status == 409
    assert [(r.annotator, r.ranks) for r in read_all(path_of(people))] == [("ann", (1, 2, 3, 4))]


def test_what_was_settled_may_be_settled_anew_though_nobody_disputes_it_any_more(tmp_path: Path) -> None:
    path = store(tmp_path / "feedback.db", item("a", "one", "two"))
    people = People(path, Rules(overlap=1.0, repeat=0.0))
    for who, ranks in (("ann", [1, 2]), ("ben", [2, 1])):
        people.next(who)
        people.rank(who, "a", ranks)
    people.say("cy", "a", "rank", tiers=(("a", "b"),), adjudicates=True)
    people.take_back("ben")
    people.say("cy", "a", "rank", tiers=(("a",), ("b",)), adjudicates=True)
    assert [(r.annotator, r.ranks) for r in read_all(path)] == [("cy", (1, 2))]
    people.close()


def read_all(path: Path) -> list[RankedRecord]:
    rows = [row for _, row in feedback_db.rankings(path)]
    return [
        RankedRecord(
            id=str(row["id"]), prompt=(), responses=(), ranks=tuple(row["ranks"]), annotator=str(row["annotator"])
        )
        for row in rows
    ]


def test_an_item_that_comes_back_is_shown_the_other_way_round_and_marked(tmp_path: Path) -> None:
    path = store(tmp_path / "feedback.db", *(item(f"i{n:02}", "one", "two", "three") for n in range(14)))
    people = People(path, Rules(overlap=0.0, repeat=1.0), Clock())
    seen: list[tuple[str, list[str]]] = []
    while (told := people.shown("ann"))["item"] is not None:
        shown = told["item"]
        seen.append((shown["id"], [answer["text"] for answer in shown["answers"]]))
        people.rank("ann", shown["id"], [1, 2, 3])
    names = [name for name, _ in seen]
    assert len(names) == 18  # fourteen items, of which the first four have ten others after them
    assert sorted(name for name in names if names.count(name) == 2) == sorted(names[:4] * 2)
    for name in names[:4]:
        first, again = (place for place, other in enumerate(names) if other == name)
        assert again - first > 10
        assert seen[first][1] == seen[again][1][::-1]
    marked = people.connection.execute("SELECT count(*) FROM events WHERE json_extract(payload, '$.repeat')").fetchone()
    assert marked == (4,)
    assert people.ledger.standing.started == 14
    people.close()
