"""A report as one page of HTML that opens from disk, asks no one, and in which no text of data or models does anything.

Texts are escaped by the templates; what the scripts read stands in data blocks, in which `<` is an escape. The content
security policy allows the two scripts by their hashes and nothing else; styles may stand in elements, since plotly
writes them there, and nothing that a style could ask for is allowed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from posttrain.records import JSON
from posttrain.report import scripts
from posttrain.report.figures import figure
from posttrain.report.parts import Chart, Folded, Inspector, Part
from posttrain.report.report import Report
from posttrain.report.shown import shown

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parts of one kind in a row: charts stand side by side."""

    kind: str
    parts: Sequence[Part]


def page(report: Report, *, linked: bool = False, served: bool = False) -> str:
    """The page. `linked`: plotly's script stands in a file beside it (`scripts.PLOTLY`), and is not part of it.

    `served`: by `posttrain report --serve`, which the page may ask.
    """
    plotly, own = scripts.plotly(), _own_script()
    return _template().render(
        report=report,
        policy=_policy(plotly, own, linked=linked, served=served),
        styles=Markup(scripts.styles()),
        plotly=None if linked else Markup(plotly),
        script=Markup(own),
        figures=data_block({chart.id: figure(chart) for chart in _charts(report)}),
        served=served,
    )


def _policy(plotly: str, own: str, *, linked: bool, served: bool) -> str:
    """The content security policy."""
    # A file on the disk has no origin: what stands beside it goes by the scheme.
    beside = ("'self' file:" if linked else scripts.allowed(plotly)) + f" {scripts.allowed(own)}"
    rules = ["default-src 'none'", f"script-src {beside}", "style-src 'unsafe-inline'", "img-src data:"]
    rules += ["connect-src 'self'"] * served
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


def _own_script() -> str:
    return "\n" + scripts.own_script()


def data_block(facts: object) -> Markup:
    """JSON for a data block of the page: nothing in it can end the block."""
    text = json.dumps(facts, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))


def _charts(report: Report) -> Iterator[Chart]:
    for section in report.sections:
        yield from charts_in(section.parts)


def charts_in(parts: Sequence[Part]) -> Iterator[Chart]:
    """All charts among parts, folded ones too."""
    for part in parts:
        if isinstance(part, Chart):
            yield part
        elif isinstance(part, Folded):
            yield from charts_in(part.parts)


def groups(parts: Sequence[Part]) -> list[Group]:
    """Parts in their order, neighbours of one kind together."""
    return [Group(kind=kind, parts=list(found)) for kind, found in groupby(parts, key=kind_of)]


def kind_of(part: Part) -> str:
    """The name of a part's kind, which its macro has too."""
    return type(part).__name__.lower()


def summary_of(chart: Chart) -> str:
    """A chart in words, for those who do not see it: of each line where it began and ended."""
    told: list[str] = []
    for series in chart.series:
        known = [value for value in series.y if value is not None]
        if known:
            name = f"{series.name}: " if len(chart.series) > 1 else ""
            ends = (
                shown(float(known[0])) if len(known) == 1 else f"{shown(float(known[0]))} → {shown(float(known[-1]))}"
            )
            told.append(name + ends)
    return "; ".join(told)


def inspection(part: Inspector) -> Markup:
    """What the inspector's script reads."""
    facts: dict[str, JSON] = dict(part.data)
    return data_block(facts)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = cast("dict[str, Any]", found.filters)
    filters.update(shown=shown, groups=groups, summary=summary_of, inspection=inspection)
    return found


def _template() -> Template:
    return _environment().get_template("page.html")
