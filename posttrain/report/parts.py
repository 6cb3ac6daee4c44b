"""A report as plain data: sections of parts, which one renderer each turns into HTML, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from posttrain.measures.finding import Finding
from posttrain.records import JSON

Cell: TypeAlias = str | float | int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prose:
    """A paragraph; plain text, which every renderer escapes."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Text to be copied as it stands: commands, settings."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells under `columns`; numbers stand as numbers, and are shown with four digits."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a chart. `low` and `high`, where known, are an interval around `y`; None is a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A plot with the sentence that says what it shows. `id` is unique in a page.

    `marks`: places on the x axis with a word each, such as where a run went on after an interruption. `about` is one
    line on what is plotted, and `link` where its formula stands (`docs/methods.md#...`).
    """

    id: str
    title: str
    series: Sequence[Series]
    x: str = "step"
    y: str = ""
    kind: Literal["line", "points", "bars"] = "line"
    log: bool = False
    marks: Mapping[float, str] = field(default_factory=dict[float, str])
    finding: Finding | None = None
    about: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model said. `note` is short: a score, a step, that the length limit cut it."""

    label: str
    text: str
    stopped: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Answers to one prompt, side by side."""

    prompt: str
    answers: Sequence[Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """A finding that belongs to no chart."""

    finding: Finding


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspector:
    """The token inspector; `data` is what its page needs of the rollouts that the page carries."""

    data: Mapping[str, JSON]


Part: TypeAlias = "Prose | Code | Table | Chart | Answers | Warned | Inspector | Folded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """Parts that a reader opens."""

    title: str
    parts: Sequence[Part]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page under a heading. `facts` are the numbers behind it, for `--json`."""

    id: str
    title: str
    parts: Sequence[Part]
    facts: Mapping[str, JSON] = field(default_factory=dict[str, JSON])
