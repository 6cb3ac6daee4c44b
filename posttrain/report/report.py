"""The report of one run: its sections, in the order of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from posttrain.report.parts import Section
from posttrain.report.reading import Read
from posttrain.report.sections.answers import answers
from posttrain.report.sections.cost import cost
from posttrain.report.sections.curves import curves
from posttrain.report.sections.dpo import dpo
from posttrain.report.sections.evaluation import evaluation
from posttrain.report.sections.inspector import inspector
from posttrain.report.sections.lineage import lineage
from posttrain.report.sections.losses import losses
from posttrain.report.sections.ppo import ppo
from posttrain.report.sections.reproduce import reproduce
from posttrain.report.sections.reward import reward
from posttrain.report.sections.verdict import verdict

Making: TypeAlias = Callable[[Read], Section | None]
# What it came to, then how it got there, then what it took.
SECTIONS: Mapping[str, Making] = {
    make.__name__: make
    for make in (
        verdict, lineage, curves, answers, ppo, reward, dpo, evaluation, inspector, losses, cost, reproduce,
    )
}  # fmt: skip


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
    makers = {**SECTIONS, **(instead or {})}
    found = [section for make in makers.values() if (section := make(run)) is not None]
    return Report(title=name_of(run), line=line_of(run), runs=[run], sections=found)


def name_of(run: Read) -> str:
    """The name of a run's folder."""
    return run.path.resolve().name or str(run.path)


def line_of(run: Read) -> str:
    """`ppo from runs/sft · done · 2026-11-27`."""
    start = run.settings.get("model")
    what = f"{run.command} from {start}" if start else run.command
    return " · ".join([what, run.record["status"], run.record["started"][:10]])
