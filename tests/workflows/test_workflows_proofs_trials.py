"""PPO, DPO and the reward model reach what enumeration says they should, through the package's own machinery."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from posttrain.data.examples import RankedItem
from posttrain.data.rankings import dpo_step
from posttrain.loop import loss_of
from posttrain.objectives import dpo
from posttrain.ops import losses
from posttrain.types import PrefixGroup, RankedBatch, Span, Step
from posttrain.workflows.proofs.gradients import gradient
from posttrain.workflows.proofs.models import make_policy
from posttrain.workflows.proofs.reached import after_dpo, after_ppo, after_proxy, after_reward, proxy_path
from posttrain.workflows.proofs.trials import RULES, PPOTrial, Preferences, engine_of
from posttrain.workflows.proofs.world import World, make_world

CPU = torch.device("cpu")
DRAWN = Preferences(draws=50_000)
SEEDS = range(3)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(vocabulary=3, prompts=2)


@pytest.mark.medium
def test_dpo_reaches_the_optimum_from_exact_preferences(world: World) -> None:
    assert after_dpo(world, CPU, Preferences()) < 1e-4


TRIALS = {
    "critic": PPOTrial(rounds=80, rates=(5e-3, 2e-2), warmup=24),
    "none": PPOTrial(rounds=140, rates=(5e-3, 0.0)),
    "rloo": PPOTrial(rounds=80),
    # as large as can be, in many small steps: see docs/proofs.md
    "group": PPOTrial(rounds=400, rollouts=512, group=256, epochs=2, minibatches=1, rates=(3e-3, 0.0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("baseline", TRIALS)
def test_ppo_reaches_the_optimum_with_every_baseline(world: World, baseline: str, seed: int) -> None:
    trial = replace(TRIALS[baseline], rules=replace(RULES, baseline=baseline), seed=seed)
    assert after_ppo(world, CPU, replace(trial, rounds=1), seed=seed) > 0.1
    assert after_ppo(world, CPU, trial, seed=seed) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_dpo_reaches_the_same_optimum_from_exact_and_from_drawn_preferences(world: World, seed: int) -> None:
    assert after_dpo(world, CPU, Preferences(), seed=seed) < 1e-4
    assert after_dpo(world, CPU, replace(DRAWN, seed=seed), seed=seed) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_reward_model_recovers_the_reward_up_to_a_constant_a_prompt(world: World, seed: int) -> None:
    assert after_reward(world, CPU, Preferences(), seed=seed) < 1e-4
    assert after_reward(world, CPU, replace(DRAWN, seed=seed), seed=seed) < 0.01


@pytest.mark.medium
def test_the_true_reward_turns_down_while_a_wrong_proxy_and_the_kl_grow() -> None:
    path = proxy_path(CPU)
    nats, gold, proxy = zip(*path, strict=True)
    peak = gold.index(max(gold))
    assert 0 < peak < len(gold) - 1
    assert gold[peak] > gold[0] + 0.05
    assert gold[-1] < gold[peak] - 0.5
    assert proxy[-1] > proxy[peak] > proxy[0]
    assert nats[-1] > nats[peak] > nats[0]


@pytest.mark.slow
def test_the_true_reward_turns_down_from_three_seeds() -> None:
    assert all(after_proxy(CPU, seed=seed) < -0.5 for seed in SEEDS)


def test_counted_preferences_are_the_rows_that_they_count() -> None:
    world = make_world(vocabulary=2, length=2, prompts=1)
    policy = make_policy(world, dtype=torch.float64)
    [batch] = Preferences(draws=40).step(world).micro_batches
    assert isinstance(batch, RankedBatch)
    rows: list[RankedItem] = []
    for (first, second), target, weight in zip(
        batch.pairs.tolist(), batch.targets.tolist(), batch.weights.tolist(), strict=True
    ):
        asked = round(weight * 40)
        wins = round(target * asked)
        for number in range(asked):
            order = (first, second) if number < wins else (second, first)
            answers = tuple(Span.all(world.responses[place], trained=True) for place in order)
            root = Span.all(world.prompts[0].tokens, trained=False)
            group = PrefixGroup(id="row", root=root, branches=answers)
            rows.append(RankedItem(group=group, ranks=(1, 2), weight=1.0, margin=0.0, annotator=None))
    assert len(rows) == 40
    loss = dpo(policy, partial(losses.dpo, beta=0.5))
    as_rows = dpo_step(rows, 10_000, ties="drop", pair_weight="pair")

    def followed(step: Step) -> Tensor:
        [micro_batch] = step.micro_batches
        total = loss_of(loss(micro_batch), step.counts)
        assert total is not None
        return gradient(total, policy)

    counted = Preferences(draws=40).step(world)
    torch.testing.assert_close(followed(counted), followed(as_rows), rtol=1e-6, atol=1e-8)


def test_the_rate_of_a_trial_falls_to_nothing() -> None:
    model = torch.nn.Linear(1, 1)
    engine = engine_of({"model": (model, 0.1)}, 10)
    rates: list[float] = []
    for _ in range(10):
        engine.backward(model(torch.ones(1)).sum())
        rates.append(engine.step([])["learning_rate"])
    assert rates[0] == 0.1
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.01)
