"""Answers to pairs: which of them, what equal scores make, and rounds that go on where they stopped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from rows_at_hand import answers, prompt_numbers

from posttrain.data.pack import Budget
from posttrain.errors import DataError
from posttrain.rollout.asking import Asking
from posttrain.rollout.pairs import (
    Judged,
    PairPlan,
    PairSource,
    Which,
    answer_sums,
    health,
    ranked,
    ranks_of,
)
from posttrain.types import Completion, Prompt, RankedBatch, SamplingSpec, Step

NAN = math.nan


def plan(pairs: Which = "best_worst", *, penalty: float = 0.0, rounds: int = 4) -> PairPlan:
    return PairPlan(rounds=rounds, pairs=pairs, missing_eos_penalty=penalty, budget=Budget(64))


def judged(scores: Sequence[float], group: int = 4, *, reference: bool = True) -> Judged:
    done = [replace(answer, stopped=True) for answer in answers(len(scores) // group, group)]
    held = torch.arange(float(len(done))) if reference else None
    return Judged(completions=done, prompts=prompt_numbers(done), scores=torch.tensor(scores), reference=held)


@pytest.mark.parametrize(
    ("scores", "best_worst", "all_pairs"),
    [
        ([1.0, 3.0, 2.0], [2, 1, None], [3, 1, 2]),
        ([1.0, 3.0, 3.0, 1.0], [2, 1, None, None], [2, 1, 1, 2]),  # the first of the best, the first of the worst
        ([2.0, 2.0], None, None),
        ([NAN, 1.0, 2.0], [None, 2, 1], [None, 2, 1]),
        ([NAN, 1.0, NAN], None, None),
    ],
)
def test_the_tiers_of_scores(
    scores: list[float], best_worst: list[int | None] | None, all_pairs: list[int | None] | None
) -> None:
    assert ranks_of(scores, "best_worst") == best_worst
    assert ranks_of(scores, "all") == all_pairs


def test_a_prompt_whose_answers_score_alike_makes_no_pair_and_is_counted() -> None:
    found = judged([1.0, 0.0, 5.0, 2.0, 3.0, 3.0, 3.0, 3.0])
    [item] = ranked(found, plan())
    assert item.group.id == found.completions[0].prompt.id
    assert [branch.tokens for branch in item.group.branches] == [
        found.completions[1].tokens,
        found.completions[2].tokens,
    ]
    assert (item.ranks, item.reference) == ((2, 1), (1.0, 2.0))
    [every] = ranked(found, plan("all"))
    assert (every.ranks, every.reference) == ((3, 4, 1, 2), (0.0, 1.0, 2.0, 3.0))
    metrics = health(found, [item], plan())
    assert metrics["paired"] == 0.5
    assert metrics["score_margin"] == pytest.approx((5.0 + 0.0) / 2)
    assert metrics["score"] == pytest.approx(2.5)


def test_an_answer_that_was_cut_loses_the_penalty_before_it_is_compared() -> None:
    found = judged([1.0, 0.9, 0.8, 0.7])
    cut = [replace(answer, stopped=place > 0) for place, answer in enumerate(found.completions)]
    found = replace(found, completions=cut)
    assert ranked(found, plan())[0].ranks == (1, 2)  # the first against the last
    assert health(found, [], plan(penalty=1.0))["reward"] == pytest.approx((0.0 + 0.9 + 0.8 + 0.7) / 4)
    assert health(found, [], plan(penalty=1.0))["score"] == pytest.approx((1.0 + 0.9 + 0.8 + 0.7) / 4)
    [item] = ranked(found, plan(penalty=1.0))
    assert [branch.tokens for branch in item.group.branches] == [cut[0].tokens, cut[1].tokens]
    assert item.ranks == (2, 1)


def test_the_kl_is_the_mean_over_answers_of_the_sampled_log_ratio() -> None:
    found = judged([1.0, 0.0, NAN, 2.0])
    sums = [sum(answer.logprobs) for answer in found.completions]
    metrics = health(found, ranked(found, plan()), plan())
    assert metrics["kl"] == pytest.approx(sum(mine - held for mine, held in zip(sums, range(4), strict=True)) / 4)
    assert (metrics["unscored"], metrics["score"], metrics["reward"]) == (1.0, 1.0, 1.0)
    assert "kl" not in health(judged([1.0, 0.0, 0.0, 2.0], reference=False), [], plan())


def test_a_quantity_of_all_answer_tokens_is_summed_by_answer() -> None:
    done = answers(2, 2)
    lengths = [len(answer.tokens) for answer in done]
    assert answer_sums(torch.ones(sum(lengths)), done).tolist() == lengths


# --- rounds -----------------------------------------------------------------------------------------------------


def source(rounds: int, scores: Sequence[float], group: int = 2) -> PairSource:
    pool = answers(6, 1)
    prompts = [answer.prompt for answer in pool]

    def sampler(asked: Sequence[Prompt], spec: SamplingSpec) -> list[Completion]:
        # what an answer is depends on the round, the prompt and its number alone
        return [
            replace(pool[0], prompt=prompt, sample=n, tokens=(spec.round + 1, n + 1), logprobs=(0.0, 0.0), stopped=True)
            for prompt in asked
            for n in range(spec.samples)
        ]

    asking = Asking(
        prompts=prompts, sampler=sampler, spec=SamplingSpec(max_new_tokens=4), rollouts=4, group=group, seed=3
    )

    def judge(completions: Sequence[Completion], numbers: Sequence[int]) -> Judged:
        return Judged(completions=completions, prompts=numbers, scores=torch.tensor(scores), reference=torch.zeros(4))

    return PairSource(asking, judge, plan(rounds=rounds), watch=lambda *_: None)


def shown(step: Step) -> tuple[list[str], list[list[int]], dict[str, float]]:
    batches = [batch for batch in step.micro_batches if isinstance(batch, RankedBatch)]
    return list(step.rows), [batch.tokens.tokens.tolist() for batch in batches], dict(step.metrics)


def test_a_round_is_one_update_over_all_of_its_pairs() -> None:
    [step] = source(1, [1.0, 2.0, 5.0, 4.0])
    assert step.counts["pairs"] == 2.0
    assert len(step.rows) == 2
    assert (step.metrics["round"], step.metrics["paired"]) == (1.0, 1.0)


def test_a_round_without_a_pair_is_a_step_that_changes_nothing() -> None:
    steps = list(source(2, [1.0, 1.0, 2.0, 2.0]))
    assert [list(step.micro_batches) for step in steps] == [[], []]
    assert steps[0].metrics["paired"] == 0.0


def test_rounds_go_on_where_a_state_was_taken() -> None:
    scores = [1.0, 2.0, 5.0, 4.0]
    whole = [shown(step) for step in source(4, scores)]
    first, second = source(4, scores), source(4, scores)
    begun = iter(first)
    early = [shown(next(begun)), shown(next(begun))]
    second.load_state(first.state())
    assert [*early, *(shown(step) for step in second)] == whole
    with pytest.raises(DataError, match="began with 7 prompts, and 6"):
        second.load_state({**first.state(), "prompts": 7})
