"""What is told of the time that saves hold training up."""

from __future__ import annotations

import pytest

from benchmarks.saves import SAVED, told


def test_held_up_is_what_the_steps_after_a_save_take_beyond_the_same_steps_without_one() -> None:
    # a machine half as fast from the second save on; a save after every third step, of which the list lacks the first
    bare = [1.0] * 9
    with_saves = [1.0, 1.0, 1.5, 1.0, 1.0, 2.8, 2.4, 2.0, 9.0]
    found = told(
        {
            "none": [{"seconds": bare, "saves": []}],
            "beside": [{"seconds": with_saves, "saves": [(0.8, 0.1), (0.6, 0.1), (0.7, 0.1)]}],
        },
        every=3,
    )
    assert found["none"] == {"seconds": 9.0, "held": 0.0, "waited": 0.0, "a_save": 0.0}
    expected = {"seconds": 21.7, "held": (0.5 / 3.5 + 0.6 / 3.6) / 2, "waited": 0.3 / 21.7, "a_save": 0.7}
    assert found["beside"] == pytest.approx(expected)


def test_the_lines_of_a_log_are_read() -> None:
    beside, waits = (
        "checkpoint of step 4 in 0.51 s beside the training, which waited 0.020 s",
        "checkpoint of step 6 in 0.48 s",
    )
    assert SAVED.findall(f"x  {beside}\nx  {waits}\n") == [("0.51", "0.020"), ("0.48", "")]
