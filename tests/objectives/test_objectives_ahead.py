"""What objectives tell a linear head of their loss ahead: it comes true, and changes no gradient."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from architectures import tiny_policy
from rows_at_hand import answers, conversations, prompt_numbers, rankings
from torch import Tensor

from posttrain import objectives
from posttrain.data.pack import pack
from posttrain.data.rankings import ranked_batch
from posttrain.loop import loss_of
from posttrain.models.heads import Policy
from posttrain.objectives import KTOLoss, PPOLoss
from posttrain.ops import linear_head, losses
from posttrain.rollout.buffer import pack_answers
from posttrain.types import Batch, LabelledBatch, Objective, RolloutBatch, TokenBatch


def rollouts(actor: Policy) -> RolloutBatch:
    replayed = answers(3, 2)
    tokens = pack_answers(replayed, prompt_numbers(replayed))
    noise = torch.randn(3, len(tokens.tokens), generator=torch.Generator().manual_seed(1)) * tokens.trained
    with torch.no_grad():
        old = actor(tokens).logprobs
    return RolloutBatch(
        tokens=tokens, old=old + 0.3 * noise[0], reference=old + 0.1 * noise[2], values=noise[0] * 0.3,
        advantages=noise[1], returns=noise[0], beta=0.2,
    )  # fmt: skip


def labelled(actor: Policy) -> LabelledBatch:
    batch = ranked_batch(rankings(9), ties="half", pair_weight="pair")
    count = len(batch.responses)
    return LabelledBatch(
        tokens=batch.tokens, responses=batch.responses, desirable=torch.arange(count) % 2 == 0,
        weights=torch.linspace(0.5, 1.5, count), reference=torch.full((count,), -20.0), baseline=torch.tensor(0.3),
    )  # fmt: skip


def compared(actor: Policy) -> Batch:
    batch = ranked_batch(rankings(9), ties="half", pair_weight="pair")
    return replace(batch, reference=torch.linspace(-30, -10, len(batch.responses)))


def text(actor: Policy) -> TokenBatch:
    return pack(conversations(6))


DPO = partial(losses.dpo, beta=0.1)
CASES = {
    "sft": (objectives.sft, text),
    "dpo": (lambda actor: objectives.dpo(actor, DPO), compared),
    "dpo per token": (lambda actor: objectives.dpo(actor, DPO, per_token=True), compared),
    "ipo": (lambda actor: objectives.dpo(actor, losses.ipo), compared),
    "odds": (lambda actor: objectives.dpo(actor, lambda c, r, *_: losses.odds_ratio(c, r), per_token=True), compared),
    "kto": (lambda actor: objectives.kto(actor, KTOLoss()), labelled),
    "ppo": (lambda actor: objectives.ppo(actor, None, PPOLoss(clip=0.2, value_clip=0.2, value_coef=1.0)), rollouts),
    "ppo kl": (
        lambda actor: objectives.ppo(actor, None, PPOLoss(clip=0.2, value_clip=None, value_coef=1.0, kl="k3")),
        rollouts,
    ),
    "ptx": (
        lambda actor: objectives.ppo(actor, None, PPOLoss(clip=0.2, value_clip=None, value_coef=1.0, ptx=0.5)),
        text,
    ),
}


def gradients(actor: Policy, objective: Objective, batch: Batch) -> list[Tensor]:
    scored = objective(batch)
    loss = loss_of(scored, dict.fromkeys(scored.terms, 7.0))
    assert loss is not None
    actor.zero_grad()
    loss.backward()
    return [part.grad.clone() for part in actor.parameters() if part.grad is not None]


@pytest.mark.parametrize("name", CASES)
def test_what_is_told_ahead_comes_true_and_changes_no_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, batch_of = CASES[name]
    actor = tiny_policy()
    batch = batch_of(actor)
    actor.requires_grad_(True)
    proved: list[int] = []
    told = linear_head.linear_logprobs

    def watched(hidden: Tensor, targets: Tensor, head: linear_head.LinearHead, **given: object) -> Tensor:
        ahead = given["ahead"]
        assert isinstance(ahead, linear_head.Ahead)
        proved.append(ahead.proofs.times)
        return told(hidden, targets, head, ahead=ahead, max_elements=len(head.weight) * 40)

    def untold(hidden: Tensor, targets: Tensor, head: linear_head.LinearHead, **_: object) -> Tensor:
        return told(hidden, targets, head)

    monkeypatch.setattr("posttrain.models.heads.linear_logprobs", watched)
    objective = make(actor)
    found = gradients(actor, objective, batch)
    gradients(actor, objective, batch)
    assert proved == [0, 1], "the first backward found what was foreseen"
    monkeypatch.setattr("posttrain.models.heads.linear_logprobs", untold)
    for ours, plain in zip(found, gradients(actor, make(actor), batch), strict=True):
        assert float((ours - plain).norm()) <= 1e-5 * float(plain.norm())
