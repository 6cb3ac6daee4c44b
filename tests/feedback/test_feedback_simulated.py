"""The simulated annotator draws Bradley-Terry labels, and gives them through the doors that people use."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from posttrain.data import feedback_db
from posttrain.data.feedback_db import Answer, Item
from posttrain.data.readers import read
from posttrain.feedback.assigning import Rules
from posttrain.feedback.ledger import Ledger
from posttrain.feedback.simulated import Annotator, annotate
from posttrain.records import Message, RankedRecord

TEXTS = ("a", "bb", "ccc", "dddd")
SURE = Annotator(scale=0.0, tie_margin=0.0)


def test_two_answers_stand_in_the_order_of_bradley_terry() -> None:
    annotator = Annotator(scale=0.2)
    wins = sum(annotator.rank(str(i), ("a", "b"), (0.7, 0.4))[0] == 1 for i in range(4000))
    assert wins / 4000 == pytest.approx(1 / (1 + math.exp(-1.5)), abs=0.02)


def test_a_third_answer_between_them_changes_nothing() -> None:
    annotator = Annotator(scale=0.2)
    ranks = [annotator.rank(str(i), ("a", "b", "c"), (0.7, 0.4, 0.6)) for i in range(4000)]
    assert sum(a < b for a, b, _ in ranks) / 4000 == pytest.approx(1 / (1 + math.exp(-1.5)), abs=0.02)


def test_without_noise_the_score_decides() -> None:
    assert [SURE.rank(str(i), ("a", "b", "c"), (0.1, 0.3, 0.2)) for i in range(9)] == [[3, 1, 2]] * 9


def test_equal_texts_share_a_place() -> None:
    for i in range(50):
        ranks = Annotator().rank(str(i), ("a", "b", "a", "c"), (0.5, 0.6, 0.5, 0.1))
        assert ranks[0] == ranks[2]


def test_equal_scores_are_tied_some_of_the_time_and_otherwise_a_coin() -> None:
    ranks = [Annotator(tie_share=0.5).rank(str(i), ("a", "b"), (0.5, 0.5)) for i in range(4000)]
    assert sum(a == b for a, b in ranks) / 4000 == pytest.approx(0.5, abs=0.03)
    assert sum(a < b for a, b in ranks) / 4000 == pytest.approx(0.25, abs=0.03)


def test_ranks_begin_at_one_and_leave_no_gap() -> None:
    for i in range(100):
        ranks = Annotator().rank(str(i), ("a", "b", "c", "d"), (0.5, 0.5, 0.5, 0.2))
        assert set(ranks) == set(range(1, max(ranks) + 1))


def test_the_order_of_prompts_changes_no_label_and_the_seed_does() -> None:
    answers, scores = tuple("abcdefgh"), (0.5, 0.4, 0.6, 0.5, 0.3, 0.45, 0.55, 0.5)
    assert Annotator().rank("x", answers, scores) == Annotator().rank("x", answers, scores)
    assert Annotator(seed=1).rank("x", answers, scores) != Annotator(seed=2).rank("x", answers, scores)


# --- on a store -----------------------------------------------------------------------------------------------------


def items(count: int, *, seed: int = 0) -> list[Item]:
    """Items whose answers are shown in orders that follow from the seed."""
    return [
        Item(
            id=f"item {number}", prompt=(Message(role="user", content=f"Say {number}"),), seed=number + seed,
            responses=[Answer(text=text, stopped=True) for text in TEXTS],
        )
        for number in range(count)
    ]  # fmt: skip


def scores(count: int) -> dict[str, Mapping[str, float]]:
    """The longer a text the better, but for every third item, where the shorter is."""
    return {
        f"item {number}": {text: float(len(text) * (-1 if number % 3 == 0 else 1)) for text in TEXTS}
        for number in range(count)
    }


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "feedback.db"
    with closing(feedback_db.create(path)) as connection:
        feedback_db.add_items(connection, items(30))
    return path


def told(path: Path) -> dict[str, tuple[int | None, ...]]:
    """The rankings of a store, by item and annotator."""
    return {record.id: record.ranks for record in read(path, "ranked").records if isinstance(record, RankedRecord)}


def annotated(path: Path, rules: Rules, annotator: Annotator, *names: str, most: int | None = None) -> int:
    """How many items were said something of, of at most so many."""
    left: Iterator[int] = iter(range(most if most is not None else 10_000))
    with closing(feedback_db.connect(path)) as connection:
        return annotate(
            Ledger(connection, rules), names, annotator, scores(30), lambda: next(left, None) is None
        )  # fmt: skip


def test_every_item_is_ranked_by_its_scores_in_whatever_order_it_is_shown(store: Path) -> None:
    rules = Rules(overlap=0.0, repeat=0.0)
    assert annotated(store, rules, SURE, "ada") == 30
    expected = {f"item {n}/ada": (1, 2, 3, 4) if n % 3 == 0 else (4, 3, 2, 1) for n in range(30)}
    assert told(store) == expected
    assert annotated(store, rules, SURE, "ada") == 0


def test_several_share_the_work_and_some_items_go_to_two(store: Path) -> None:
    rules = Rules(overlap=0.5, repeat=0.0, seed=1)
    both = sum(rules.needs(f"item {number}") == 2 for number in range(30))
    assert 0 < both < 30
    assert annotated(store, rules, Annotator(scale=3.0), "ada", "bo") == 30 + both
    mine = {who: {name for name in told(store) if name.endswith(who)} for who in ("ada", "bo")}
    assert abs(len(mine["ada"]) - len(mine["bo"])) <= 1
    ranks = told(store)
    twice = [(ranks[f"item {n}/ada"], ranks[f"item {n}/bo"]) for n in range(30) if rules.needs(f"item {n}") == 2]
    assert any(first != second for first, second in twice)  # each has noise of their own


def test_the_order_in_which_answers_are_shown_changes_no_ranking(store: Path) -> None:
    other = store.with_name("other.db")
    with closing(feedback_db.create(other)) as connection:
        feedback_db.add_items(connection, items(30, seed=1000))
    for path in (store, other):
        annotated(path, Rules(overlap=0.0, repeat=0.0), Annotator(scale=3.0), "ada")
    assert told(store) == told(other)


@pytest.mark.parametrize("stops", [(1, 2, 3), (7,), (20, 1)])
def test_annotators_that_are_stopped_go_on_to_the_same_rankings(stops: tuple[int, ...], store: Path) -> None:
    rules, annotator = Rules(overlap=0.5, repeat=0.2), Annotator(scale=2.0)
    other = store.with_name("other.db")
    with closing(feedback_db.create(other)) as connection:
        feedback_db.add_items(connection, items(30))
    for most in stops:
        assert annotated(store, rules, annotator, "ada", "bo", "cy", most=most) == most
    annotated(store, rules, annotator, "ada", "bo", "cy")
    annotated(other, rules, annotator, "ada", "bo", "cy")
    assert told(store) == told(other)


def test_an_item_that_has_no_scores_is_passed_on(store: Path) -> None:
    strange = Item(
        id="strange",
        prompt=(Message(role="user", content="Who?"),),
        responses=[Answer(text="me", stopped=True), Answer(text="you", stopped=True)],
    )
    with closing(feedback_db.connect(store)) as connection:
        feedback_db.add_items(connection, [strange])
    assert annotated(store, Rules(overlap=0.0, repeat=0.0), SURE, "ada") == 31
    assert len(told(store)) == 30
    with closing(feedback_db.connect(store)) as connection:
        [kind] = connection.execute("SELECT kind FROM events WHERE item = 'strange'").fetchone()
    assert kind == "skip"


def test_an_answer_without_a_score_is_left_out_of_the_ranking(store: Path) -> None:
    known = {item: {text: value for text, value in each.items() if text != "bb"} for item, each in scores(30).items()}
    with closing(feedback_db.connect(store)) as connection:
        annotate(Ledger(connection, Rules(overlap=0.0, repeat=0.0)), ["ada"], SURE, known, lambda: False)
    assert told(store)["item 1/ada"] == (3, None, 2, 1)
