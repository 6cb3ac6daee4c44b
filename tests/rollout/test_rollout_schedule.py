"""Who sits where: a double loop over random histories, and the cases by hand."""

from __future__ import annotations

import random

from posttrain.rollout.schedule import Schedule


def test_the_first_turn_fills_the_slots_in_order() -> None:
    schedule = Schedule("abcde", slots=3)
    changes = schedule.turn(())
    assert (schedule.rows, changes.entered, changes.moved) == (["a", "b", "c"], [0, 1, 2], [])


def test_waiting_rows_take_the_places_of_finished_ones_and_nobody_moves() -> None:
    schedule = Schedule("abcde", slots=3)
    schedule.turn(())
    changes = schedule.turn([0, 2])
    assert (schedule.rows, changes.entered, changes.moved) == (["d", "b", "e"], [0, 2], [])


def test_the_last_rows_move_into_holes_when_nobody_waits() -> None:
    schedule = Schedule("abcde", slots=5)
    schedule.turn(())
    changes = schedule.turn([0, 3])
    assert (schedule.rows, changes.entered, changes.moved) == (["e", "b", "c"], [], [(4, 0)])


def test_the_last_one_who_waits_takes_a_hole_and_the_other_hole_is_closed() -> None:
    schedule = Schedule("abcd", slots=3)
    schedule.turn(())
    changes = schedule.turn([0, 1])
    assert (schedule.rows, changes.entered, changes.moved) == (["d", "c"], [0], [(2, 1)])


def test_everybody_leaves() -> None:
    schedule = Schedule("ab", slots=2)
    schedule.turn(())
    assert schedule.turn([0, 1]).moved == []
    assert schedule.rows == []


def test_every_row_is_served_once_in_order_and_slots_are_without_holes() -> None:
    chance = random.Random(3)
    for slots in (1, 2, 5):
        schedule = Schedule(range(30), slots)
        held: dict[int, int] = {}
        order: list[int] = []
        finished: list[int] = []
        while True:
            for slot in finished:
                del held[slot]
            changes = schedule.turn(finished)
            for source, target in changes.moved:
                assert target not in held
                held[target] = held.pop(source)
            for slot in changes.entered:
                assert slot not in held
                held[slot] = schedule.rows[slot]
                order.append(schedule.rows[slot])
            assert held == dict(enumerate(schedule.rows))
            if not held:
                break
            finished = [slot for slot in held if chance.random() < 0.4]
        assert order == list(range(30))
