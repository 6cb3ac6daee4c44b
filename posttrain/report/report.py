"""The report of one run: its sections, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TypeAlias

from posttrain.report.parts import Section
from posttrain.report.reading import Read

# What it came to, then how it got there, then what it took.
ORDER = (
    "verdict",
    "lineage",
    "curves",
    "answers",
    "ppo",
    "reward",
    "dpo",
    "evaluation",
    "inspector",
    "losses",
    "cost",
    "reproduce",
)
Making: TypeAlias = Callable[[Read], Section | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a page shows. `line`: one line under the title. `runs`: whose report it is, several where it compares."""

    title: str
    line: str
    runs: Sequence[Read]
    sections: Sequence[Section]


def report_of(run: Read, instead: Mapping[str, Making] | None = None) -> Report:
    """The report of a run, whether it is done, goes on, or ended badly; sections without data are left out.

    `instead`: what makes sections in the place of those of that name.
    """
    found = [section for make in _makers(instead=instead) if (section := make(run)) is not None]
    return Report(title=name_of(run), line=line_of(run), runs=[run], sections=found)


def verdict_of(run: Read) -> Section | None:
    """What the page of a run says first; None where there is nothing to say yet."""
    return next((make(run) for make in _makers(("verdict",))), None)


def name_of(run: Read) -> str:
    """The name of a run's folder."""
    return run.path.resolve().name or str(run.path)


def line_of(run: Read) -> str:
    """`ppo from runs/sft · done · 2026-11-27`."""
    start = run.settings.get("model")
    what = f"{run.command} from {start}" if start else run.command
    return " · ".join([what, run.record["status"], run.record["started"][:10]])


def _makers(names: Sequence[str] = ORDER, instead: Mapping[str, Making] | None = None) -> Iterator[Making]:
    for name in names:
        if instead and name in instead:
            yield instead[name]
            continue
        place = f"posttrain.report.sections.{name}"
        if find_spec(place) is not None:
            yield getattr(import_module(place), name)
