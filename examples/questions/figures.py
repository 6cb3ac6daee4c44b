"""An answer as a figure and as numbers: panels of lines or bars into one SVG, the same bytes each time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from posttrain.errors import PosttrainError

Numbers: TypeAlias = "Mapping[str, float | int | bool | str | Sequence[float] | Numbers]"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#555555")  # told apart by colour-blind eyes too
DIGITS = 6
SMALLEST = 9  # decimals; below it is rounding
HIGH, WIDE = 3.3, 4.0  # inches of a panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of a panel. `band`: what lies between the first and second row is shaded around it."""

    x: Sequence[float]
    y: Sequence[float]
    band: tuple[Sequence[float], Sequence[float]] | None = None
    dashed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes. `bars` stand in groups: a colour for each name, a place for each of `places`."""

    title: str
    x: str = ""
    y: str = ""
    lines: Mapping[str, Line] = field(default_factory=dict[str, Line])
    places: Sequence[str] = ()
    bars: Mapping[str, Sequence[float]] = field(default_factory=dict[str, Sequence[float]])
    log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an experiment found: numbers for its page and tests, panels for its figure."""

    numbers: Numbers
    panels: Sequence[Panel]

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Writes `name.json` and `name.svg` into the folder; where they are."""
        folder.mkdir(parents=True, exist_ok=True)
        numbers, figure = folder / f"{name}.json", folder / f"{name}.svg"
        numbers.write_text(json.dumps(rounded(self.numbers), indent=2) + "\n", encoding="utf-8")
        draw(self.panels, figure)
        return numbers, figure


def rounded(numbers: Numbers) -> dict[str, Any]:
    """The numbers with as many digits as a page shows, so that another machine's last bits change nothing."""
    return {name: _rounded(value) for name, value in numbers.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return rounded(value)
    if isinstance(value, float):
        return round(float(f"{value:.{DIGITS}g}"), SMALLEST) + 0.0  # never -0
    if isinstance(value, str | bool | int):
        return value
    return [_rounded(one) for one in value]


def draw(panels: Sequence[Panel], path: Path) -> None:
    """Writes the panels beside one another as an SVG. Raises PosttrainError where matplotlib is not installed."""
    try:
        import matplotlib as mpl  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        raise PosttrainError("figures need matplotlib\n  fix: pip install 'posttrain[dev]'") from None
    with mpl.rc_context({"svg.hashsalt": "posttrain", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(WIDE * len(panels), HIGH), layout="constrained")
        for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
            _lines(panel, axes) if panel.lines else _bars(panel, axes)
            axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y, yscale="log" if panel.log else "linear")
            axes.spines[["top", "right"]].set_visible(False)
            if panel.lines or len(panel.bars) > 1:
                axes.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _lines(panel: Panel, axes: Any) -> None:
    for (name, line), colour in zip(panel.lines.items(), COLOURS, strict=False):
        axes.plot(line.x, line.y, color=colour, label=name, linestyle="--" if line.dashed else "-")
        if line.band is not None:
            axes.fill_between(line.x, *line.band, color=colour, alpha=0.15, linewidth=0)


def _bars(panel: Panel, axes: Any) -> None:
    width = 0.8 / len(panel.bars)
    for number, ((name, heights), colour) in enumerate(zip(panel.bars.items(), COLOURS, strict=False)):
        places = [place + (number - (len(panel.bars) - 1) / 2) * width for place in range(len(panel.places))]
        axes.bar(places, heights, width, color=colour, label=name)
    axes.set_xticks(range(len(panel.places)), panel.places)
    if len(panel.places) > 4:
        axes.set_xticklabels(panel.places, rotation=25, ha="right")
    axes.axhline(0, color="black", linewidth=0.6)
