"""A report as Markdown: the same sections, a chart as the numbers where it begins, ends and turns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from posttrain.inert import inert
from posttrain.measures.finding import Finding
from posttrain.report.figures import finite
from posttrain.report.parts import Answers, Cell, Chart, Code, Folded, Inspector, Part, Prose, Series, Table, Warned
from posttrain.report.report import Report
from posttrain.report.shown import shown

MARK = "<!-- posttrain report -->"
"""The first line, by which a report knows what it may write over."""


def markdown(report: Report) -> str:
    """The report; no mark of Markdown or HTML in a text of data or models means anything."""
    blocks = [MARK, f"# {plain(report.title)}", plain(report.line)]
    for section in report.sections:
        blocks += [f"## {plain(section.title)}", *_blocks(section.parts)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _blocks(parts: Sequence[Part]) -> Iterator[str]:
    for part in parts:
        match part:
            case Prose():
                yield plain(part.text)
            case Code():
                yield fenced(part.text)
            case Table():
                yield _caption(part.caption) + table(part.columns, part.rows)
            case Chart():
                yield _chart(part)
            case Answers():
                yield _answers(part)
            case Warned():
                yield _found(part.finding)
            case Inspector():
                yield "The token inspector is part of the page, `report.html`."
            case Folded():
                yield f"**{plain(part.title)}**"
                yield from _blocks(part.parts)


def _found(finding: Finding) -> str:
    rule = f" ({plain(finding.rule)})" if finding.rule else ""
    return f"**{finding.state}**: {plain(finding.sentence)}{rule}"


def _chart(chart: Chart) -> str:
    rows = [_told(series) for series in chart.series]
    about = " · ".join(part for part in (plain(chart.about), f"`{chart.link}`" if chart.link else "") if part)
    marks = ", ".join(f"{plain(word)} at {shown(float(place))}" for place, word in sorted(chart.marks.items()))
    lines = [f"### {plain(chart.title)}", _found(chart.finding) if chart.finding else "", about]
    lines += [table([chart.y or chart.title, "first", "last", "lowest", "highest", "points"], rows), marks]
    return "\n\n".join(line for line in lines if line)


def _told(series: Series) -> list[Cell]:
    known = [float(value) for value in series.y if finite(value) is not None and value is not None]
    if not known:
        return [series.name, None, None, None, None, 0]
    return [series.name, known[0], known[-1], min(known), max(known), len(series.y)]


def _answers(part: Answers) -> str:
    rows = [("prompt", part.prompt)]
    for answer in part.answers:
        told = [answer.label, answer.note, "" if answer.stopped else "cut at the length limit"]
        rows.append((", ".join(word for word in told if word), answer.text))
    return "\n".join(f"- {plain(label)}:\n\n{_indented(fenced(said))}\n" for label, said in rows)


def _indented(block: str) -> str:
    return "\n".join(f"  {line}" for line in block.split("\n"))


def _caption(caption: str) -> str:
    return f"{plain(caption)}\n\n" if caption else ""


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Rows under their columns as a table."""
    lines = [[plain(name) for name in columns], ["---"] * len(columns)]
    lines += [[plain(shown(cell)) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plain(text: str) -> str:
    """Text on one line in which no mark of HTML or Markdown means anything, and nothing steers a terminal."""
    return re.sub(r"([\\`*_\[\]<>&#|~!])", r"\\\1", inert(" ".join(text.split())))


def fenced(text: str) -> str:
    """Text between fences that are longer than any in it; what would steer a terminal is spelt out."""
    text = inert(text)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
