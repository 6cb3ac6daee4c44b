"""What a simulated annotator makes of a pool of stories: rankings, and the ceiling for whoever learns from them.

No person is behind these labels, and every row says so. The annotator sees the hidden gold score through Bradley-Terry
noise: P(story i over story j) = sigmoid((gold_i - gold_j) / scale).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.stories.gold import gold_of
from posttrain.feedback.simulated import NAME, Annotator
from posttrain.workflows.world.annotator import Agreement, agreement

SCALE = 0.09
"""Makes four of five pairs of an instruction-tuned stories260k come out as the gold score has them."""


def rank_pool(pool: Path, ranked: Path, *, scale: float = SCALE, seed: int = 0) -> Agreement:
    """Writes the pool's answers with simulated ranks, and returns how often the ranks can be agreed with.

    The gold score is not written: nothing that trains on the file can read it.
    """
    annotator = Annotator(scale=scale, seed=seed)
    judged: list[tuple[list[float], list[int]]] = []
    lines: list[str] = []
    for row in map(json.loads, pool.read_text(encoding="utf-8").splitlines()):
        gold = gold_of_row(row)
        ranks = annotator.rank(row["id"], row["responses"], gold)
        judged.append((gold, ranks))
        kept = {name: row[name] for name in ("id", "messages", "responses", "stopped")}
        lines.append(json.dumps({**kept, "ranks": ranks, "annotator": NAME}, ensure_ascii=False) + "\n")
    ranked.write_text("".join(lines), encoding="utf-8")
    return agreement(judged, scale)


def gold_of_row(row: dict[str, Any]) -> list[float]:
    """The gold score of each answer of a pool's row."""
    answers: Sequence[tuple[str, bool]] = list(zip(row["responses"], row["stopped"], strict=True))
    return [gold_of(text, ended=ended).total for text, ended in answers]
