"""Activation checkpointing: the same losses and gradients to the bit in less memory, whoever shares the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import pytest
import torch
from architectures import PACKED, attending_by_layout, packed_groups, tiny
from rows_at_hand import answers, prompt_numbers, rankings
from torch import Tensor, nn
from transformers import PreTrainedModel

from posttrain import objectives
from posttrain.data.rankings import ranked_batch
from posttrain.engine.memory import peak_of
from posttrain.errors import ModelError
from posttrain.loop import loss_of
from posttrain.models.adapters import LoraSpec, active, active_in, attach
from posttrain.models.checkpointing import checkpoint_activations
from posttrain.models.heads import Policy, ScalarModel, scalar_head
from posttrain.objectives import PPOLoss, ScoreReader
from posttrain.rollout.buffer import pack_answers
from posttrain.types import Batch, Objective, RolloutBatch, TokenBatch

LORA = LoraSpec(rank=4, alpha=8)
COUNTS: Sequence[str] = ("tokens", "prompts", "pairs", "actor", "critic")
Make = Callable[[PreTrainedModel], tuple[Objective, Batch, Sequence[nn.Parameter]]]
"""A model to an objective on it, a batch, and what is trained."""


def stirred(model: PreTrainedModel, name: str, *, dropout: float = 0.0) -> list[nn.Parameter]:
    """The parameters of a new adapter, away from zero."""
    parameters = attach(model, name, replace(LORA, dropout=dropout))
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return parameters


def whole(model: PreTrainedModel) -> list[nn.Parameter]:
    return list(model.parameters())


def head() -> nn.Linear:
    return scalar_head(32, generator=torch.Generator().manual_seed(3))


def of_text(model: PreTrainedModel) -> tuple[Objective, Batch, Sequence[nn.Parameter]]:
    return objectives.sft(Policy(model)), packed_groups(), whole(model)


def one_by_one(model: PreTrainedModel) -> tuple[Objective, Batch, Sequence[nn.Parameter]]:
    model.set_attn_implementation("eager")
    return objectives.sft(Policy(model, packing=False)), packed_groups(), whole(model)


def with_dropout(model: PreTrainedModel) -> tuple[Objective, Batch, Sequence[nn.Parameter]]:
    parameters = stirred(model, "policy", dropout=0.3)
    return objectives.sft(Policy(model, stack=("policy",))), packed_groups(), parameters


def of_scores(model: PreTrainedModel) -> tuple[Objective, Batch, Sequence[nn.Parameter]]:
    batch = ranked_batch(rankings(4), ties="soft", pair_weight="prompt")
    scalar = ScalarModel(cast("PreTrainedModel", model.base_model), head())
    return objectives.reward(ScoreReader(model=scalar), loss="pairwise"), batch, list(scalar.parameters())


def of_pairs(model: PreTrainedModel) -> tuple[Objective, Batch, Sequence[nn.Parameter]]:
    batch = ranked_batch(rankings(4), ties="soft", pair_weight="pair")

    def loss(better: Tensor, worse: Tensor, held: Tensor, other: Tensor) -> Tensor:
        return -torch.nn.functional.logsigmoid(better - worse - held + other)

    return objectives.dpo(Policy(model), loss), batch, whole(model)


def rollouts() -> RolloutBatch:
    done = answers(3, 2)
    tokens = pack_answers(done, prompt_numbers(done))
    noise = torch.randn(5, len(tokens.tokens), generator=torch.Generator().manual_seed(1)) * tokens.trained
    return RolloutBatch(
        tokens=tokens, old=noise[0] - 4, reference=noise[1], values=noise[2], advantages=noise[3], returns=noise[4]
    )


LOSS = PPOLoss(clip=0.2, value_clip=0.2, value_coef=0.5, entropy=0.1)


def apart(model: PreTrainedModel) -> tuple[Objective, Batch, Sequence[nn.Parameter]]:
    other = tiny("llama", num_hidden_layers=3)
    attending_by_layout(other)
    if "forward" in vars(cast("Sequence[nn.Module]", model.base_model.layers)[0]):  # the run that is checked
        checkpoint_activations(other)
    critic = ScalarModel(cast("PreTrainedModel", other.base_model), head())
    return objectives.ppo(Policy(model), critic, LOSS), rollouts(), [*whole(model), *critic.parameters()]


def on_one_base(model: PreTrainedModel) -> tuple[Objective, Batch, Sequence[nn.Parameter]]:
    start = stirred(model, "start")
    trained = [*stirred(model, "critic"), *stirred(model, "policy")]
    for part in start:
        part.requires_grad_(False)
    actor = Policy(model, stack=("start", "policy"))
    critic = ScalarModel(cast("PreTrainedModel", model.base_model), head(), stack=("critic",))
    return objectives.ppo(actor, critic, LOSS), rollouts(), [*trained, *critic.score.parameters()]


def on_the_trunk(model: PreTrainedModel) -> tuple[Objective, Batch, Sequence[nn.Parameter]]:
    actor = Policy(model, value_head=head())
    return objectives.ppo(actor, None, LOSS), rollouts(), list(actor.parameters())


def gradients(
    make: Make, *, again: bool, family: str = "llama", half: bool = False
) -> tuple[Tensor, list[Tensor | None]]:
    """The loss and the gradient of every trained part, with layers that run again in backward or plainly."""
    model = tiny(family)
    attending_by_layout(model)
    if again:
        checkpoint_activations(model)
    objective, batch, parameters = make(model)
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        counts: dict[str, float] = dict.fromkeys(COUNTS, 7.0)
        loss = loss_of(objective(batch), counts)
    assert loss is not None
    loss.backward()
    return loss.detach(), [part.grad for part in parameters]


def same(make: Make, *, family: str = "llama", half: bool = False) -> int:
    """How many parts have a gradient; it is the same bit for bit either way, and so is the loss."""
    plain, wanted = gradients(make, again=False, family=family, half=half)
    loss, found = gradients(make, again=True, family=family, half=half)
    assert torch.equal(loss, plain)
    assert len(found) == len(wanted)
    for mine, theirs in zip(found, wanted, strict=True):
        assert (mine is None) == (theirs is None)
        assert mine is None or theirs is None or torch.equal(mine, theirs)
    return sum(part is not None for part in wanted)


@pytest.mark.parametrize("family", PACKED)
def test_every_family_has_the_gradients_of_a_plain_run(family: str) -> None:
    assert same(of_text, family=family) > 10


CASES = [one_by_one, with_dropout, of_scores, of_pairs, apart, on_one_base, on_the_trunk]


@pytest.mark.parametrize("make", CASES)
def test_every_method_has_the_gradients_of_a_plain_run(make: Make) -> None:
    assert same(make) > 10


def test_so_do_runs_in_mixed_precision() -> None:
    assert same(on_one_base, half=True) > 10


def test_a_backward_pass_after_the_roles_were_switched_finds_each_role_as_it_was() -> None:
    found: list[list[Tensor | None]] = []
    for again in (False, True):
        model = tiny("llama")
        attending_by_layout(model)
        if again:
            checkpoint_activations(model)
        first, second = stirred(model, "one"), stirred(model, "other")
        losses = [Policy(model, stack=(name,))(packed_groups()).logprobs.sum() for name in ("one", "other")]
        with active(model, ()):
            (losses[0] - 2 * losses[1]).backward()
        found.append([part.grad for part in (*first, *second)])
    for plain, mine in zip(*found, strict=True):
        assert plain is not None
        assert mine is not None
        assert float(plain.abs().max()) > 0
        assert torch.equal(plain, mine)


def test_the_active_adapters_are_as_they_were_after_backward() -> None:
    model = tiny("llama")
    attending_by_layout(model)
    checkpoint_activations(model)
    stirred(model, "one")
    with active(model, ("one",)):
        loss = Policy(model, stack=("one",))(packed_groups()).logprobs.sum()
    with active(model, ()):
        loss.backward()
        assert active_in(model) == ()


def test_what_is_held_for_backward_no_longer_grows_with_what_a_layer_computes() -> None:
    peaks: list[int] = []
    for again in (False, True):
        model = tiny("llama", num_hidden_layers=12, intermediate_size=96)
        attending_by_layout(model)
        if again:
            assert checkpoint_activations(model) == 12
        policy, batch = Policy(model), packed_groups()

        def work(policy: Policy = policy, batch: object = batch) -> None:
            hidden = policy.trunk(cast("TokenBatch", batch))
            hidden.sum().backward()

        work()  # so that gradients exist
        peaks.append(peak_of(work, torch.device("cpu")))
    assert peaks[1] < 0.35 * peaks[0]


def test_passes_that_record_no_gradient_give_the_same() -> None:
    model = tiny("llama")
    attending_by_layout(model)
    plain = Policy(model)(packed_groups()).logprobs.detach()
    checkpoint_activations(model)
    with torch.inference_mode():
        assert torch.equal(Policy(model)(packed_groups()).logprobs, plain)


def test_a_model_without_layers_that_may_run_twice_is_refused() -> None:
    lone = cast("PreTrainedModel", tiny("llama").lm_head)
    with pytest.raises(ModelError, match="Linear has no layers that can run twice"):
        checkpoint_activations(lone)
