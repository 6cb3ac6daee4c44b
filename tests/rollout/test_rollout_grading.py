"""Sums and ensembles of rewards, and answers without a score: as if they had never been sampled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import pytest
import torch
from rows_at_hand import answers, prompt_numbers
from test_rollout_annotate import RULES, constant
from torch import Tensor

from posttrain.errors import Diverged
from posttrain.ops.ensemble import mean
from posttrain.rollout.annotate import Annotators, annotate, health
from posttrain.rollout.buffer import Rollouts
from posttrain.rollout.grading import Ensemble, Panel, Part, grades_of
from posttrain.types import Completion, Grades, Scorer, Ungraded


@dataclass(frozen=True)
class Fixed:
    """Gives these scores in order; None is a failure."""

    values: Sequence[float | None]
    name: str = "fixed"

    def __call__(self, completions: Sequence[Completion]) -> Tensor:
        return self.grade(completions).total

    def grade(self, completions: Sequence[Completion]) -> Grades:
        found = self.values[: len(completions)]
        return Grades(
            total=torch.tensor([math.nan if value is None else value for value in found]),
            failures=tuple(
                Ungraded(row=row, reward=self.name, reason="lost") for row, value in enumerate(found) if value is None
            ),
        )


BATCH = answers(2, 2)


def panel(*parts: tuple[str, Scorer, float]) -> Panel:
    return Panel([Part(name=name, scorer=scorer, weight=weight) for name, scorer, weight in parts])


def test_a_panel_is_the_weighted_sum_and_keeps_each_part_before_its_weight() -> None:
    rewards = panel(("one", Fixed([1.0, 2.0, 3.0, 4.0]), 2.0), ("two", lambda done: torch.ones(len(done)), -0.5))
    found = rewards.grade(BATCH)
    assert found.total.tolist() == [1.5, 3.5, 5.5, 7.5]
    assert rewards(BATCH).tolist() == [1.5, 3.5, 5.5, 7.5]
    assert {name: values.tolist() for name, values in found.parts.items()} == {
        "score/one": [1.0, 2.0, 3.0, 4.0],
        "score/two": [1.0] * 4,
    }


def test_an_ensemble_inside_a_panel_tells_how_far_its_members_are_apart() -> None:
    both = Ensemble("both", {"a": Fixed([1.0, 2.0, 3.0, 4.0]), "b": Fixed([3.0, 2.0, 3.0, 0.0])}, mean)
    found = panel(("both", both, 1.0)).grade(BATCH)
    assert found.total.tolist() == [2.0, 2.0, 3.0, 2.0]
    assert found.parts["score/both"].tolist() == [2.0, 2.0, 3.0, 2.0]
    assert found.parts["disagreement/both"].tolist() == [1.0, 0.0, 0.0, 2.0]


def test_an_answer_that_one_part_fails_on_has_no_sum_and_every_failure_is_told() -> None:
    rewards = panel(
        ("one", Fixed([1.0, None, 3.0, 4.0], "one"), 1.0), ("two", Fixed([None, None, 0.0, 0.0], "two"), 1.0)
    )
    found = grades_of(rewards, BATCH)
    assert found.total.isnan().tolist() == [True, True, False, False]
    assert [(failure.row, failure.reward) for failure in found.failures] == [(1, "one"), (0, "two"), (1, "two")]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_no_number_without_a_failure_stops_the_run_also_inside_a_sum(bad: float) -> None:
    rewards = panel(("rm", lambda done: torch.tensor([1.0, bad, 1.0, 1.0]), 1.0))
    with pytest.raises(Diverged, match=f"the reward rm of 1 answers is not finite.*{BATCH[1].prompt.id}"):
        grades_of(rewards, BATCH)


# --- what has no score takes no part -------------------------------------------------------------------------------


def annotated(batch: Sequence[Completion], scores: Sequence[float | None], **rules: object) -> Rollouts:
    """Annotated with a critic and a reference whose numbers go by the token, not by its place in a batch."""

    def by_token(tokens: object) -> Tensor:
        return torch.where(tokens.trained, tokens.tokens.float().sin(), 0)  # type: ignore[attr-defined]

    models = Annotators(
        reference=by_token, scorer=panel(("f", Fixed(scores, "f"), 1.0)), value=by_token, actor=None, budget=999
    )
    return annotate(batch, prompt_numbers(batch), models, replace(RULES, **rules), 0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "rules", [{"whiten": True}, {"baseline": "rloo"}, {"baseline": "group"}, {"baseline": "none", "whiten": True}]
)
def test_the_others_get_the_numbers_that_they_would_have_without_it(rules: dict[str, object]) -> None:
    batch = answers(4, 3)
    scores = [float((7 * n) % 5) for n in range(12)]
    lost = {1, 6, 11}
    with_failures = annotated(batch, [None if n in lost else scores[n] for n in range(12)], **rules)
    kept = [n for n in range(12) if n not in lost]
    without = annotated([batch[n] for n in kept], [scores[n] for n in kept], **rules)
    assert with_failures.completions == without.completions
    assert with_failures.prompts == without.prompts
    assert with_failures.numbers == without.numbers
    for part in fields(Rollouts):
        if part.name not in ("completions", "prompts", "parts", "failures", "numbers"):
            assert torch.equal(getattr(with_failures, part.name), getattr(without, part.name)), part.name
    told = health(with_failures)
    assert told.pop("unscored") == 3.0
    assert told == health(without)
    zero = annotated(batch, [0.0 if n in lost else scores[n] for n in range(12)], **rules)
    rows = [row for row in range(len(zero.response)) if int(zero.response[row]) in kept]
    assert not torch.allclose(zero.advantages[rows], without.advantages), "a score of zero would change the others"


def test_what_failed_is_told_with_its_answer_and_counted_once() -> None:
    batch = answers(2, 2)
    models = Annotators(
        reference=constant(0.0),
        scorer=panel(("a", Fixed([1.0, None, 2.0, 3.0], "a"), 1.0), ("b", Fixed([1.0, None, 2.0, 3.0], "b"), 1.0)),
        value=None,
        actor=None,
        budget=999,
    )
    found = annotate(batch, prompt_numbers(batch), models, RULES, 0.0)
    assert [each.facts() for each in found.failures] == [
        {"prompt": batch[1].prompt.id, "sample": 1, "reward": name, "error": "lost", "answer": batch[1].text}
        for name in ("a", "b")
    ]
    assert found.unscored == 1
    assert health(found)["score/a"] == pytest.approx(2.0)


def test_a_round_in_which_nothing_has_a_score_is_empty() -> None:
    found = annotated(BATCH, [None] * 4, whiten=True)
    assert (found.completions, found.unscored, len(found.advantages)) == ((), 4, 0)
