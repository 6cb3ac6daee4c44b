"""Numbers, times and sizes as people read them."""

from __future__ import annotations

import pytest

from posttrain.report.shown import between, day, duration, shown, size


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (None, ""), (True, "yes"), (12345, "12,345"), (0.802612, "0.8026"), (12.0, "12"), (12345.678, "12,346"),
        (5.6e-05, "5.6e-05"), (-3.14159, "-3.142"), (float("nan"), "nan"), (float("inf"), "inf"), ("<b>", "<b>"),
    ],
)  # fmt: skip
def test_cells_have_four_digits_and_thousands_apart(cell: str | float | None, text: str) -> None:
    assert shown(cell) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.52, "0.5 s"), (41.2, "41 s"), (59.7, "1 min 0 s"), (408, "6 min 48 s"), (11_520, "3 h 12 min")],
)
def test_times_are_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_sizes_and_days() -> None:
    assert (size(4_885_000), size(21_300_000_000)) == ("4.885 MB", "21.3 GB")
    assert day("2026-11-27T13:06:47.050+00:00") == "2026-11-27 13:06 UTC"
    assert (day("yesterday"), day("")) == ("yesterday", "")
    assert between("2026-11-27T13:00:00+00:00", "2026-11-27T13:01:30+00:00") == 90
    assert between("2026-11-27T13:00:00+00:00", "") is None
