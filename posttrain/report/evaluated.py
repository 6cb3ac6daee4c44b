"""Answers of stored evaluations, beside those of the model that they were compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.report.facts import is_number
from posttrain.report.parts import Answer, Answers
from posttrain.report.reading import Read
from posttrain.report.shown import shown
from posttrain.report.stored import stored


def compared_answers(run: Read) -> Sequence[Answers]:
    """The prompts of the newest evaluation that compared this run with its start and kept what both said."""
    for found in reversed(stored(run)):
        if not found.is_against(run.settings.get("model")):
            continue
        pairs = [_pair(row, str(found.against)) for row in found.prompts]
        if known := [pair for pair in pairs if pair is not None]:
            return known
    return []


def _pair(row: Mapping[str, Any], against: str) -> Answers | None:
    theirs = {name.removeprefix("against_"): value for name, value in row.items() if name.startswith("against_")}
    if not isinstance(theirs.get("answer"), str):
        return None
    return Answers(prompt=row["prompt"], answers=[answer_of(theirs, f"before: {against}"), answer_of(row, "after")])


def answer_of(row: Mapping[str, Any], label: str) -> Answer:
    """A row with an `answer`, and with `stopped` and `score` where they are known."""
    said, score = row.get("answer"), row.get("score")
    return Answer(
        label=label,
        text=said if isinstance(said, str) else "",
        stopped=row.get("stopped") is not False,
        note=f"score {shown(float(score))}" if is_number(score) else "",
    )
