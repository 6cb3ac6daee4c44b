"""What `posttrain runs` is asked: the runs below a folder, or what differs between two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from posttrain.config.flags import asked_of_runs
from posttrain.console import Console
from posttrain.console.page import Line, Tone, line
from posttrain.run.differing import Difference, diff
from posttrain.run.differing_page import page
from posttrain.run.listing import COLUMNS, Listing, State, list_runs

_TONES: Mapping[State, Tone] = {"done": "plain", "running": "good"}


def answer(words: Sequence[str], console: Console, *, plain: bool) -> tuple[Listing | Difference, int]:
    """What was found, shown unless `plain`, and the exit code: of a difference that of `diff`, 1 where runs differ."""
    folders = asked_of_runs(words)
    if len(folders) == 2:
        found = diff(*folders)
        console.page([] if plain else page(found))
        return found, 0 if found.identical else 1
    listing = list_runs(folders[0])
    console.page([] if plain else lines_of(listing))
    return listing, 0


def lines_of(listing: Listing) -> list[Line]:
    """A line for each run under a heading, in columns as wide as what stands in them."""
    if not listing.runs:
        return [line("", f"no run below {listing.folder}")]
    rows = [run.cells(listing.folder) for run in listing.runs]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    found = [line("", (_row(COLUMNS, widths), "dim"))]
    for run, cells in zip(listing.runs, rows, strict=True):
        found.append(line("", (_row(cells, widths), _TONES.get(run.state, "bad"))))
    return found


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
