"""Rewards, advantages and returns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from posttrain.ops.credit import (
    BASELINES,
    FORMS,
    gae,
    group_advantages,
    rloo_advantages,
    scaled_scores,
    sequence_rewards,
    settled_scores,
    spread_rewards,
    token_rewards,
)

# A prompt of 2, two responses of 3 and 2, the second with an untrained word between; NaN where nothing may be read.
RESPONSE = torch.tensor([-1, -1, 0, 0, 0, -1, 1, 1, 1])
TRAINED = torch.tensor([False, False, True, True, True, False, True, False, True])
KL = torch.tensor([math.nan, math.nan, 0.1, 0.2, 0.3, math.nan, 0.4, math.nan, 0.6])
SCORE = torch.tensor([1.0, -2.0])


def test_the_token_form_puts_the_score_on_the_last_token_and_the_penalty_on_each() -> None:
    rewards = token_rewards(SCORE, KL, RESPONSE, TRAINED, 0.5)
    torch.testing.assert_close(rewards, torch.tensor([0, 0, -0.05, -0.1, 0.85, 0, -0.2, 0, -2.3]))


def test_the_sequence_form_puts_everything_on_the_last_token() -> None:
    rewards = sequence_rewards(SCORE, KL, RESPONSE, TRAINED, 0.5)
    torch.testing.assert_close(rewards, torch.tensor([0, 0, 0, 0, 0.9, 0, 0, 0, -2.25]))


def test_the_spread_form_shares_the_score_evenly() -> None:
    rewards = spread_rewards(torch.tensor([3.0, -2.0]), KL, RESPONSE, TRAINED, 0.5)
    torch.testing.assert_close(rewards, torch.tensor([0, 0, 0.95, 0.9, 0.85, 0, -1.2, 0, -1.3]))


@pytest.mark.parametrize("form", ["token", "spread"])
def test_rewards_of_a_response_sum_to_the_score_less_the_summed_kl(form: str) -> None:
    rewards = FORMS[form](SCORE, KL, RESPONSE, TRAINED, 0.5)
    totals = [rewards[row == RESPONSE].sum().item() for row in range(2)]
    assert totals == pytest.approx([1 - 0.5 * 0.6, -2 - 0.5 * 1.0])


def test_the_score_lands_on_the_last_response_token_not_where_the_notes_listing_puts_it() -> None:
    prompt, answer, padding = 3, 4, 2
    trained = torch.tensor([False] * prompt + [True] * answer + [False] * padding)
    response = torch.where(trained, 0, -1)
    kl = torch.zeros(len(trained))
    # as in the listing, an action has the index of the state before it: 2..5 for the tokens at 3..6
    actions = range(prompt - 1, prompt - 1 + answer)
    ends = prompt + answer
    (place,) = token_rewards(torch.ones(1), kl, response, trained, 0.1).nonzero().flatten().tolist()
    assert place - 1 == actions[-1] == 5
    assert ends - actions[-1] == 2


def test_scores_are_clipped_before_the_penalty_for_not_ending() -> None:
    score = torch.tensor([9.0, 9.0, -0.5])
    stopped = torch.tensor([True, False, False])
    assert settled_scores(score, stopped, clip=5.0, missing_eos_penalty=1.0).tolist() == [5.0, 4.0, -1.5]
    assert settled_scores(score, stopped, clip=None, missing_eos_penalty=0.0).tolist() == score.tolist()


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("after", [0, 2])
def test_the_golden_response_of_three_tokens_whatever_surrounds_it(before: int, after: int) -> None:
    trained = torch.tensor([False] * before + [True] * 3 + [False] * after)
    rewards = torch.where(trained, 0.0, 77.0)
    rewards[before + 2] = 1.0
    values = torch.where(trained, 0.5, math.nan)
    advantages, returns = gae(rewards, values, torch.zeros(len(trained), dtype=torch.int64), trained, 1.0, 0.95)
    torch.testing.assert_close(advantages[trained], torch.tensor([0.45125, 0.475, 0.5]))
    torch.testing.assert_close(returns[trained], torch.tensor([0.95125, 0.975, 1.0]))
    assert advantages[~trained].abs().sum() == 0
    assert returns[~trained].abs().sum() == 0


@pytest.mark.parametrize("gap", [10, 50])
def test_a_gap_of_environment_tokens_changes_no_advantage(gap: int) -> None:
    def advantages(between: int) -> Tensor:
        trained = torch.tensor([True] * 2 + [False] * between + [True] * 2)
        rewards = torch.where(trained, 0.0, math.nan)
        rewards[-1] = 1.0
        values = torch.where(trained, 0.5, math.nan)
        return gae(rewards, values, torch.zeros(len(trained), dtype=torch.int64), trained, 1.0, 0.95)[0][trained]

    assert advantages(gap).tolist() == advantages(0).tolist()
    torch.testing.assert_close(advantages(gap), torch.tensor([0.4286875, 0.45125, 0.475, 0.5]))


def gae_one_by_one(
    rewards: Tensor, values: Tensor, segment: Tensor, trained: Tensor, gamma: float, lam: float
) -> Tensor:
    """The double loop of the definition: A_t = sum over later steps l of (gamma lam)^l delta."""
    advantages = torch.zeros_like(rewards)
    for own in segment.unique().tolist():
        places = [t for t in range(len(segment)) if segment[t] == own and trained[t]]
        following = [*(values[t].item() for t in places[1:]), 0.0][: len(places)]
        deltas = [
            rewards[t].item() + gamma * after - values[t].item() for t, after in zip(places, following, strict=True)
        ]
        for i, t in enumerate(places):
            advantages[t] = sum((gamma * lam) ** (j - i) * deltas[j] for j in range(i, len(places)))
    return advantages


def test_advantages_of_many_ragged_segments_equal_the_double_loop() -> None:
    segment = torch.randint(0, 6, (80,)).sort().values
    trained = torch.rand(80) < 0.6
    trained[segment == 2] = False
    rewards, values = torch.randn(80, dtype=torch.float64), torch.randn(80, dtype=torch.float64)
    advantages, returns = gae(rewards, values, segment, trained, 0.9, 0.8)
    torch.testing.assert_close(advantages, gae_one_by_one(rewards, values, segment, trained, 0.9, 0.8))
    torch.testing.assert_close(returns[trained], (advantages + values)[trained])


def test_the_order_of_segments_changes_no_advantage() -> None:
    segment = torch.tensor([0, 0, 1, 1, 1, 2])
    trained = torch.tensor([True, True, False, True, True, True])
    rewards, values = torch.randn(6), torch.randn(6)
    order = torch.tensor([5, 2, 3, 4, 0, 1])
    advantages, _ = gae(rewards, values, segment, trained, 0.9, 0.8)
    moved, _ = gae(rewards[order], values[order], segment[order], trained[order], 0.9, 0.8)
    assert moved.tolist() == advantages[order].tolist()


def test_nothing_trained_gives_no_advantage() -> None:
    nothing = torch.zeros(3, dtype=torch.bool)
    advantages, returns = gae(torch.ones(3), torch.ones(3), torch.zeros(3, dtype=torch.int64), nothing, 1.0, 0.95)
    assert advantages.tolist() == returns.tolist() == [0.0] * 3


def test_rloo_compares_with_the_mean_of_the_others() -> None:
    score, group = torch.tensor([1.0, 5.0, 3.0, 6.0, 7.0]), torch.tensor([4, 9, 4, 4, 2])
    assert rloo_advantages(score, group).tolist() == [1 - 4.5, 0.0, 3 - 3.5, 6 - 2.0, 0.0]


def test_group_advantages_are_standard_scores_within_the_group() -> None:
    score, group = torch.tensor([1.0, 5.0, 3.0, 9.0, 9.0]), torch.tensor([0, 1, 0, 7, 7])
    expected = torch.tensor([-1, 0, 1, 0, 0]) / math.sqrt(2)
    torch.testing.assert_close(group_advantages(score, group), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("baseline", sorted(BASELINES))
def test_a_constant_added_to_every_score_of_a_group_changes_no_advantage(baseline: str) -> None:
    score, group = torch.randn(6, dtype=torch.float64), torch.tensor([0, 0, 0, 1, 1, 1])
    moved = score + torch.tensor([10.0, -4.0], dtype=torch.float64)[group]
    torch.testing.assert_close(BASELINES[baseline](moved, group), BASELINES[baseline](score, group))


@pytest.mark.parametrize("form", ["token", "spread"])
def test_no_path_has_an_advantage_at_the_enumerated_optimum(form: str) -> None:
    """At pi* = ref exp(r / beta) / Z with the soft value as critic.

    In the form `spread` part of the score is paid before the token that earns it, so only the whole path balances.
    """
    vocabulary, beta = 3, 0.7
    reference = torch.randn(vocabulary, vocabulary, dtype=torch.float64).flatten().softmax(0).view(vocabulary, -1)
    reward = torch.randn(vocabulary, vocabulary, dtype=torch.float64)
    weighted = reference * (reward / beta).exp()
    optimum = weighted / weighted.sum()
    everything, own = torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.int64)
    for first in range(vocabulary):
        reached = weighted[first].sum() / reference[first].sum()
        values = beta * torch.stack([weighted.sum(), reached]).log()
        for second in range(vocabulary):
            actor, old = (
                torch.stack([p[first].sum(), p[first, second] / p[first].sum()]) for p in (optimum, reference)
            )
            rewards = FORMS[form](reward[first, second][None], actor.log() - old.log(), own, everything, beta)
            lam = 0.95 if form == "token" else 1.0
            advantages, _ = gae(rewards, values, own, everything, 1.0, lam)
            assert advantages[: 2 if form == "token" else 1].abs().max() < 1e-12


def test_scaled_scores_keep_their_sign_and_their_zero() -> None:
    assert scaled_scores(torch.tensor([-3.0, 0.0, 6.0]), 3.0).tolist() == [-1.0, 0.0, 2.0]
    assert scaled_scores(torch.tensor([4.0, 4.0]), 0.0).tolist() == [4.0, 4.0]  # nothing to divide by


def test_of_two_answers_each_is_compared_with_the_other() -> None:
    found = rloo_advantages(torch.tensor([3.0, 1.0, 5.0]), torch.tensor([4, 4, 7]))
    assert found.tolist() == [2.0, -2.0, 0.0]


def test_scores_are_clipped_on_both_sides() -> None:
    kept = settled_scores(torch.tensor([-9.0, 9.0]), torch.tensor([True, True]), clip=2.0, missing_eos_penalty=1.0)
    assert kept.tolist() == [-2.0, 2.0]


def test_a_group_is_divided_by_its_sample_deviation() -> None:
    found = group_advantages(torch.tensor([1.0, 2.0, 6.0]), torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(found, torch.tensor([-2.0, -1.0, 3.0]) / 7**0.5, atol=1e-5, rtol=0)


def test_an_answer_of_one_token_gets_its_whole_score_in_every_form_and_one_of_none_gives_its_to_nobody() -> None:
    response, trained = torch.tensor([0, 1, 1]), torch.ones(3, dtype=torch.bool)
    score, nothing = torch.tensor([1.0, 2.0, 5.0]), torch.zeros(3)  # the third answer has no token here
    for form, expected in (("token", [1, 0, 2]), ("sequence", [1, 0, 2]), ("spread", [1, 1, 1])):
        assert FORMS[form](score, nothing, response, trained, 0.5).tolist() == expected


def test_answers_of_one_token_alone_have_the_reward_less_the_value_as_advantage() -> None:
    rewards, values = torch.tensor([3.0, -1.0]), torch.tensor([1.0, 0.5])
    advantages, returns = gae(rewards, values, torch.tensor([0, 1]), torch.ones(2, dtype=torch.bool), 1.0, 0.95)
    assert advantages.tolist() == [2.0, -1.5]
    assert returns.tolist() == rewards.tolist()
