"""The time left that a run shows, against sums by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from posttrain.console.progress import Progress


def after(steps: Sequence[tuple[int, float]], *, of: int, done: int = 0) -> Progress:
    """A run of `of` steps after (step, the time at its end); the first time is that of its start."""
    times = iter([0.0, *(time for _, time in steps)])
    progress = Progress(title="sft", steps=of, where="cpu", clock=lambda: next(times), step=done, earlier=done)
    for step, _ in steps:
        progress.advance(step, {"loss": 1.0})
    return progress


def test_nothing_is_known_before_the_first_step() -> None:
    assert after([], of=10).left == 0
    assert after([], of=10).pace == ""


def test_the_later_half_of_the_steps_tells_the_time_left() -> None:
    assert after([(1, 7.0)], of=10).left == 7.0 * 9
    assert after([(1, 9.0), (2, 10.0)], of=10).left == 1.0 * 8  # the first step, which warms up, is forgotten
    # 10 updates of the critic alone at 1 s, then 10 of both models at 3 s; 80 of them are left
    critic = [(step, float(step)) for step in range(1, 11)]
    both = [(step, 10.0 + 3 * (step - 10)) for step in range(11, 21)]
    assert after([*critic, *both], of=100).left == pytest.approx(240)


def test_an_evaluation_belongs_to_the_step_that_it_follows() -> None:
    run = after([(1, 1.0), (2, 2.0), (2, 4.0)], of=4)
    assert run.left == pytest.approx(3.0 * 2)
    assert run.pace.startswith("2.0 s/it · 0:06 left")


def test_a_run_that_goes_on_counts_its_own_steps_alone() -> None:
    run = after([(51, 2.0), (52, 4.0)], of=100, done=50)
    assert run.left == pytest.approx(2.0 * 48)
    assert run.pace.startswith("2.0 s/it · 1:36 left")
