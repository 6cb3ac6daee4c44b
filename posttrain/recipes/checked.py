"""What `check` finds: the facts of one data file, and whether a run would take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from posttrain.errors import Problem
from posttrain.text.diagnosis import Diagnosis
from posttrain.text.pieces import Piece
from posttrain.types import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Lengths of rows in `unit`, which is tokens or characters.

    `histogram` counts them in equal steps from the shortest to the `longest`.
    """

    unit: str
    p50: int
    p95: int
    longest: int
    total: int
    histogram: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rankings:
    """Ranked answers. `answers`: prompts by their number of answers. Pairs are of answers with different ranks.

    `better` and `worse`: mean lengths of the answers of a pair. `longer_wins`: the share of pairs in which the better
    answer is the longer one, those of equal length left out.
    """

    prompts: int
    answers: Mapping[int, int]
    pairs: int
    ties: int
    unranked: int
    margins: int
    weights: int
    annotators: int
    better: float
    worse: float
    longer_wins: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Answers that were found good or bad without a comparison."""

    good: int
    bad: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leakage:
    """Rows of data whose prompt is in `eval_data` too, letter case and spaces aside. `places` are the first of them."""

    eval_data: str
    prompts: int
    rows: int
    places: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A row, or an answer of one, as it would be trained."""

    id: str
    title: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedFile:
    """One source of rows. `rows` = `ok` + `bad` + `duplicates`; a row may become several `records`.

    `commands` take the file as it is, `prompts_for` take its prompts. `targets`: what a head would be trained
    to say, None without labels. `columns`: what is kept of prompts, with the
    number of rows that have it. `limit` is max_length, and `overlong` the records that are longer; both are None
    without a model, as are `trained_share` and `diagnosis`. `refusals` say why a run would not start.
    """

    path: str
    format: str
    kind: Kind
    commands: tuple[str, ...]
    prompts_for: tuple[str, ...]
    size: int | None
    rows: int
    records: int
    ok: int
    bad: int
    duplicates: int
    problems: tuple[Problem, ...]
    lengths: Lengths | None
    limit: int | None
    overlong: int | None
    trained_share: float | None
    diagnosis: Diagnosis | None
    rankings: Rankings | None
    labels: Labels | None
    targets: str | None
    columns: Mapping[str, int]
    leakage: Leakage | None
    shown: tuple[Shown, ...]
    refusals: tuple[Problem, ...]
    trainable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a run would make of the data. `trainable`: none of the files would be refused."""

    files: tuple[CheckedFile, ...]
    trainable: bool

    @property
    def refused(self) -> str:
        """Why a run would refuse a file, in one line, or nothing when it would refuse none."""
        for file in self.files:
            if file.refusals:
                commands, more = " and ".join(file.commands), len(file.refusals) - 1
                others = f" (and {more} more)" if more else ""
                return f"{commands} would refuse {file.path}: {file.refusals[0].what}{others}"
        return ""
