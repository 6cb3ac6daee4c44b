"""The state of a ranking, from a real store: counts, pace, agreement, biases and disputes, with numbers by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rankings_at_hand import Clock, People, item, store

from posttrain.feedback import statistics
from posttrain.feedback.assigning import Rules
from posttrain.feedback.statistics import Overview

ALL_TWICE = Rules(overlap=1.0, repeat=0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    texts = ("long answer", "short", "mid one")
    return store(tmp_path / "feedback.db", *(item(name, *texts, audit=name == "d") for name in "abcd"))


@pytest.fixture
def people(path: Path) -> Iterator[People]:
    with closing(People(path, ALL_TWICE)) as people:
        yield people


def all_ranked(people: People, who: str, ranks: dict[str, list[int | None]], **parts: Any) -> None:
    """A person ranks whatever comes, and skips what there are no ranks for."""
    while (name := people.next(who)) is not None:
        if name in ranks:
            people.rank(who, name, ranks[name], **parts)
        else:
            people.say(who, name, "skip")


def of(path: Path, clock: Clock | None = None) -> dict[str, Any]:
    with closing(Overview(path, ALL_TWICE, clock=clock or Clock())) as overview:
        return overview.statistics()


def test_an_untouched_store_says_so(path: Path) -> None:
    found = of(path)
    assert found["progress"] == {
        "done": 0, "of": 4, "rankings": 0, "second": {"done": 0, "of": 4}, "skipped": 0, "cant_judge": 0,
        "closed": 0, "audit": 1,
    }  # fmt: skip
    names = ("alpha", "agreement", "self_consistency", "position_bias", "length_bias", "pace_per_hour")
    assert [found[name] for name in names] == [None] * 6
    assert (found["annotators"], found["disputed"], found["flags"], found["last_hour"]) == ([], [], {}, 0)


def test_who_did_what_and_how_far_they_agree(people: People, path: Path) -> None:
    all_ranked(people, "ann", {"a": [1, 2, 3], "b": [1, 2, None], "c": [1, 1, 2]}, seconds=4.0)
    all_ranked(people, "ben", {"a": [1, 2, 3], "b": [2, 1, 3], "c": [1, 2, 3], "d": [1, 2, 3]}, seconds=8.0)
    people.next("cy")
    found = of(path)
    assert found["progress"] == {
        "done": 4, "of": 4, "rankings": 7, "second": {"done": 3, "of": 4}, "skipped": 1, "cant_judge": 0,
        "closed": 0, "audit": 1,
    }  # fmt: skip
    # a: 3 of 3; b: the only pair that both ranked is opposed; c: a tie in one of two, and two pairs alike: 2.5 of 3
    assert found["agreement"]["value"] == pytest.approx(5.5 / 7)
    assert found["agreement"]["count"] == 7
    assert found["alpha"]["count"] == 7
    # better is longer: ann 3 + 1 (b) + 2 of c (mid over short is one: 11 > 5, 7 > 5...), by hand below
    assert found["annotators"] == [
        {
            "name": "ann", "ranked": 3, "skipped": 1, "cant_judge": 0, "flags": 0, "notes": 0, "median_seconds": 4.0,
            "agreement": pytest.approx(5.5 / 7), "self_consistency": None,
        },
        {
            "name": "ben", "ranked": 4, "skipped": 0, "cant_judge": 0, "flags": 0, "notes": 0, "median_seconds": 8.0,
            "agreement": pytest.approx(5.5 / 7), "self_consistency": None,
        },
    ]  # fmt: skip
    assert [(each["id"], each["annotators"], each["pairs"]) for each in found["disputed"]] == [("b", ["ann", "ben"], 1)]


def test_agreement_of_a_person_is_with_others_alone(path: Path) -> None:
    with closing(People(path, Rules(overlap=0.0, repeat=0.0))) as people:
        for who, ranks in (("ann", [1, 2, 3]), ("ben", [1, 2, 3]), ("cy", [3, 2, 1])):
            people.connection.execute("INSERT INTO showings VALUES ('a', ?, 0, 9e9)", (who,))
            people.connection.commit()
            people.rank(who, "a", ranks)
    told = {row["name"]: row["agreement"] for row in of(path)["annotators"]}
    assert told == {"ann": 0.5, "ben": 0.5, "cy": 0.0}


def test_longer_answers_that_win_are_a_bias_of_length(people: People, path: Path) -> None:
    # lengths 11, 5, 7: long over short and over mid, mid over short
    all_ranked(people, "ann", {"a": [1, 3, 2], "b": [1, 2, 3], "c": [3, 1, 2]})
    found = of(path)["length_bias"]
    assert (found["value"], found["count"], found["prompts"]) == (pytest.approx((3 + 2 + 0) / 9), 9, 3)


def test_first_shown_answers_that_win_are_a_bias_of_position(people: People, path: Path) -> None:
    for who in ("ann", "ben"):
        while (told := people.shown(who))["item"] is not None:
            keys = [answer["key"] for answer in told["item"]["answers"]]
            people.say(who, told["item"]["id"], "rank", tiers=tuple((key,) for key in keys))
    found = of(path)["position_bias"]
    assert (found["value"], found["count"], found["prompts"]) == (1.0, 24, 4)


def test_an_item_that_comes_back_measures_agreement_with_oneself(tmp_path: Path) -> None:
    path = store(tmp_path / "feedback.db", *(item(f"i{n:02}", "one", "two") for n in range(12)))
    with closing(People(path, Rules(overlap=0.0, repeat=1.0))) as people:
        turns = 0
        seen: set[str] = set()
        while (name := people.next("ann")) is not None:
            people.rank("ann", name, [2, 1] if name in seen and turns % 2 else [1, 2])
            turns += name in seen
            seen.add(name)
    found = of(path)
    assert turns == 2
    assert found["self_consistency"]["value"] == 0.5
    assert found["annotators"][0]["self_consistency"] == 0.5
    assert found["agreement"] is None


def test_pauses_are_no_work(path: Path) -> None:
    with closing(People(path, ALL_TWICE)) as people:
        add = "INSERT INTO events (time, item, annotator, kind, payload) VALUES (?, ?, ?, 'rank', ?)"
        times = ["09:00:00", "09:01:00", "09:02:00", "11:59:30", "12:00:00"]
        for number, time in enumerate(times):
            people.connection.execute(
                add, (f"2026-01-01T{time}.000Z", "abcd"[number % 4], "ann", '{"ranks": [1, 2, 3]}')
            )
        people.connection.commit()
    clock = Clock()
    clock.now = 1767268800.0 + 60  # a minute after twelve
    found = of(path, clock)
    assert found["last_hour"] == 2
    assert found["pace_per_hour"] == pytest.approx(3 / 150 * 3600)  # three gaps of a minute, a minute and half of one


def test_flags_are_counted(people: People, path: Path) -> None:
    name = people.next("ann")
    people.say("ann", str(name), "flag", flags=("wrong", "broken"))
    people.say("ann", str(name), "flag", flags=("wrong",))
    people.say("ann", str(name), "note", text="hm")
    found = of(path)
    assert found["flags"] == {"wrong": 2, "broken": 1}
    assert (found["annotators"][0]["flags"], found["annotators"][0]["notes"]) == (2, 1)


def test_a_dispute_shows_everyones_ranking_in_the_stored_order_and_no_model(people: People, path: Path) -> None:
    all_ranked(people, "ann", {"a": [1, 2, 3], "c": [1, 2, 3]})
    all_ranked(people, "ben", {"a": [2, 1, 1], "c": [3, 2, 1]})
    with closing(Overview(path, ALL_TWICE, clock=Clock())) as overview:
        found: dict[str, Any] = overview.disputes()
        assert [each["id"] for each in found["disputed"]] == ["a", "c"]
        assert found["disputed"][0]["prompt"] == "Say a."
        shown = found["item"]
        assert shown["id"] == "a"
        assert shown["answers"][0] == {"key": "a", "text": "long answer", "stopped": True}
        assert shown["rankings"] == [
            {"annotator": "ann", "tiers": [["a"], ["b"], ["c"]]},
            {"annotator": "ben", "tiers": [["b", "c"], ["a"]]},
        ]
        assert shown["adjudicated"] is None
        assert "sft" not in str(found)
        people.say("cy", "a", "rank", tiers=(("c",), ("a", "b")), adjudicates=True)
        found = overview.disputes()
        assert found["item"]["id"] == "c"
        assert [each["adjudicated"] for each in found["disputed"]] == ["cy", None]
        assert overview.disputes("a")["item"]["adjudicated"] == {"annotator": "cy", "tiers": [["c"], ["a", "b"]]}
        assert overview.disputes("nowhere")["item"]["id"] == "c"
        assert overview.statistics()["adjudications"] == [{"item": "a", "annotator": "cy"}]


def test_an_item_that_so_many_as_it_needs_cannot_judge_is_closed_and_counted(people: People, path: Path) -> None:
    name = str(people.next("ann"))
    people.say("ann", name, "cant_judge")
    assert of(path)["progress"]["closed"] == 0
    assert people.next("ben") == name
    people.say("ben", name, "cant_judge")
    assert (of(path)["progress"]["closed"], of(path)["progress"]["cant_judge"]) == (1, 2)
    assert people.next("cy") != name
    people.take_back("ben")
    assert people.next("dan") == name
    assert of(path)["progress"]["closed"] == 0


def test_a_large_store_is_not_measured_all_the_time(
    people: People, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(statistics.time, "monotonic", lambda: now[0])
    with closing(Overview(path, ALL_TWICE, clock=Clock())) as overview:
        measured = overview._measured

        def slowly() -> Any:
            now[0] += 2.0
            return measured()

        monkeypatch.setattr(overview, "_measured", slowly)
        names: list[int] = []
        for pause in (0.0, 19.0, 2.0):
            people.rank("ann", str(people.next("ann")), [1, 2, 3])
            now[0] += pause
            found = overview.statistics()
            assert found["progress"]["rankings"] == len(names) + 1  # what costs little is told at once
            names.append(sum(row["ranked"] for row in found["annotators"]))
        assert names == [1, 1, 3]
