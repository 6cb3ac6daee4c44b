"""Epochs as steps: exact weights of a mixture, the same order for everyone, and going on at any step."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

import pytest

from posttrain.data.source import EpochSource, Weighted, epoch_order
from posttrain.errors import DataError
from posttrain.types import Step


def names(items: Sequence[str]) -> Step:
    return Step(micro_batches=[], counts={}, rows=items)


def source(
    *sets: Weighted[str], batch_size: int = 4, epochs: float | None = 1.0, steps: int | None = None, seed: int = 0
) -> EpochSource[str]:
    return EpochSource(sets, names, batch_size=batch_size, epochs=epochs, steps=steps, seed=seed)


def rows(count: int, name: str = "a") -> list[str]:
    return [f"{name}{number}" for number in range(count)]


def seen(steps: EpochSource[str]) -> list[str]:
    return [row for step in steps for row in step.rows]


def test_an_epoch_sees_every_row_once_in_a_shuffled_order() -> None:
    order = seen(source(Weighted(items=rows(50))))
    assert sorted(order) == sorted(rows(50))
    assert order != rows(50)


def test_a_weight_is_how_often_an_epoch_passes_over_a_set() -> None:
    mixture = source(
        Weighted(items=rows(10, "a"), weight=2.0),
        Weighted(items=rows(10, "b"), weight=0.5),
        Weighted(items=rows(3, "c")),
    )
    count = Counter(seen(mixture))
    assert mixture.examples_per_epoch == 28
    assert all(count[row] == 2 for row in rows(10, "a"))
    assert sorted(count[row] for row in rows(10, "b")) == [0] * 5 + [1] * 5
    assert all(count[row] == 1 for row in rows(3, "c"))


def test_the_passes_of_a_run_are_those_over_the_set_that_it_sees_most() -> None:
    sets = Weighted(items=rows(10, "a"), weight=2.0), Weighted(items=rows(20, "b"), weight=0.5)
    assert source(*sets, epochs=1.5).passes == pytest.approx(3.0)  # 45 of 30 rows an epoch, each of a twice
    assert source(*sets, epochs=None, steps=15).passes == pytest.approx(4.0)
    assert source(Weighted(items=rows(8))).passes == 1.0


def test_a_part_of_a_set_is_a_fresh_random_part_in_every_epoch() -> None:
    drawn = [epoch_order([(100, 1.5)], seed=0, epoch=epoch).tolist() for epoch in range(2)]
    assert set(drawn[0]) == set(drawn[1]) == set(range(100))
    twice = [{row for row, times in Counter(rows).items() if times == 2} for rows in drawn]
    assert [len(part) for part in twice] == [50, 50]
    assert twice[0] != twice[1]


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return epoch_order([(40, 1.0), (7, 3.0)], seed=seed, epoch=epoch).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) != order(1, 1)


def test_the_order_is_the_one_of_every_earlier_version() -> None:
    """Written down from the first version, whose runs must be repeatable: (set, row) of each place in an epoch."""
    first = [(0, 3), (1, 1), (0, 0), (1, 0), (0, 2), (0, 1), (1, 1), (1, 2), (0, 4)]
    second = [(0, 3), (0, 0), (0, 1), (0, 1), (0, 0), (0, 3), (0, 2), (1, 0), (0, 2)]
    assert epoch_order([(5, 1.0), (3, 1.5)], seed=0, epoch=0).tolist() == [5 * part + row for part, row in first]
    assert epoch_order([(4, 2.0), (2, 0.5)], seed=7, epoch=3).tolist() == [4 * part + row for part, row in second]


def test_epochs_follow_one_another_without_a_short_batch_and_only_the_last_may_be_short() -> None:
    steps = source(Weighted(items=rows(10)), batch_size=4, epochs=2.0)
    sizes = [len(step.rows) for step in steps]
    assert (sizes, steps.steps) == ([4] * 5, 5)
    short = source(Weighted(items=rows(10)), batch_size=4)
    assert ([len(step.rows) for step in short], short.steps) == ([4, 4, 2], 3)


def test_steps_go_past_the_end_of_the_data() -> None:
    endless = source(Weighted(items=rows(3)), batch_size=4, epochs=None, steps=6)
    order = seen(endless)
    assert len(order) == 24
    assert all(sorted(order[start : start + 3]) == rows(3) for start in range(0, 24, 3))


def test_a_part_of_an_epoch() -> None:
    assert len(seen(source(Weighted(items=rows(10)), epochs=0.25))) == 3


@pytest.mark.parametrize("done", [0, 1, 2, 3, 6, 7])
def test_a_source_goes_on_from_its_state_at_any_step(done: int) -> None:
    def make() -> EpochSource[str]:
        return source(Weighted(items=rows(9), weight=1.5), batch_size=4, epochs=2.0)

    whole = [step.rows for step in make()]
    assert len(whole) == 7
    first = make()
    taken = [step.rows for step, _ in zip(first, range(done), strict=False)]
    second = make()
    second.load_state({"done": done, "rows": [9]})
    assert [*taken, *(step.rows for step in second)] == whole


def test_a_state_taken_while_a_step_is_worked_on_points_behind_it() -> None:
    steps = source(Weighted(items=rows(8)))
    for number, _ in enumerate(steps, 1):
        assert steps.state() == {"done": number, "rows": [8]}


def test_steps_that_depend_on_the_weights_are_made_when_they_are_asked_for() -> None:
    made: list[int] = []

    def make(items: Sequence[str]) -> Step:
        made.append(len(made))
        return names(items)

    steps = EpochSource([Weighted(items=rows(8))], make, batch_size=2, epochs=1.0, steps=None, seed=0, ahead=False)
    for number, _ in enumerate(steps, 1):
        assert len(made) == number


def test_a_run_that_ends_early_leaves_no_thread_behind() -> None:
    steps = iter(source(Weighted(items=rows(40))))
    next(steps)
    assert any(thread.name.startswith("ahead") for thread in threading.enumerate())
    del steps
    assert not any(thread.name.startswith("ahead") for thread in threading.enumerate())


def test_a_row_that_cannot_be_made_fails_the_step_it_is_in_and_not_the_one_before() -> None:
    def make(items: Sequence[str]) -> Step:
        if "a5" in items:
            raise DataError("a5 is damaged")
        return names(items)

    steps = EpochSource([Weighted(items=rows(8))], make, batch_size=1, epochs=1.0, steps=None, seed=0)
    taken: list[str] = []
    with pytest.raises(DataError, match="a5 is damaged"):
        taken.extend(row for step in steps for row in step.rows)
    order = seen(source(Weighted(items=rows(8)), batch_size=1))
    assert taken == order[: order.index("a5")]
    assert steps.state()["done"] == len(taken)


def test_a_source_does_not_go_on_with_other_rows() -> None:
    state = source(Weighted(items=rows(9)), Weighted(items=rows(3))).state()
    with pytest.raises(DataError, match=r"the run began with 9 \+ 3 rows, and 9 \+ 4 are there now"):
        source(Weighted(items=rows(9)), Weighted(items=rows(4))).load_state(state)


def test_no_rows_are_an_error() -> None:
    with pytest.raises(DataError, match="no row is left to train on"):
        source(Weighted(items=rows(3), weight=0.1))
