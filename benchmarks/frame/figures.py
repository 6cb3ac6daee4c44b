"""Cost curves as pictures: for each curve seconds a step and growth of memory, in SVG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.frame.report import RESULTS

PARTS = (("seconds", "seconds a step"), ("growth_mb", "growth of memory, MB"))


def draw(folder: Path, results: Path = RESULTS) -> None:
    """Draws every `curve-NAME.json` of the results into `folder`; prints the names."""
    import matplotlib as mpl  # noqa: PLC0415 - needed for nothing else

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "posttrain"  # the same numbers draw the same file
    from matplotlib import pyplot  # noqa: PLC0415 - after its backend is chosen

    folder.mkdir(exist_ok=True)
    for file in sorted(results.glob("curve-*.json")):
        facts = json.loads(file.read_text(encoding="utf-8"))
        figure, places = pyplot.subplots(1, len(PARTS), figsize=(8, 3), layout="constrained")
        for place, (key, label) in zip(places, PARTS, strict=True):
            for name, points in _lines(facts["points"]).items():
                place.plot([point["at"] for point in points], [point[key] for point in points], "o-", label=name)
            place.set(xlabel=file.stem.removeprefix("curve-"), ylabel=label, ylim=(0, None))
        places[0].legend(fontsize=8)
        target = folder / f"{file.stem}.svg"
        figure.savefig(target, metadata={"Date": None})
        pyplot.close(figure)
        print(target)


def _lines(points: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The points of each side and method, from left to right."""
    found: dict[str, list[dict[str, Any]]] = {}
    for point in sorted(points, key=lambda point: point["at"]):
        found.setdefault(f"{point['side']}, {point['method']}", []).append(point)
    return found
