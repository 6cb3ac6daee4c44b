"""The enumerable world: its responses are all there are, and what it calls optimal is."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor

from posttrain import objectives
from posttrain.types import SamplingSpec
from posttrain.workflows.proofs import gradients
from posttrain.workflows.proofs.models import (
    make_policy,
    make_scalar,
    plain_logprobs,
    response_logprobs,
    sampler_of,
    token_logprobs,
    token_values,
)
from posttrain.workflows.proofs.paths import deltas
from posttrain.workflows.proofs.trials import PLAIN
from posttrain.workflows.proofs.world import END, World, divergence, make_world

BETA = 0.7


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


@pytest.fixture(scope="module")
def reference(world: World) -> Tensor:
    return response_logprobs(world, make_policy(world, dtype=torch.float64)).detach()


def test_the_responses_are_all_that_end_or_reach_the_limit(world: World) -> None:
    words = "123"
    expected = {"0", *(a + "0" for a in words), *(a + b + "0" for a in words for b in words)}
    expected |= {"".join(three) for three in product(words, repeat=3)}
    assert {"".join(map(str, tokens)) for tokens in world.responses} == expected
    assert len(world.responses) == len(expected) == 40
    assert [done.stopped for done in world.completions()[:40]] == [tokens[-1] == END for tokens in world.responses]
    assert len(make_world(ends=False).responses) == 4**3


def test_a_real_models_probabilities_add_up_to_one_and_give_its_tokens_back(world: World, reference: Tensor) -> None:
    torch.testing.assert_close(reference.exp().sum(dim=-1), torch.ones(3, dtype=torch.float64), atol=1e-14, rtol=0)
    tokenwise = token_logprobs(world, make_policy(world, dtype=torch.float64)).detach()
    torch.testing.assert_close(world.of_tokens(reference), tokenwise, atol=1e-13, rtol=0)
    assert float(divergence(reference, torch.full_like(reference, 1 / 40).log()).max()) > 0.1  # far from uniform


def test_the_float64_model_is_the_float32_model(world: World, reference: Tensor) -> None:
    torch.testing.assert_close(response_logprobs(world, make_policy(world)).detach(), reference, atol=1e-5, rtol=0)
    critic = make_scalar(world, dtype=torch.float64)
    assert token_values(world, critic).dtype == torch.float64


def test_the_optimum_is_better_than_whatever_is_near_it_and_worth_beta_log_z(world: World, reference: Tensor) -> None:
    best = world.optimum(reference, BETA)
    value = world.objective(best, reference, BETA)
    log_z = (reference.exp() * (world.rewards / BETA).exp()).sum(dim=-1).log()
    torch.testing.assert_close(value, BETA * log_z, atol=1e-13, rtol=0)
    for _ in range(20):
        near = (best + 0.1 * torch.randn_like(best)).log_softmax(dim=-1)
        lost = value - world.objective(near, reference, BETA)
        torch.testing.assert_close(lost, BETA * divergence(near, best), atol=1e-13, rtol=0)
        assert bool((lost > 0).all())


def test_at_the_optimum_every_delta_is_zero_on_every_path(world: World, reference: Tensor) -> None:
    best = world.optimum(reference, BETA)
    assert float(deltas(world, reference, "token", best, BETA).abs().max()) < 1e-12
    spread = deltas(world, reference, "spread", best, BETA)
    assert float(spread.abs().max()) > 0.1  # a share of the score comes too early or too late
    assert float(world.of_response(spread).abs().max()) < 1e-12
    # nowhere else: the reference itself leaves something to gain
    assert float(world.of_response(deltas(world, reference, "token", reference, BETA)).abs().max()) > 0.1


def test_the_simple_form_has_the_same_optimum_with_beta_over_the_length() -> None:
    world = make_world(ends=False)
    reference = response_logprobs(world, make_policy(world, dtype=torch.float64)).detach()
    best = world.optimum(reference, BETA / world.length)
    value = BETA / world.length * (world.mass(reference + world.rewards * world.length / BETA)[:, :1])
    reached = world.of_response(deltas(world, reference, "sequence", best, BETA))
    start = world.soft_values(reference, BETA)[:, :1]
    # the deltas of a path add up to what it earns less the value it began with
    torch.testing.assert_close(reached + start, value.expand_as(reached), atol=1e-12, rtol=0)


def test_the_sampler_draws_each_response_as_often_as_it_should(world: World) -> None:
    policy, draws = make_policy(world), 2000
    expected = response_logprobs(world, policy).detach().exp() * draws
    found = torch.zeros_like(expected)
    for answer in sampler_of(world, policy)(world.prompts, SamplingSpec(max_new_tokens=world.length, samples=draws)):
        found[world.place_of(answer)] += 1
    often = expected >= 5
    squares = ((found - expected).square() / expected)[often].sum()
    freedom = int(often.sum())
    assert float(squares) < freedom + 4 * (2 * freedom) ** 0.5  # chi-square, four standard deviations


@pytest.mark.parametrize(("ends", "agrees"), [(False, True), (True, False)])
def test_sequence_is_token_with_beta_by_the_length_where_all_answers_have_one(ends: bool, agrees: bool) -> None:
    world = make_world(vocabulary=2, prompts=2, ends=ends)
    policy, reference = gradients.at_hand(world)
    rollouts = gradients.annotated(
        world, policy, reference, None, replace(gradients.ALL_REWARDS, form="sequence", baseline="none")
    )
    found = gradients.over_samples(world, policy, rollouts, objectives.ppo(policy, None, PLAIN), policy)
    own, other = plain_logprobs(world, policy), plain_logprobs(world, reference).detach()
    raised = world.objective(own, other, gradients.BETA / world.length).sum()
    away = gradients.difference(found, gradients.gradient(-raised, policy))
    assert away < 1e-10 if agrees else away > 0.01


def test_spreading_the_score_keeps_what_whole_answers_get_and_not_what_is_paid_from_a_token_on() -> None:
    world = make_world(vocabulary=3, prompts=1)
    policy, reference = gradients.at_hand(world)
    each = {
        form: gradients.annotated(
            world, policy, reference, None, replace(gradients.ALL_REWARDS, form=form, baseline="rloo")
        )
        for form in ("token", "spread")
    }
    torch.testing.assert_close(each["token"].advantages, each["spread"].advantages, atol=1e-12, rtol=0)
    assert gradients.policy_gradient(world, form="token") < 1e-10
    assert gradients.policy_gradient(world, form="spread") > 0.01
