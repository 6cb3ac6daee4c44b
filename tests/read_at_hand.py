"""Runs as a report reads them, made up: what is not given is what a finished run without anything has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.report.parts import Answers, Chart, Code, Folded, Part, Prose, Section, Table, Warned
from posttrain.report.reading import Read

Facts = dict[str, Any]


def a_run(
    command: str = "ppo",
    *,
    metrics: Sequence[Facts] = (),
    settings: Mapping[str, Any] | None = None,
    card: Facts | None = None,
    evaluations: Sequence[Facts] = (),
    **record: Any,
) -> Read:
    """A run `runs/it` from `runs/sft`, done unless `record` says otherwise."""
    facts = {
        "id": "abc", "command": command, "status": "done", "started": "2026-01-02T03:04:05.678+00:00",
        "parents": {"model": {"name": "runs/sft"}, "reward": {"name": "runs/rm"}},
    }  # fmt: skip
    return Read(
        path=Path("runs/it"),
        record=facts | record,
        settings={"model": "runs/sft"} if settings is None else dict(settings),
        metrics=metrics,
        samples=[],
        card=card,
        evaluations=evaluations,
        inspected=[],
    )


def an_evaluation(**changed: Any) -> Facts:
    """Four prompts against `runs/sft` by a judge that the run was not trained on."""
    facts: Facts = {
        "format": 1, "made": "2026-02-03T04:05:06.000+00:00", "run": "abc", "by": "eval", "model": "runs/it",
        "against": "runs/sft", "judges": ["gold.py:score"], "data": ["data/held_out.jsonl"], "count": 4,
        "measures": {"kl_per_answer": 6.25, "median_tokens": 12.0},
        "estimates": {
            "win_rate": {"value": 0.625, "interval": [0.55, 0.7], "count": 4},
            "gain": {"value": 0.5, "interval": [0.25, 0.75], "count": 4},
        },
        "per_prompt": {
            "tokens": [3, 4, 5, 6], "stopped": [True, True, True, False], "score": [1.0, -2.0, 0.5, None],
            "against_score": [0.0, 1.0, 0.5, 0.0], "win": [1.0, 0.0, 0.5, None],
        },
        "prompts": [
            {
                "place": place, "prompt": f"prompt {place}", "answer": f"ours {place}", "stopped": place < 3,
                "score": score, "against_answer": f"theirs {place}", "against_stopped": True, "against_score": other,
            }
            for place, score, other in ((0, 1.0, 0.0), (1, -2.0, 1.0), (2, 0.5, 0.5))
        ],
    }  # fmt: skip
    return facts | changed


def flat(parts: Sequence[Part]) -> list[Part]:
    """All parts, those that a reader opens too."""
    return [each for part in parts for each in ([*flat(part.parts)] if isinstance(part, Folded) else [part])]


def said(section: Section | None) -> str:
    """All prose of a section, and the sentences of its findings."""
    assert section is not None
    lines: list[str] = []
    for part in flat(section.parts):
        if isinstance(part, Prose | Code):
            lines.append(part.text)
        elif isinstance(part, Warned) or (isinstance(part, Chart) and part.finding is not None):
            lines.append(part.finding.sentence)
    return "\n".join(lines)


def charts(section: Section | None) -> dict[str, Chart]:
    """The charts of a section by their id."""
    assert section is not None
    return {part.id: part for part in flat(section.parts) if isinstance(part, Chart)}


def tables(section: Section | None) -> list[Table]:
    """The tables of a section."""
    assert section is not None
    return [part for part in flat(section.parts) if isinstance(part, Table)]


def answers(section: Section | None) -> list[Answers]:
    """The prompts with answers of a section."""
    assert section is not None
    return [part for part in flat(section.parts) if isinstance(part, Answers)]
