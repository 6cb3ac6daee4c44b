"""Charts as the page draws them: thinned out without losing their look, and never a number that JSON has not."""

from __future__ import annotations

import json
import math

from reported import wave

from posttrain.report.figures import MOST, figure, thinned
from posttrain.report.parts import Chart, Series


def test_a_line_that_is_short_enough_stays_as_it_is() -> None:
    assert [*thinned([3.0, 1.0, 2.0], 3)] == [0, 1, 2]


def test_a_thinned_line_keeps_its_ends_and_every_peak() -> None:
    line = wave(10_000)
    kept = thinned(line, MOST)
    assert len(kept) <= MOST
    assert [*kept] == sorted(set(kept))
    assert {0, 9_999, line.index(max(line)), line.index(min(line))} <= {*kept}


def test_a_gap_stays_a_gap() -> None:
    line: list[float | None] = [1.0] * 5_000
    line[2_500] = None
    kept = thinned(line, 300)
    assert 2_500 in kept
    assert [place for place in thinned([None] * 5_000, 300) if place in (0, 4_999)] == [0, 4_999]


def test_numbers_that_are_not_finite_become_gaps() -> None:
    series = Series(name="a", x=[1, 2, 3], y=[1.0, math.nan, math.inf], low=[0.5, None, 1.0], high=[2.0, None, 3.0])
    found = figure(Chart(id="c", title="t", series=[series], marks={2: "went on", 1: "best"}))
    read = json.loads(json.dumps(found, allow_nan=False))
    assert read == {
        "kind": "line", "title": "t", "x": "step", "y": "", "log": False, "marks": [[1, "best"], [2, "went on"]],
        "series": [
            {
                "name": "a", "x": [1, 2, 3], "y": [1.0, None, None], "low": [0.5, None, 1.0], "high": [2.0, None, 3.0],
            }
        ],
    }  # fmt: skip


def test_bars_are_never_thinned_out() -> None:
    many = list(range(2 * MOST))
    found = figure(Chart(id="c", title="t", kind="bars", series=[Series(name="a", x=many, y=many)]))
    assert found["series"] == [{"name": "a", "x": many, "y": many}]
