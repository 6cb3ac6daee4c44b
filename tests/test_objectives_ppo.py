"""What PPO minimises: the ratio, the clip, the critic, and which weights learn from which loss."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch
from architectures import tiny, tiny_policy, tiny_scalar
from rows_at_hand import answers, prompt_numbers
from torch import Tensor, nn

from posttrain import objectives
from posttrain.data.pack import pack
from posttrain.engine.local import LocalEngine, ParameterGroup
from posttrain.engine.memory import peak_of
from posttrain.loop import backwards, loss_of
from posttrain.models import heads
from posttrain.models.heads import Policy, ScalarModel, before, scalar_head
from posttrain.objectives import PPOLoss
from posttrain.rollout.buffer import pack_answers
from posttrain.types import (
    Batch,
    Largest,
    Objective,
    PrefixGroup,
    RolloutBatch,
    Scored,
    Span,
    TokenBatch,
    objectives_of,
)


def value(scored: Scored, name: str) -> float:
    return float(scored.metrics[name].total) / float(scored.metrics[name].count)


def total(scored: Scored, name: str) -> float:
    return float(scored.terms[name].total.detach())


PLAIN = PPOLoss(clip=0.2, value_clip=0.2, value_coef=1.0)


def rollout_batch(actor: Policy, *, off: float = 0.0) -> RolloutBatch:
    """Answers with random advantages and returns; the old log-probs are the actor's plus `off`."""
    replayed = answers(3, 2)
    tokens = pack_answers(replayed, prompt_numbers(replayed))
    noise = torch.randn(3, len(tokens.tokens), generator=torch.Generator().manual_seed(1)) * tokens.trained
    with torch.no_grad():
        old = actor(tokens).logprobs + off * tokens.trained
    return RolloutBatch(
        tokens=tokens, old=old, reference=old + 0.1 * noise[2], values=noise[0] * 0.3, advantages=noise[1],
        returns=noise[0] * 0.3 + noise[1],
    )  # fmt: skip


def test_a_policy_equal_to_the_one_that_sampled_has_ratio_1_and_the_loss_of_minus_the_mean_advantage() -> None:
    actor = tiny_policy()
    batch = rollout_batch(actor)
    scored = objectives.ppo(actor, None, PLAIN)(batch)
    count = int(batch.tokens.trained.sum())
    assert total(scored, "actor") == pytest.approx(-float(batch.advantages.sum()), rel=1e-6)
    assert value(scored, "ratio") == 1.0
    assert (value(scored, "clip_fraction"), value(scored, "step_kl")) == (0.0, 0.0)
    assert value(scored, "actor_loss") == pytest.approx(-float(batch.advantages.sum()) / count, rel=1e-6)


def test_the_hello_of_the_notes() -> None:
    tokens = pack([PrefixGroup(id="row", root=Span(tokens=(3, 4), trained=(False, True)))])
    old, now = torch.tensor([0.0, 0.6]).log().nan_to_num(neginf=0.0), torch.tensor([0.0, 0.1]).log()
    for advantage, loss, gradient in ((1.0, -1 / 6, -1 / 6), (-1.0, 0.8, 0.0)):
        logprobs = now.clone().requires_grad_()
        actor = cast("Policy", _Fixed(logprobs))
        at_last = torch.tensor([0.0, 1.0])
        batch = RolloutBatch(
            tokens=tokens, old=old, reference=old, values=old * 0, advantages=advantage * at_last, returns=old * 0
        )
        scored = objectives.ppo(actor, None, PLAIN)(batch)
        scored.terms["actor"].total.backward()
        assert total(scored, "actor") == pytest.approx(loss, abs=1e-6)
        assert logprobs.grad is not None
        assert float(logprobs.grad[1]) == pytest.approx(gradient, abs=1e-6)
        assert value(scored, "clip_fraction") == float(advantage < 0)


