"""The estimators of the KL, and the controller of its coefficient."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.ops.kl import ESTIMATORS, adapted, exact, k1, k2, k3


def test_the_notes_table_comes_out() -> None:
    actor = torch.tensor([0.75, 0.60, 0.85, 0.92], dtype=torch.float64).log()
    reference = torch.tensor([0.40, 0.35, 0.70, 0.90], dtype=torch.float64).log()
    kl = k1(actor, reference)
    torch.testing.assert_close(kl, torch.tensor([0.628609, 0.538997, 0.194156, 0.021979]).double(), atol=5e-7, rtol=0)
    assert kl.sum().item() == pytest.approx(1.383740, abs=1e-6)


def test_equal_policies_are_zero_apart_by_every_estimator() -> None:
    logprobs = torch.randn(6, 4).log_softmax(-1)
    assert all(estimator(logprobs, logprobs).abs().max() == 0 for estimator in ESTIMATORS.values())
    assert exact(logprobs, logprobs).abs().max() == 0


def test_k1_and_k3_average_to_the_exact_kl_over_every_token() -> None:
    actor = torch.randn(3, 7, dtype=torch.float64).log_softmax(-1)
    reference = torch.randn(3, 7, dtype=torch.float64).log_softmax(-1)
    by_hand = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=actor), torch.distributions.Categorical(logits=reference)
    )
    for estimator in (k1, k3):
        torch.testing.assert_close((actor.exp() * estimator(actor, reference)).sum(-1), by_hand)
    torch.testing.assert_close(exact(actor, reference), by_hand)


def test_the_gradient_of_k2_averages_to_that_of_the_exact_kl() -> None:
    logits = torch.randn(7, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(7, dtype=torch.float64).log_softmax(-1)
    actor = logits.log_softmax(-1)
    (wanted,) = torch.autograd.grad(exact(actor, reference), logits, retain_graph=True)
    (found,) = torch.autograd.grad(actor.detach().exp() @ k2(actor, reference), logits)
    torch.testing.assert_close(found, wanted)


def test_k3_is_accurate_where_the_policies_are_nearly_equal() -> None:
    difference = torch.tensor([1e-3])
    by_series = 1e-6 / 2 - 1e-9 / 6
    assert k3(difference, torch.zeros_like(difference)).item() == pytest.approx(by_series, rel=1e-3)


def test_a_token_that_cannot_come_adds_nothing_to_the_exact_kl() -> None:
    actor = torch.tensor([0.5, 0.5, 0.0]).log()
    reference = torch.tensor([0.25, 0.75, 0.0]).log()
    assert exact(actor, reference).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert exact(actor, torch.tensor([1.0, 0.0, 0.0]).log()).item() == math.inf


@pytest.mark.parametrize(("kl", "expected"), [(6.0, 0.1), (60.0, 0.1 * 1.002), (0.0, 0.1 * 0.998), (6.6, 0.1 * 1.001)])
def test_beta_moves_by_at_most_a_fifth_of_the_horizon_share(kl: float, expected: float) -> None:
    assert adapted(0.1, kl, target=6.0, responses=100) == pytest.approx(expected)


def test_in_a_loss_k1_teaches_nothing_k2_the_kl_and_k3_the_kl_the_other_way_round() -> None:
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    actor, reference = logits.log_softmax(0), torch.randn(6, dtype=torch.float64).log_softmax(0)
    wanted = {
        "k1": torch.zeros(6, dtype=torch.float64),
        "k2": torch.autograd.grad(exact(actor, reference), logits, retain_graph=True)[0],
        "k3": torch.autograd.grad(exact(reference, actor), logits, retain_graph=True)[0],
    }
    for name, estimator in ESTIMATORS.items():
        # every token as often as the actor draws it, and as in a loss the draw itself has no gradient
        average = actor.detach().exp() @ estimator(actor, reference)
        (found,) = torch.autograd.grad(average, logits, retain_graph=True)
        torch.testing.assert_close(found, wanted[name])


def test_beta_moves_over_ten_thousand_answers_unless_told_otherwise() -> None:
    assert adapted(0.1, 9.0, target=6.0, responses=64) == adapted(0.1, 9.0, target=6.0, responses=64, horizon=10_000)
