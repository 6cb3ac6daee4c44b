"""Charts as the page's script reads them: plain lists, thinned to what a screen can show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice

from posttrain.records import JSON
from posttrain.report.parts import Chart, Series

MOST = 600
"""Points of a line on the page; a screen has hardly more columns for one."""


def figure(chart: Chart) -> dict[str, JSON]:
    """What the script draws of a chart."""
    return {
        "kind": chart.kind,
        "title": chart.title,
        "x": chart.x,
        "y": chart.y,
        "log": chart.log,
        "marks": [[place, word] for place, word in sorted(chart.marks.items())],
        "series": [_series(series, None if chart.kind == "bars" else MOST) for series in chart.series],
    }


def _series(series: Series, most: int | None) -> dict[str, JSON]:
    kept = range(len(series.y)) if most is None else thinned(series.y, most)
    found: dict[str, JSON] = {
        "name": series.name,
        "x": [finite(series.x[place]) for place in kept],
        "y": [finite(series.y[place]) for place in kept],
    }
    if series.low and series.high:
        found["low"] = [finite(series.low[place]) for place in kept]
        found["high"] = [finite(series.high[place]) for place in kept]
    return found


def finite(value: float | None) -> float | None:
    """The number, and None for what JSON has no number for."""
    return value if value is not None and math.isfinite(value) else None


def thinned(y: Sequence[float | None], most: int) -> Sequence[int]:
    """The places of at most `most` points that keep a line's look: first, last, and of each stretch what is lowest,
    highest, and missing."""
    if len(y) <= most:
        return range(len(y))
    stretches = max(1, (most - 2) // 3)
    kept = {0, len(y) - 1}
    for number in range(stretches):
        places = range(number * len(y) // stretches, (number + 1) * len(y) // stretches)
        known = [place for place in places if finite(y[place]) is not None]
        kept.update(islice((place for place in places if finite(y[place]) is None), 1))
        if known:
            kept |= {min(known, key=lambda place: y[place] or 0.0), max(known, key=lambda place: y[place] or 0.0)}
    return sorted(kept)