class _Fixed:
    """A stand-in for a policy without a value head: its log-probs have been decided."""

    value_head = None

    def __init__(self, logprobs: Tensor) -> None:
        self._logprobs = logprobs

    def __call__(
        self, batch: TokenBatch, *, entropy: bool = False, detach_values: bool = False, ahead: object = None
    ) -> objectives.PolicyOutput:
        assert not entropy
        return objectives.PolicyOutput(logprobs=self._logprobs, entropy=None, values=None)


def test_what_is_not_trained_may_hold_anything_and_changes_nothing() -> None:
    actor, critic = tiny_policy(), tiny_scalar()
    clean = replace(rollout_batch(actor, off=0.1), beta=0.1)
    masked = clean.tokens.trained

    def spoilt(values: Tensor) -> Tensor:
        return torch.where(masked, values, float("nan"))

    dirty = replace(
        clean, old=spoilt(clean.old), reference=spoilt(clean.reference), values=spoilt(clean.values),
        advantages=spoilt(clean.advantages), returns=spoilt(clean.returns),
    )  # fmt: skip
    numbers = PPOLoss(clip=0.2, value_clip=0.2, value_coef=1.0, entropy=0.01, kl="k3")
    gradients: list[list[Tensor]] = []
    for batch in (clean, dirty):
        loss = loss_of(objectives.ppo(actor, critic, numbers)(batch), {"actor": 5.0, "critic": 7.0})
        assert loss is not None
        loss.backward()
        gradients.append([part.grad.clone() for part in actor.parameters() if part.grad is not None])
        actor.zero_grad()
        critic.zero_grad()
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_actor_and_critic_go_backwards_one_after_the_other_to_the_same_gradients_in_less_memory() -> None:
    actor, critic = tiny_policy(), tiny_scalar()
    batch = rollout_batch(actor)
    counts = {"actor": 5.0, "critic": 7.0}
    groups = [
        ParameterGroup(name=name, parameters=[*model.parameters()], learning_rate=0.1)
        for name, model in (("actor", actor), ("critic", critic))
    ]
    engine = LocalEngine(groups, schedule=lambda done: 1.0, grad_clip=None)
    both = objectives.ppo(actor, critic, PLAIN)

    def joint(batch: Batch) -> Scored:
        return both(batch)

    def peak(objective: Objective) -> int:
        engine.clear()

        def train() -> None:
            for part in objectives_of(objective):
                backwards(part, batch, counts, engine)

        return peak_of(train, torch.device("cpu"))

    gradients: list[list[Tensor]] = []
    peaks: list[int] = []
    for objective in (both, joint):
        peak(objective)  # the first time makes what stays
        peaks.append(peak(objective))
        gradients.append([part.grad.clone() for part in engine.trained if part.grad is not None])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert peaks[0] < 0.8 * peaks[1]


def test_entropy_and_kl_in_the_loss_are_those_of_the_whole_distribution() -> None:
    actor = tiny_policy()
    batch = replace(rollout_batch(actor), beta=0.7)
    numbers = PPOLoss(clip=0.2, value_clip=None, value_coef=1.0, entropy=0.3, kl="k3")
    scored = objectives.ppo(actor, None, numbers)(batch)
    trained = batch.tokens.trained
    with torch.no_grad():
        hidden = actor.trunk(batch.tokens)[batch.tokens.predictor[trained]]
        distribution = actor.logits(hidden).log_softmax(-1)
    entropy = float(-(distribution.exp() * distribution).sum())
    log_ratio = (batch.old - batch.reference)[trained]
    k3 = float(((-log_ratio).exp() - 1 + log_ratio).sum())
    expected = -float(batch.advantages.sum()) - 0.3 * entropy + 0.7 * k3
    assert total(scored, "actor") == pytest.approx(expected, rel=1e-5)
    assert value(scored, "entropy") == pytest.approx(entropy / int(trained.sum()), rel=1e-5)


