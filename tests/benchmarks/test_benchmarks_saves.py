"""What is told of the time that saves hold training up."""

from __future__ import annotations

import pytest

from benchmarks.saves import SAVED, told


def test_held_up_is_the_share_of_the_time_beyond_a_run_without_saves() -> None:
    found = told(
        {
            "none": [{"seconds": [1.0, 1.0], "saves": []}, {"seconds": [2.0, 2.0], "saves": []}],
            "beside": [{"seconds": [1.0, 1.5], "saves": [(0.8, 0.1)]}, {"seconds": [2.0, 3.0], "saves": [(0.6, 0.1)]}],
        }
    )
    assert found["none"] == {"seconds": 3.0, "held": 0.0, "waited": 0.0, "a_save": 0.0}
    assert found["beside"] == pytest.approx({"seconds": 3.75, "held": 0.2, "waited": 0.03, "a_save": 0.7})


def test_the_lines_of_a_log_are_read() -> None:
    beside, waits = (
        "checkpoint of step 4 in 0.51 s beside the training, which waited 0.020 s",
        "checkpoint of step 6 in 0.48 s",
    )
    assert SAVED.findall(f"x  {beside}\nx  {waits}\n") == [("0.51", "0.020"), ("0.48", "")]
