"""Facts about a tokenizer, a template and a mask, each with a verdict; the worst of them stop a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from posttrain.errors import DataError, ModelError, Problem

Verdict: TypeAlias = Literal["ok", "note", "refuse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing that was looked at. `rows` have it, the first of them at `place`; 0 where it is no matter of rows.

    `ok` is as it should be, `note` should be known, and with `refuse` no run starts.
    """

    name: str
    verdict: Verdict
    what: str
    fix: str = ""
    rows: int = 0
    place: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What a model's tokenizer and template make of `rows` rows. `template` says where the template comes from."""

    rows: int
    template: str
    facts: tuple[Fact, ...]

    @property
    def refusals(self) -> tuple[Fact, ...]:
        """The facts with which no run starts."""
        return tuple(fact for fact in self.facts if fact.verdict == "refuse")

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The refusals, each with its place and fix."""
        return tuple(Problem(place=fact.place, what=fact.what, fix=fact.fix) for fact in self.refusals)

    @property
    def notes(self) -> tuple[Fact, ...]:
        """The facts that should be known before a run starts."""
        return tuple(fact for fact in self.facts if fact.verdict == "note")


def refuse(diagnosis: Diagnosis) -> None:
    """Raises DataError or ModelError with all refusals at once; ModelError where none is a matter of rows."""
    if any(fact.rows for fact in diagnosis.refusals):
        raise DataError(diagnosis.problems)
    if diagnosis.problems:
        raise ModelError("\n".join(map(str, diagnosis.problems)))
