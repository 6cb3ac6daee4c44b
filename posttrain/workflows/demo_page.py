"""What the demo came to, as the first section of the page that compares its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from posttrain.report.parts import Answer, Answers, Cell, Part, Prose, Section, Table
from posttrain.workflows.outcome import BEFORE_AND_AFTER, Summary


def section(found: Summary) -> Section:
    """The sentences, the tables, and the same prompts before and after."""
    parts: list[Part] = [Prose(text=line) for line in found.sentences]
    for title, rows in found.tables:
        parts += _answers(rows) if title == BEFORE_AND_AFTER else [_table(title, rows)]
    return Section(id="outcome", title="What the demo came to", parts=parts)


def _table(title: str, rows: Sequence[Mapping[str, object]]) -> Table:
    columns = list(rows[0])
    return Table(columns=columns, rows=[[_cell(row[name]) for name in columns] for row in rows], caption=title)


def _cell(value: object) -> Cell:
    return value if isinstance(value, str | int | float) else str(value)


def _answers(rows: Sequence[Mapping[str, object]]) -> list[Part]:
    return [
        Answers(
            prompt=str(row["prompt"]),
            answers=[Answer(label=name, text=str(said)) for name, said in row.items() if name != "prompt"],
        )
        for row in rows
    ]
