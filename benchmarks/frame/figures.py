"""Cost curves as pictures: for each curve milliseconds a token and growth of memory, in SVG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.frame.report import RESULTS

PARTS = (("milliseconds", "ms a token"), ("growth_mb", "growth of memory, MB"))
ABOUT = {
    "length": "tokens of a row",
    "batch": "tokens of a micro-batch",
    "vocabulary": "words of the model",
    "answers": "ranked answers of a prompt",
    "adapters": "rank of the adapters (0: all weights)",
    "group": "answers to a prompt",
    "response": "tokens of an answer",
}


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
                values = [point[key] for point in points]
                place.plot([point["at"] for point in points], values, "o-", label=name)
            place.set(xlabel=ABOUT[file.stem.removeprefix("curve-")], ylabel=label, ylim=(0, None))
        places[0].legend(fontsize=8)
        target = folder / f"{file.stem}.svg"
        figure.savefig(target, metadata={"Date": None})
        pyplot.close(figure)
        print(target)


def _lines(points: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The points of each side and method, from left to right."""
    found: dict[str, list[dict[str, Any]]] = {}
    for point in sorted(points, key=lambda point: point["at"]):
        point["milliseconds"] = 1000 / point["tokens_per_second"]
        found.setdefault(f"{point['side']}, {point['method']}", []).append(point)
    return found
