"""Answers of stored evaluations, beside those of the model that they were compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from posttrain.report.facts import is_number, text
from posttrain.report.parts import Answer, Answers
from posttrain.report.reading import Read
from posttrain.report.shown import shown
from posttrain.run.folder import Facts


def compared_answers(run: Read) -> Sequence[Answers]:
    """The prompts of the newest evaluation that compared with another model and kept what both said."""
    for found in reversed(run.evaluations):
        rows = found.get("prompts")
        pairs = [_pair(cast("Facts", row), text(found, "against")) for row in rows] if isinstance(rows, list) else []
        if known := [pair for pair in pairs if pair is not None]:
            return known
    return []


def _pair(row: Facts, against: str) -> Answers | None:
    theirs = {name.removeprefix("against_"): value for name, value in row.items() if name.startswith("against_")}
    if not all(isinstance(each, str) for each in (row.get("prompt"), row.get("answer"), theirs.get("answer"))):
        return None
    return Answers(prompt=row["prompt"], answers=[answer_of(theirs, f"before: {against}"), answer_of(row, "after")])


def answer_of(row: Facts, label: str) -> Answer:
    """A row with an `answer`, and with `stopped` and `score` where they are known."""
    said, score = row.get("answer"), row.get("score")
    return Answer(
        label=label,
        text=said if isinstance(said, str) else "",
        stopped=row.get("stopped") is not False,
        note=f"score {shown(float(score))}" if is_number(score) else "",
    )
