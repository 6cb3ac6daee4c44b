"""A report as plain JSON: every number as it was logged, none thinned out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import cast

from posttrain.records import JSON
from posttrain.report.parts import Folded, Part
from posttrain.report.reading import Read
from posttrain.report.report import Report


def facts_of(report: Report) -> dict[str, JSON]:
    """The runs, and every section with the facts behind it and its parts, each saying which `part` it is."""
    return {
        "title": report.title,
        "line": report.line,
        "runs": [_run(run) for run in report.runs],
        "sections": [
            {
                "id": section.id,
                "title": section.title,
                "facts": _plain(section.facts),
                "parts": [_part(part) for part in section.parts],
            }
            for section in report.sections
        ],
    }


def _run(run: Read) -> dict[str, JSON]:
    named = ("id", "command", "status", "started", "ended", "error", "results")
    return {"path": str(run.path), **{name: _plain(run.record[name]) for name in named if name in run.record}}


def _part(part: Part) -> JSON:
    kind = type(part).__name__.lower()
    if isinstance(part, Folded):
        return {"part": kind, "title": part.title, "parts": [_part(each) for each in part.parts]}
    facts = cast("dict[str, JSON]", _plain(asdict(part)))
    return {"part": kind, **facts}


def _plain(value: object) -> JSON:
    """The value in JSON's own kinds; null for a number that is not finite, and keys as text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in cast("Mapping[object, object]", value).items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in cast("Sequence[object]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str) or value is None else str(value)
