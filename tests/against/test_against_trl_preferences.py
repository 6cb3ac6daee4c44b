"""The losses of preferences, equal to TRL 1.16; see `test_against_trl.py` for how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from our_side import Found, assert_equal, labelled_items, ours, policy, ranked_items, sft_step, with_reference
from transformers import AutoModelForCausalLM
from trl_side import REFERENCE, Build, pairs

from posttrain import objectives
from posttrain.config import DPOConfig
from posttrain.config.automatic import auto_beta
from posttrain.data.examples import RankedItem
from posttrain.data.rankings import dpo_step
from posttrain.objectives import response_logprobs
from posttrain.ops import losses
from posttrain.recipes.preferences import pair_objective
from posttrain.types import PrefixGroup, Span

pytestmark = [pytest.mark.medium, pytest.mark.filterwarnings("ignore")]  # TRL's own warnings are TRL's


def ours_of(items: Sequence[RankedItem], **settings: Any) -> Found:
    """The loss and gradient that `posttrain dpo` with these settings gives to rows in one micro-batch."""
    config = DPOConfig(model="model", data=[{"path": "rows.jsonl"}], out="out", **settings)
    beta = auto_beta(config.loss)[0] if config.beta == "auto" else config.beta
    actor = policy()
    step = dpo_step(items, 10**9, ties="drop", pair_weight="pair")
    return ours(pair_objective(config, actor, beta), step, actor.model)


# TRL's settings, and ours
AGAINST_REFERENCE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sigmoid": ({"loss_type": ["sigmoid"], "beta": 0.3}, {"beta": 0.3}),
    "hinge": ({"loss_type": ["hinge"], "beta": 0.3}, {"loss": "hinge", "beta": 0.3}),
    "robust": (
        {"loss_type": ["robust"], "beta": 0.3, "label_smoothing": 0.2},
        {"loss": "robust", "beta": 0.3, "label_smoothing": 0.2},
    ),
    "ipo": ({"loss_type": ["ipo"], "beta": 0.3}, {"loss": "ipo", "length_normalize": True, "beta": 0.3}),
    "length-normalised": ({"loss_type": ["sigmoid_norm"], "beta": 2.0}, {"length_normalize": True, "beta": 2.0}),
    "with the likelihood of the chosen": (
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7], "beta": 0.3},
        {"beta": 0.3, "nll": 0.7},
    ),
}


@pytest.mark.parametrize("loss", AGAINST_REFERENCE)
def test_preferences_with_a_reference_are_trls(build: Build, loss: str) -> None:
    their_settings, our_settings = AGAINST_REFERENCE[loss]
    trl = build("dpo", pairs(), **their_settings)
    items = with_reference(ranked_items(trl.batch), policy(REFERENCE))
    assert_equal(ours_of(items, **our_settings), trl.loss())


def test_ipo_of_sums_is_the_papers_where_trl_takes_means(build: Build) -> None:
    trl = build("dpo", pairs(), loss_type=["ipo"], beta=0.3)
    items = with_reference(ranked_items(trl.batch), policy(REFERENCE))
    found, _ = ours_of(items, loss="ipo", beta=0.3)
    actor = policy()
    by_hand = 0.0
    for one in items:
        (batch,) = dpo_step([one], 10**9, ties="drop", pair_weight="pair").micro_batches
        chosen, rejected = (response_logprobs(actor, batch) - batch.reference).tolist()
        by_hand += (chosen - rejected - 1 / 0.6) ** 2 / 3
    assert found == pytest.approx(by_hand, rel=1e-5)
    assert abs(found - trl.loss()[0]) > 1


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_simpo_is_trls_alone_and_with_the_likelihood_of_the_chosen(build: Build, alpha: float) -> None:
    trl = build("cpo", pairs(), loss_type="simpo", cpo_alpha=alpha, beta=2.0, simpo_gamma=0.5)
    items = labelled_items(trl.batch)
    assert_equal(ours_of(items, loss="simpo", beta=2.0, gamma=0.5, nll=alpha), trl.loss())


def test_orpo_is_trls_but_for_the_prompt_which_its_likelihood_counts_too(build: Build) -> None:
    trl = build("orpo", pairs(), beta=0.3)
    items = labelled_items(trl.batch)
    actor = policy()

    def likelihood(*, prompts: bool) -> Found:
        rows = [
            PrefixGroup(
                id="row",
                root=Span(
                    tokens=one.group.root.tokens + one.group.branches[0].tokens,
                    trained=(False, *[prompts] * (len(one.group.root.tokens) - 1), *one.group.branches[0].trained),
                ),
            )
            for one in items
        ]
        return ours(objectives.sft(actor), sft_step([rows]), actor.model)

    mine, theirs = ours_of(items, loss="orpo", lam=0.3), trl.loss()
    assert_equal(less(mine, likelihood(prompts=False)), less(theirs, likelihood(prompts=True)))
    assert abs(mine[0] - theirs[0]) > 1e-3


def less(whole: Found, part: Found) -> Found:
    """A loss and its gradient without a part of it."""
    return whole[0] - part[0], {name: whole[1][name] - part[1][name] for name in whole[1]}


@pytest.mark.parametrize("row", range(3))
def test_label_smoothing_is_trls_where_its_trainer_has_it(build: Build, row: int) -> None:
    # TRL smooths labels in `aot`, which sorts the margins of a batch first; in a batch of one there is nothing to sort
    trl = build("dpo", pairs(), loss_type=["aot"], beta=0.3, label_smoothing=0.2)
    batch = trl.rows([row])
    items = with_reference(ranked_items(batch), policy(REFERENCE))
    assert_equal(ours_of(items, beta=0.3, label_smoothing=0.2), trl.loss(batch))


def test_trl_averages_means_of_micro_batches_where_ours_divides_once(build: Build) -> None:
    trl = build("dpo", pairs(), loss_type=["sigmoid"], beta=0.3)
    reference = policy(REFERENCE)
    batches = [trl.rows([0, 1]), trl.rows([2])]
    means = [trl.loss(batch) for batch in batches]
    accumulated = (
        (means[0][0] + means[1][0]) / 2,
        {name: (means[0][1][name] + means[1][1][name]) / 2 for name in means[0][1]},
    )
    whole = trl.loss(trl.rows([0, 1, 2]))
    actor = policy()
    items = [one for batch in batches for one in with_reference(ranked_items(batch), reference)]
    step = dpo_step(items, len(items[0]) + len(items[1]), ties="drop", pair_weight="pair")
    assert len(list(step.micro_batches)) == 2
    mine = ours(objectives.dpo(actor, partial(losses.dpo, beta=0.3)), step, actor.model)
    assert_equal(mine, whole)
    assert abs(accumulated[0] - whole[0]) > 1e-3
    assert max(float((accumulated[1][name] - whole[1][name]).abs().max()) for name in whole[1]) > 1e-3


def test_at_step_0_trl_counts_every_pair_as_wrong_where_a_tie_is_half_right(build: Build) -> None:
    trl = build("dpo", pairs(), reference=0.0, loss_type=["sigmoid"])
    trl.loss()
    assert trl.trainer._metrics["train"]["rewards/accuracies"] == [0.0]
    actor = policy()
    items = with_reference(ranked_items(trl.batch), actor)
    step = dpo_step(items, 10**9, ties="drop", pair_weight="pair")
    accuracy = objectives.dpo(actor, partial(losses.dpo, beta=0.1))(next(iter(step.micro_batches))).metrics["accuracy"]
    assert float(accuracy.total / accuracy.count) == 0.5


def test_trl_reads_its_reference_from_where_the_model_came_from_whatever_became_of_it(
    build: Build, tiny_model: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():  # a merge, an edit, a training in memory
        for part in model.parameters():
            part.add_(0.05 * torch.randn_like(part))
    trl = build("dpo", pairs(), model=model, reference=None, loss_type=["sigmoid"])
    assert abs(trl.loss()[0] - math.log(2)) > 1e-3
    # ours is the policy at step 0: tests/recipes/test_recipes_roles.py, and log 2 in tests/test_objectives.py
