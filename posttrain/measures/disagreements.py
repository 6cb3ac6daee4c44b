"""The rankings in which a reward model is surest of the worse answer, with their texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from posttrain.measures.answered import cut
from posttrain.measures.rewards import Scores
from posttrain.ops.ranking import pairs_from_ranks

MOST = 12
"""The rankings that are kept of a card."""

Reader = Callable[[Sequence[int]], str]
"""Tokens as text, for reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """A ranking with its texts and raw scores. `gap`: by how much the worst of its pairs is scored the wrong way."""

    gap: float
    id: str
    annotator: str | None
    prompt: str
    answers: Sequence[str]
    ranks: Sequence[int | None]
    scores: Sequence[float]

    def facts(self) -> dict[str, object]:
        """The same as plain values, for JSON."""
        rows = zip(self.answers, self.ranks, self.scores, strict=True)
        return {
            "gap": self.gap,
            "id": self.id,
            **({} if self.annotator is None else {"annotator": self.annotator}),
            "prompt": self.prompt,
            "answers": [{"text": text, "rank": rank, "score": score} for text, rank, score in rows],
        }


def disagreements(rankings: Sequence[Scores], read: Reader, most: int = MOST) -> list[Disagreement]:
    """The rankings whose worse answers score the highest above the better ones, the largest gap first.

    Those that the model orders as people did are none. Texts are cut where they are very long.
    """
    gaps = [(_gap(each), place) for place, each in enumerate(rankings)]
    wrong = sorted((gap, place) for gap, place in gaps if gap < 0)[:most]
    return [_told(rankings[place], -gap, read) for gap, place in wrong]


def _gap(each: Scores) -> float:
    """The least, over pairs, of the better answer's score less the worse one's; 0 for a ranking without a pair."""
    scores = each.scores.tolist()
    return min(
        (scores[better] - scores[worse] for better, worse in pairs_from_ranks(each.item.ranks).strict), default=0.0
    )


def _told(each: Scores, gap: float, read: Reader) -> Disagreement:
    group = each.item.group
    return Disagreement(
        gap=gap,
        id=group.id,
        annotator=each.item.annotator,
        prompt=cut(read(group.root.tokens)),
        answers=[cut(read(branch.tokens)) for branch in group.branches],
        ranks=each.item.ranks,
        scores=each.scores.tolist(),
    )
