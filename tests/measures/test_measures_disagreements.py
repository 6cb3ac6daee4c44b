"""The rankings that a reward model has most wrong: which they are, in which order, and what is kept of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from posttrain.data.examples import RankedItem
from posttrain.measures.answered import LONGEST
from posttrain.measures.disagreements import disagreements
from posttrain.measures.reward_card import findings_of
from posttrain.measures.rewards import Scores
from posttrain.types import PrefixGroup, Span


def ranking(name: str, ranks: Sequence[int | None], scores: Sequence[float], *, by: str | None = None) -> Scores:
    """A ranking whose prompt is the token 7 and whose answers are the tokens 0, 1 and so on."""
    group = PrefixGroup(
        id=name,
        root=Span.all((7,), trained=False),
        branches=tuple(Span.all((place,), trained=False) for place in range(len(ranks))),
    )
    item = RankedItem(group=group, ranks=tuple(ranks), weight=1.0, margin=0.0, annotator=by)
    return Scores(item=item, scores=torch.tensor(scores))


def spelt(tokens: Sequence[int]) -> str:
    return " ".join(f"t{token}" for token in tokens)


def test_the_largest_gap_the_wrong_way_round_stands_first_and_agreement_is_left_out() -> None:
    rankings = [
        ranking("right", [1, 2], [2.0, 1.0]),
        ranking("a little", [1, 2], [0.0, 0.5]),
        ranking("one of three", [1, 2, 3], [3.0, 1.0, 2.5]),
        ranking("most", [2, 1], [4.0, 0.0]),
        ranking("tied", [1, 1], [0.0, 9.0]),
        ranking("not ranked", [1, None], [0.0, 9.0]),
    ]
    found = disagreements(rankings, spelt)
    assert [(each.id, each.gap) for each in found] == [("most", 4.0), ("one of three", 1.5), ("a little", 0.5)]
    assert [each.id for each in disagreements(rankings, spelt, most=1)] == ["most"]


def test_a_disagreement_has_its_texts_ranks_scores_and_who_ranked() -> None:
    [found] = disagreements([ranking("f:3", [2, 1, None], [4.0, 0.0, 1.0], by="anna")], spelt)
    assert found.facts() == {
        "gap": 4.0, "id": "f:3", "annotator": "anna", "prompt": "t7",
        "answers": [
            {"text": "t0", "rank": 2, "score": 4.0},
            {"text": "t1", "rank": 1, "score": 0.0},
            {"text": "t2", "rank": None, "score": 1.0},
        ],
    }  # fmt: skip
    [long] = disagreements([ranking("f:3", [2, 1], [4.0, 0.0])], lambda tokens: "x" * 10_000)
    assert len(long.prompt) == len(long.answers[0]) == LONGEST


def test_a_card_has_them_where_texts_were_asked_for() -> None:
    rankings = [ranking("f:3", [2, 1], [4.0, 0.0])]
    assert findings_of(rankings).facts()["disagreements"] == []
    assert len(findings_of(rankings, spelt).disagreements) == 1