def test_the_critic_reads_the_value_before_each_token_and_is_clipped_around_the_old_one() -> None:
    actor, critic = tiny_policy(), tiny_scalar()
    batch = rollout_batch(actor)
    scored = objectives.ppo(actor, critic, replace_clip(0.2))(batch)
    expected = 0.0
    with torch.no_grad():
        after = critic(batch.tokens)
    for place in batch.tokens.trained.nonzero().flatten().tolist():
        now, old, wanted = (
            float(after[batch.tokens.predictor[place]]), float(batch.values[place]), float(batch.returns[place]),
        )  # fmt: skip
        clipped = min(max(now, old - 0.2), old + 0.2)
        expected += max((now - wanted) ** 2, (clipped - wanted) ** 2) / 2
    assert total(scored, "critic") == pytest.approx(expected, rel=1e-5)


def replace_clip(value_clip: float | None) -> PPOLoss:
    return PPOLoss(clip=0.2, value_clip=value_clip, value_coef=1.0)


def reached(term: Tensor, modules: dict[str, nn.Module]) -> set[str]:
    """The modules that get a gradient which is not zero."""
    found: set[str] = set()
    for name, module in modules.items():
        parts = list(module.parameters())
        gradients = torch.autograd.grad(term, parts, retain_graph=True, allow_unused=True)
        if any(gradient is not None and bool(gradient.any()) for gradient in gradients):
            found.add(name)
    return found


def test_actor_and_critic_learn_from_their_own_loss_only() -> None:
    actor, critic = tiny_policy(), tiny_scalar()
    scored = objectives.ppo(actor, critic, PLAIN)(rollout_batch(actor, off=0.1))
    modules: dict[str, nn.Module] = {"actor": actor.model, "critic": critic}
    assert reached(scored.terms["actor"].total, modules) == {"actor"}
    assert reached(scored.terms["critic"].total, modules) == {"critic"}


@pytest.mark.parametrize(("detach", "critics"), [(False, {"trunk", "values"}), (True, {"values"})])
def test_on_a_shared_trunk_the_value_head_reaches_the_trunk_unless_detached(detach: bool, critics: set[str]) -> None:
    model = tiny_policy().model
    actor = Policy(model, value_head=scalar_head(32))
    numbers = PPOLoss(clip=0.2, value_clip=0.2, value_coef=0.25, detach=detach)
    scored = objectives.ppo(actor, None, numbers)(rollout_batch(actor, off=0.1))
    assert actor.value_head is not None
    modules: dict[str, nn.Module] = {"trunk": model, "values": actor.value_head}
    assert reached(scored.terms["actor"].total, modules) == {"trunk"}
    assert reached(scored.terms["critic"].total, modules) == critics
    assert scored.terms["critic"].weight == 0.25


def test_while_the_critic_warms_up_a_shared_trunk_does_not_move() -> None:
    model = tiny_policy().model
    actor = Policy(model, value_head=scalar_head(32))
    batch = replace(rollout_batch(actor, off=0.1), train_actor=False)
    scored = objectives.ppo(actor, None, PPOLoss(clip=0.2, value_clip=0.2, value_coef=1.0))(batch)
    assert actor.value_head is not None
    modules: dict[str, nn.Module] = {"trunk": model, "values": actor.value_head}
    assert set(scored.terms) == {"critic"}
    assert reached(scored.terms["critic"].total, modules) == {"values"}


def test_while_the_critic_warms_up_the_actor_has_no_loss() -> None:
    actor, critic = tiny_policy(), tiny_scalar()
    batch = replace(rollout_batch(actor), train_actor=False)
    assert set(objectives.ppo(actor, critic, PLAIN)(batch).terms) == {"critic"}
    trunk = Policy(actor.model, value_head=scalar_head(32))
    assert set(objectives.ppo(trunk, None, PLAIN)(batch).terms) == {"critic"}
    assert not objectives.ppo(actor, None, PLAIN)(batch).terms


