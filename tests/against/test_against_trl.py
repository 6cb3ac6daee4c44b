"""Finetuning and reward models, equal to TRL 1.16: the same text through its trainers, padded, and ours, packed.

Everything of TRL runs as it stands: tokenising, collating, padding, forward, loss. The tokens of its batch are what we
pack. Loss and gradient of every weight agree to 1e-5; where TRL means another loss, the test says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from our_side import assert_equal, conversations, ours, packed, policy, scored_items, sft_step
from peft import LoraConfig
from trl_side import PAIRS, Build, Theirs, classifier, pairs

from posttrain import objectives
from posttrain.data.rankings import reward_step
from posttrain.models.heads import ScalarModel, scalar_head
from posttrain.objectives import ScoreReader

pytestmark = [pytest.mark.medium, pytest.mark.filterwarnings("ignore")]  # TRL's own warnings are TRL's


COMPLETIONS = [{"prompt": prompt, "completion": chosen} for prompt, chosen, _ in PAIRS]


@pytest.mark.parametrize("answers_only", [True, False])
def test_finetuning_is_trls(build: Build, answers_only: bool) -> None:
    trl = build("sft", COMPLETIONS, completion_only_loss=answers_only)
    actor = policy()
    step = sft_step([conversations(trl.batch)])
    assert_equal(ours(objectives.sft(actor), step, actor.model), trl.loss())


def test_finetuning_over_two_micro_batches_is_trls_with_the_global_count_of_tokens(build: Build) -> None:
    trl = build("sft", COMPLETIONS, completion_only_loss=True)
    first, second = trl.rows([0, 1]), trl.rows([2])
    actor = policy()
    step = sft_step([conversations(first), conversations(second)])
    count = torch.tensor(step.counts["tokens"])
    parts = [trl.loss(batch, num_items_in_batch=count) for batch in (first, second)]
    summed = {name: parts[0][1][name] + parts[1][1][name] for name in parts[0][1]}
    assert_equal(ours(objectives.sft(actor), step, actor.model), (parts[0][0] + parts[1][0], summed))


def scorer(trl: Theirs) -> tuple[Any, ScalarModel]:
    """TRL's reward model twice on one set of weights: as the `transformers` library has it, for its names, and ours."""
    named = packed(classifier())
    named.load_state_dict(trl.trainer.model.state_dict())
    head = scalar_head(32)
    head.weight = named.score.weight
    return named, ScalarModel(named.model, head)


@pytest.mark.parametrize("margins", [(0.0, 0.0, 0.0), (0.5, 1.0, 0.25)])
def test_the_reward_model_is_trls_with_and_without_a_margin(build: Build, margins: Sequence[float]) -> None:
    rows = [{**row, "margin": margin} if any(margins) else row for row, margin in zip(pairs(), margins, strict=True)]
    trl = build("reward", rows)
    batch = trl.rows(range(len(rows)))
    named, model = scorer(trl)
    step = reward_step(scored_items(batch, margins), 10**9, ties="drop")
    objective = objectives.reward(ScoreReader(model=model), loss="pairwise")
    assert_equal(ours(objective, step, named), trl.loss(batch))


def test_trl_pulls_scores_to_zero_while_it_trains_and_ours_are_shifted_afterwards(build: Build) -> None:
    trl = build("reward", pairs(), center_rewards_coefficient=0.3)
    batch = trl.rows(range(3))
    named, model = scorer(trl)
    step = reward_step(scored_items(batch, (0.0,) * 3), 10**9, ties="drop")
    reader = ScoreReader(model=model)
    plain, _ = ours(objectives.reward(reader, loss="pairwise"), step, named)
    (batch_of_ours,) = step.micro_batches
    scores = reader(batch_of_ours.tokens, batch_of_ours.responses).view(-1, 2)
    assert trl.loss(batch)[0] - plain == pytest.approx(0.3 * float(scores.sum(1).square().mean()), abs=1e-5)


def test_trls_reward_head_stays_as_it_was_drawn_under_lora_unless_it_is_named(build: Build) -> None:
    trl = build("reward", pairs(), peft=LoraConfig(r=2, target_modules=["q_proj"]))
    trained = {name for name, part in trl.trainer.model.named_parameters() if part.requires_grad}
    assert trained
    assert not any("score" in name for name in trained)
    # ours trains and saves it: tests/recipes/test_recipes_end_to_end.py, `test_a_reward_adapter_scores_the_same_…`
