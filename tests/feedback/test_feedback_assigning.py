"""Which items go to whom: shares by hash, orders by seed, and what a reward model is unsure of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rankings_at_hand import People, item, store

from posttrain.data import feedback_db
from posttrain.feedback.assigning import Rules, chosen, in_order, shown_order
from posttrain.feedback.standing import Facts


def facts(count: int, audit: frozenset[int] = frozenset()) -> list[Facts]:
    return [Facts(id=f"i{n:04}", seed=n, answers=3, audit=n in audit) for n in range(count)]


def test_a_share_is_about_that_share_and_grows_without_losing_what_it_had() -> None:
    tenth = {n for n in range(10_000) if chosen(0.1, 7, "overlap", n)}
    fifth = {n for n in range(10_000) if chosen(0.2, 7, "overlap", n)}
    assert 900 < len(tenth) < 1100
    assert tenth < fifth
    assert not any(chosen(0.0, 7, n) for n in range(100))
    assert all(chosen(1.0, 7, n) for n in range(100))


def test_answers_stand_in_every_place_as_often() -> None:
    first = [shown_order(seed, "ann", 0, 4)[0] for seed in range(4000)]
    assert all(900 < first.count(row) < 1100 for row in range(4))
    assert shown_order(5, "ann", 0, 9) == shown_order(5, "ann", 0, 9)
    assert shown_order(5, "ann", 1, 9) == shown_order(5, "ann", 0, 9)[::-1]
    assert {tuple(shown_order(5, who, 0, 9)) for who in ("ann", "ben", "cy")} != {tuple(shown_order(5, "ann", 0, 9))}


def test_the_order_depends_on_the_seed_and_more_items_leave_that_of_the_others() -> None:
    few, many = in_order(facts(20), Rules()), in_order(facts(40), Rules())
    assert few != sorted(few)
    assert [name for name in many if name in few] == few
    assert in_order(facts(20), Rules(seed=1)) != few


def test_items_with_one_answer_or_with_ten_are_not_handed_out() -> None:
    some = [replace(each, answers=n) for each, n in zip(facts(4), (1, 2, 9, 10), strict=True)]
    assert sorted(in_order(some, Rules())) == ["i0001", "i0002"]


def test_uncertain_items_come_first_in_their_share_and_audit_items_by_chance_alone() -> None:
    items = facts(400, audit=frozenset({398, 399}))
    unsure = {f"i{n:04}": n / 400 for n in range(400)}
    order = in_order(items, Rules(uncertain=0.5, unsure=unsure))
    assert sorted(order) == [each.id for each in items]
    early = order[:40]
    most = {f"i{n:04}" for n in range(370, 398)}
    assert 12 <= len(most & set(early)) <= 28
    plain = in_order(items, Rules())
    assert order.index("i0399") >= plain.index("i0399") // 2  # audit items stand among those that chance chose
    all_unsure = in_order(items, Rules(uncertain=1.0, unsure=unsure))
    assert all_unsure[:3] == ["i0397", "i0396", "i0395"]
    assert in_order(items, Rules(uncertain=1.0)) == plain


@pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
def test_a_share_of_the_items_goes_to_two_people_and_none_to_three(overlap: float, tmp_path: Path) -> None:
    rules = Rules(overlap=overlap, repeat=0.0)
    people = People(store(tmp_path / "feedback.db", *(item(f"i{n:02}") for n in range(30))), rules)
    waiting = ["ann", "ben", "cy"]
    while waiting:
        for who in list(waiting):
            name = people.next(who)
            if name is None:
                waiting.remove(who)
            else:
                people.rank(who, name, [1, 2])
    twice = {name for name in people.ledger.standing.items if rules.needs(name) == 2}
    for name in people.ledger.standing.items:
        assert len(people.ledger.standing.rankers(name)) == (2 if name in twice else 1)
    assert {0.0: len(twice) == 0, 0.5: 8 <= len(twice) <= 22, 1.0: len(twice) == 30}[overlap]
    people.close()


def test_items_that_come_later_are_handed_out_too(tmp_path: Path) -> None:
    path = store(tmp_path / "feedback.db", item("a"))
    people, others = People(path), People(path)
    people.rank("ann", str(people.next("ann")), [1, 2])
    assert people.next("ann") is None
    feedback_db.add_items(others.connection, [item("b")])
    assert people.next("ann") == "b"
    people.close()
    others.close()


def test_what_was_chosen_is_the_same_after_a_restart(tmp_path: Path) -> None:
    path = store(tmp_path / "feedback.db", *(item(f"i{n:02}") for n in range(20)))
    people = People(path)
    for _ in range(5):
        people.rank("ann", str(people.next("ann")), [1, 2])
    before = people.shown("ann")
    people.close()
    again = People(path)
    assert again.shown("ann") == before
    again.close()


def test_two_servers_on_one_store_know_of_each_others_locks(tmp_path: Path) -> None:
    path = store(tmp_path / "feedback.db", *(item(name) for name in "abc"))
    first, second = People(path), People(path)
    held = [first.next("ann"), second.next("ben"), first.next("cy")]
    assert sorted(map(str, held)) == ["a", "b", "c"]
    assert second.next("dan") is None
    first.rank("ann", str(held[0]), [1, 2])
    assert second.shown("dan")["progress"]["done"] == 1
    first.close()
    second.close()