def test_while_the_critic_warms_up_a_policy_apart_does_not_run() -> None:
    batch = replace(rollout_batch(tiny_policy()), train_actor=False)
    policy = cast("Policy", _Unwanted())
    assert set(objectives.ppo(policy, tiny_scalar(), PLAIN)(batch).terms) == {"critic"}


class _Unwanted:
    """A stand-in for a policy that nobody should ask."""

    value_head = None

    def __call__(self, batch: TokenBatch, *, entropy: bool = False, ahead: object = None) -> objectives.PolicyOutput:
        raise AssertionError("the policy ran")


def test_the_value_head_of_a_trunk_reads_what_a_scalar_model_would() -> None:
    actor = tiny_policy()
    head = scalar_head(32)
    batch = rollout_batch(actor).tokens
    with torch.no_grad():
        values = Policy(actor.model, value_head=head)(batch).values
        alone = before(batch, ScalarModel(actor.trunk.model, head)(batch))
    assert values is not None
    torch.testing.assert_close(values, alone)


def test_the_kl_in_the_loss_follows_the_estimator_and_the_batchs_beta() -> None:
    actor = tiny_policy()
    batch = rollout_batch(actor)
    plain = total(objectives.ppo(actor, None, PLAIN)(batch), "actor")
    away = (batch.old - batch.reference)[batch.tokens.trained]
    expected = {"k2": float((away**2).sum()) / 2, "k3": float(((-away).exp() - 1 + away).sum())}
    for name, nats in expected.items():
        scored = objectives.ppo(actor, None, replace(PLAIN, kl=name))(replace(batch, beta=0.3))
        assert total(scored, "actor") == pytest.approx(plain + 0.3 * nats, rel=1e-4)
        assert value(scored, "kl_loss") == pytest.approx(nats / len(away), rel=1e-3)
        without = objectives.ppo(actor, None, replace(PLAIN, kl=name))(batch)
        assert total(without, "actor") == pytest.approx(plain, rel=1e-6)


def test_the_largest_ratio_is_that_of_one_token() -> None:
    actor = tiny_policy()
    batch = rollout_batch(actor)
    place = int(batch.tokens.trained.nonzero()[3])
    old = batch.old.clone()
    old[place] -= 1.0
    found = objectives.ppo(actor, None, PLAIN)(replace(batch, old=old)).metrics["ratio_max"]
    assert isinstance(found, Largest)
    assert float(found.value) == pytest.approx(2.718282, rel=1e-4)


def test_text_among_the_micro_batches_has_a_loss_and_a_count_of_its_own() -> None:
    actor = tiny_policy()
    text = pack([PrefixGroup(id="row", root=Span(tokens=(3, 4, 5, 6), trained=(False, True, True, False)))])
    hot = Policy(actor.model, temperature=2.0)  # samples at 2, reads text at 1
    scored = objectives.ppo(hot, None, replace(PLAIN, ptx=0.5), reader=actor)(text)
    with torch.no_grad():
        logits = tiny("llama")(input_ids=torch.tensor([[3, 4, 5, 6]])).logits[0].log_softmax(-1)
    expected = -float(logits[0, 4] + logits[1, 5])
    assert set(scored.terms) == {"ptx"}
    assert total(scored, "ptx") == pytest.approx(expected, rel=1e-5)
    assert value(scored, "ptx_loss") == pytest.approx(expected / 2, rel=1e-5)
    loss = loss_of(scored, {"actor": 7.0, "ptx": 2.0})
    assert loss is not None
    assert float(loss.detach()) == pytest.approx(0.5 * expected / 2, rel=1e-5)


def test_values_come_without_log_probs_as_they_do_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = Policy(tiny("llama"), value_head=scalar_head(32))
    batch = rollout_batch(actor).tokens
    wanted = actor(batch).values
    assert wanted is not None
    assert bool(wanted.any())
    monkeypatch.setattr(heads, "linear_logprobs", None)
    assert torch.equal(actor.values(batch), wanted)
    with pytest.raises(RuntimeError, match="no value head"):
        tiny_policy().values(batch)
