"""The losses, against hand numbers, enumerations and their own limits."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from posttrain.ops.losses import (
    clipped_policy,
    clipped_value,
    cross_entropy,
    dpo,
    hinge,
    ipo,
    is_clipped,
    kto,
    kto_baseline,
    nll,
    odds_ratio,
    pairwise,
    plackett_luce,
    robust,
    simpo,
    squared_error,
)
from posttrain.ops.ranking import pairs_from_ranks
from posttrain.ops.wins import preferred

LOG2 = math.log(2)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_negative_log_likelihood_is_one_number_a_token() -> None:
    assert nll(tensor(-1.0, -2.5)).tolist() == [1.0, 2.5]


def test_the_losses_of_labels_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [1.0, 3.0]], dtype=torch.float64)
    assert cross_entropy(logits, tensor(0, 1)).tolist() == pytest.approx([LOG2, math.log(1 + math.exp(-2))])
    assert squared_error(tensor(1.0, 2.0), tensor(3.0, 2.5)).tolist() == [4.0, 0.25]


# --- rankings ---------------------------------------------------------------------------------------------------


def plackett_luce_of_one(scores: Tensor, ranks: list[int]) -> Tensor:
    return plackett_luce(scores, torch.tensor(ranks), torch.zeros(len(ranks), dtype=torch.int64), 1)


def test_two_equal_scores_cost_log_two_in_both_ranking_losses() -> None:
    assert pairwise(tensor(0.3), tensor(0.3)).item() == pytest.approx(LOG2, abs=1e-12)
    assert plackett_luce_of_one(tensor(0.3, 0.3), [2, 1]).item() == pytest.approx(LOG2, abs=1e-12)


def test_for_two_answers_plackett_luce_is_bradley_terry() -> None:
    scores = tensor(0.4, -1.3)
    assert plackett_luce_of_one(scores, [1, 2]).item() == pytest.approx(pairwise(*scores).item())


def test_the_golden_ranking_with_a_tie() -> None:
    scores, ranks = tensor(2, 1, 1, 0), [1, 2, 2, 3]
    pairs = pairs_from_ranks(ranks)
    strict = sum(pairwise(scores[i], scores[j]).item() for i, j in pairs.strict)
    ties = sum(pairwise(scores[i], scores[j], target=0.5).item() for i, j in pairs.ties)
    assert len(pairs.strict) == 5
    assert strict / 5 == pytest.approx(0.275995, abs=1e-6)
    assert (strict + ties) / 6 == pytest.approx(0.345520, abs=1e-6)
    assert plackett_luce_of_one(scores, ranks).item() == pytest.approx(1.253047, abs=1e-6)


def test_plackett_luce_without_ties_is_a_distribution_over_orders() -> None:
    scores = torch.randn(4, dtype=torch.float64)
    chances = [math.exp(-plackett_luce_of_one(scores, list(order)).item()) for order in permutations([1, 2, 3, 4])]
    assert sum(chances) == pytest.approx(1.0)


def test_plackett_luce_keeps_prompts_apart_and_ignores_what_is_not_ranked() -> None:
    scores = torch.tensor([1.0, 5.0, 0.0, math.nan, 2.0, 3.0], requires_grad=True)
    ranks, prompt = torch.tensor([1, 2, 2, 0, 1, 1]), torch.tensor([0, 1, 0, 1, 1, 2])
    losses = plackett_luce(scores, ranks, prompt, 4)
    losses.sum().backward()
    softplus = [math.log1p(math.exp(-1)), math.log1p(math.exp(3)), 0.0, 0.0]
    assert losses.tolist() == pytest.approx(softplus)
    assert scores.grad is not None
    assert scores.grad[3:4].tolist() == [0.0]
    assert scores.grad.isfinite().all()


def test_a_margin_asks_for_a_larger_difference() -> None:
    assert pairwise(tensor(2.0), tensor(1.0), margin=1.0).item() == pytest.approx(LOG2)


def test_ranking_losses_stay_finite_at_extreme_scores() -> None:
    better = torch.tensor([-300.0], requires_grad=True)
    loss = pairwise(better, torch.tensor([300.0]))
    loss.sum().backward()
    assert loss.item() == 600.0
    assert better.grad is not None
    assert better.grad.item() == -1.0
    assert plackett_luce_of_one(torch.tensor([-300.0, 300.0]), [1, 2]).item() == 600.0


def test_the_pairwise_gradient_is_the_expectation_over_drawn_labels() -> None:
    scores = torch.randn(2, dtype=torch.float64, requires_grad=True)
    chance = 0.8
    expected = chance * pairwise(scores[0], scores[1]) + (1 - chance) * pairwise(scores[1], scores[0])
    (wanted,) = torch.autograd.grad(expected, scores)
    (found,) = torch.autograd.grad(pairwise(scores[0], scores[1], target=chance), scores)
    torch.testing.assert_close(found, wanted)


# --- preferences ------------------------------------------------------------------------------------------------


def test_every_reference_loss_at_step_zero() -> None:
    reference = tensor(-7.0), tensor(-9.0)
    start = (*reference, *reference)
    assert dpo(*start).item() == pytest.approx(LOG2, abs=1e-12)
    assert dpo(*start, label_smoothing=0.3).item() == pytest.approx(LOG2, abs=1e-12)
    assert robust(*start, label_smoothing=0.3).item() == pytest.approx(LOG2, abs=1e-12)
    assert hinge(*start).item() == 1.0
    assert ipo(*start, beta=0.1).item() == pytest.approx(25.0)
    assert preferred(tensor(0.0), tensor(0.0)).item() == 0.5


PAIR = tensor(-5.0), tensor(-8.0), tensor(-6.0), tensor(-7.0)  # h = 1 - (-1) = 2


def test_the_family_on_one_pair_by_hand() -> None:
    ls, other = math.log(1 / (1 + math.exp(-1))), math.log(1 / (1 + math.exp(1)))  # beta .5, so the margin is 1
    assert dpo(*PAIR, beta=0.5).item() == pytest.approx(-ls)
    assert dpo(*PAIR, beta=0.5, label_smoothing=0.2).item() == pytest.approx(-0.8 * ls - 0.2 * other)
    assert robust(*PAIR, beta=0.5, label_smoothing=0.2).item() == pytest.approx((-0.8 * ls + 0.2 * other) / 0.6)
    assert ipo(*PAIR, beta=0.25).item() == pytest.approx(0.0)
    assert ipo(*PAIR, beta=0.5).item() == pytest.approx(1.0)
    assert hinge(*PAIR, beta=0.2).item() == pytest.approx(0.6)
    assert hinge(*PAIR, beta=0.6).item() == 0.0
    assert simpo(tensor(-1.0), tensor(-1.5), beta=2.0, gamma=1.0).item() == pytest.approx(LOG2)


def test_smoothed_labels_average_the_two_ways_round() -> None:
    turned = PAIR[1], PAIR[0], PAIR[3], PAIR[2]
    expected = 0.7 * dpo(*PAIR) + 0.3 * dpo(*turned)
    torch.testing.assert_close(dpo(*PAIR, label_smoothing=tensor(0.3)), expected)


def test_the_robust_loss_under_flipped_labels_averages_to_the_clean_loss() -> None:
    turned = PAIR[1], PAIR[0], PAIR[3], PAIR[2]
    noisy = 0.8 * robust(*PAIR, label_smoothing=0.2) + 0.2 * robust(*turned, label_smoothing=0.2)
    torch.testing.assert_close(noisy, dpo(*PAIR))


def test_the_enumerated_optimum_is_where_dpo_on_soft_labels_has_no_gradient() -> None:
    beta = 0.3
    reference = torch.randn(6, dtype=torch.float64).log_softmax(0)
    reward = torch.randn(6, dtype=torch.float64)
    logits = (reference + reward / beta).requires_grad_()
    actor = logits.log_softmax(0)
    i, j = torch.triu_indices(6, 6, offset=1)
    wrong = torch.sigmoid(reward[j] - reward[i])
    loss = dpo(actor[i], actor[j], reference[i], reference[j], beta=beta, label_smoothing=wrong).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.abs().max() < 1e-12


def test_the_odds_ratio_of_orpo_by_hand() -> None:
    odds = (0.5 / 0.5) / (0.2 / 0.8)
    expected = math.log(1 + 1 / odds)
    assert odds_ratio(tensor(math.log(0.5)), tensor(math.log(0.2))).item() == pytest.approx(expected)
    assert odds_ratio(tensor(-1.3), tensor(-1.3)).item() == pytest.approx(LOG2)


def test_the_odds_ratio_is_finite_where_an_answer_is_certain() -> None:
    chosen = torch.tensor([0.0, -1e-9], requires_grad=True)
    loss = odds_ratio(chosen, torch.tensor([0.0, -50.0]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert chosen.grad is not None
    assert chosen.grad.isfinite().all()


def test_kto_pushes_the_desirable_up_and_the_undesirable_down() -> None:
    ratio = tensor(2.0, 2.0).requires_grad_()
    loss = kto(ratio, torch.tensor([True, False]), 1.0, beta=0.5, desirable_weight=3.0)
    loss.sum().backward()
    sigmoid = 1 / (1 + math.exp(-0.5))
    assert loss.tolist() == pytest.approx([3 * (1 - sigmoid), sigmoid])
    slope = 0.5 * sigmoid * (1 - sigmoid)
    assert ratio.grad is not None
    assert ratio.grad.tolist() == pytest.approx([-3 * slope, slope])


def test_the_baseline_of_kto_is_never_negative_and_has_no_gradient() -> None:
    assert kto_baseline(tensor(1.0, 2.0).requires_grad_()).item() == 1.5
    assert not kto_baseline(tensor(1.0).requires_grad_()).requires_grad
    assert kto_baseline(tensor(-1.0, -2.0)).item() == 0.0
    assert kto_baseline(tensor()).item() == 0.0


# --- actor and critic -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("advantage", "loss", "flows"), [(1.0, -1 / 6, True), (-1.0, 0.8, False)])
def test_the_notes_hello(advantage: float, loss: float, flows: bool) -> None:
    logprob, old = tensor(0.1).log().requires_grad_(), tensor(0.6).log()
    found = clipped_policy(logprob, old, tensor(advantage), 0.2)
    found.sum().backward()
    assert found.item() == pytest.approx(loss, abs=1e-6)
    assert logprob.grad is not None
    assert logprob.grad.item() == pytest.approx(-advantage / 6 if flows else 0.0)
    assert is_clipped(logprob, old, tensor(advantage), 0.2).item() is not flows


def test_the_sampling_policy_itself_has_ratio_one_and_loss_minus_the_advantage() -> None:
    logprobs, advantages = -torch.rand(5), torch.randn(5)
    loss = clipped_policy(logprobs, logprobs, advantages, 0.2)
    assert loss.tolist() == (-advantages).tolist()
    assert not is_clipped(logprobs, logprobs, advantages, 0.2).any()


def test_with_one_unclipped_step_the_gradient_is_the_plain_policy_gradient() -> None:
    logprobs = (-torch.rand(5, dtype=torch.float64)).requires_grad_()
    advantages = torch.randn(5, dtype=torch.float64)
    (found,) = torch.autograd.grad(clipped_policy(logprobs, logprobs.detach(), advantages, 0.2).sum(), logprobs)
    torch.testing.assert_close(found, -advantages)


def test_no_token_that_counts_as_clipped_has_a_gradient_and_all_others_do() -> None:
    old = -torch.rand(200, dtype=torch.float64)
    logprobs = (old + 0.4 * torch.randn(200, dtype=torch.float64)).requires_grad_()
    advantages = torch.randn(200, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(clipped_policy(logprobs, old, advantages, 0.2).sum(), logprobs)
    assert ((gradient == 0) == is_clipped(logprobs, old, advantages, 0.2)).all()


def test_the_ratio_makes_old_samples_give_the_enumerated_gradient_of_the_new_policy() -> None:
    logits = torch.randn(5, dtype=torch.float64, requires_grad=True)
    old = torch.randn(5, dtype=torch.float64).log_softmax(0)
    reward = torch.randn(5, dtype=torch.float64)
    logprobs = logits.log_softmax(0)
    (wanted,) = torch.autograd.grad(-(logprobs.exp() @ reward), logits, retain_graph=True)
    (found,) = torch.autograd.grad(old.exp() @ clipped_policy(logprobs, old, reward, 1e9), logits)
    torch.testing.assert_close(found, wanted)


def test_the_value_loss_takes_the_worse_of_the_moved_and_the_clipped_value() -> None:
    values = tensor(1.0, 0.1, 3.0).requires_grad_()
    old, returns = tensor(0.0, 0.0, 2.0), tensor(2.0, 1.0, 0.0)
    loss = clipped_value(values, old, returns, 0.2)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([0.5 * 1.8**2, 0.5 * 0.9**2, 0.5 * 3.0**2])
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([0.0, -0.9, 3.0])


def test_without_a_clip_the_value_loss_is_half_the_squared_error() -> None:
    assert clipped_value(tensor(1.0), tensor(0.0), tensor(3.0), None).item() == 2.0


def test_weights_of_kto_are_not_rounded_to_float32() -> None:
    ratio, desirable = torch.tensor([0.3, -0.2], dtype=torch.float64), torch.tensor([True, False])
    found = kto(ratio, desirable, 0.1, beta=0.7, desirable_weight=0.1, undesirable_weight=0.3)
    expected = [0.1 / (1 + math.exp(0.7 * (0.3 - 0.1))), 0.3 / (1 + math.exp(-0.7 * (-0.2 - 0.1)))]
    assert found.tolist() == pytest.approx(expected, rel=1e-14)


def test_numbers_that_are_not_given_are_those_of_the_papers() -> None:
    first, second, third, fourth = torch.randn(4, 5, dtype=torch.float64)
    of = first, second, third, fourth
    assert torch.equal(dpo(*of), dpo(*of, beta=0.1, label_smoothing=0.0))
    assert torch.equal(robust(*of), robust(*of, beta=0.1, label_smoothing=0.0))
    assert torch.equal(ipo(*of), ipo(*of, beta=0.1))
    assert torch.equal(hinge(*of), hinge(*of, beta=0.1))
    assert torch.equal(simpo(first, second), simpo(first, second, beta=2.0, gamma=0.5))
    plain = kto(first, second > 0, 0.2, beta=0.1, desirable_weight=1.0, undesirable_weight=1.0)
    assert torch.equal(kto(first, second > 0, 0.2), plain)
    assert torch.equal(pairwise(first, second), pairwise(first, second, 1.0, 0.0))


def test_what_is_clipped_went_past_the_border_in_the_direction_of_its_advantage() -> None:
    old = torch.zeros(3, dtype=torch.float64)
    half, double = torch.tensor([0.5, 0.25, 0.75], dtype=torch.float64).log(), torch.full_like(old, math.log(8))
    assert is_clipped(half, old, torch.full_like(old, -1.0), 0.5).tolist() == [False, True, False]
    assert not is_clipped(double, old, torch.zeros_like(old), 0.5).any()  # nothing to gain, nothing cut off
    assert not is_clipped(-double, old, torch.zeros_like(old), 0.5).any()


def test_the_critic_is_held_near_its_old_value_from_both_sides() -> None:
    values, old, returns = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.1, 0.9])
    # near the old value are .8 and .2, both .7 from the return
    torch.testing.assert_close(clipped_value(values, old, returns, 0.2), torch.full((2,), 0.49 / 2))
