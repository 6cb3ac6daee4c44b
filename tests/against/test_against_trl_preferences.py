"""The losses of preferences, equal to TRL 1.16; see `test_against_trl.py` for how."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from our_side import assert_equal, ours, policy, ranked_items, with_reference
from trl_side import Build, pairs

from posttrain import objectives
from posttrain.data.rankings import dpo_step
from posttrain.objectives import PreferenceLoss
from posttrain.ops import losses

pytestmark = [pytest.mark.medium, pytest.mark.filterwarnings("ignore")]  # TRL's own warnings are TRL's
REFERENCE = 0.05  # how far TRL's reference is from its policy


SETTINGS: dict[str, tuple[dict[str, Any], PreferenceLoss]] = {
    "sigmoid": ({"loss_type": ["sigmoid"], "beta": 0.3}, partial(losses.dpo, beta=0.3)),
    "hinge": ({"loss_type": ["hinge"], "beta": 0.3}, partial(losses.hinge, beta=0.3)),
    "robust": (
        {"loss_type": ["robust"], "beta": 0.3, "label_smoothing": 0.2},
        partial(losses.robust, beta=0.3, label_smoothing=0.2),
    ),
}


@pytest.mark.parametrize("loss", SETTINGS)
def test_preferences_with_a_reference_are_trls(build: Build, loss: str) -> None:
    settings, mine = SETTINGS[loss]
    trl = build("dpo", pairs(), **settings)
    actor = policy()
    items = with_reference(ranked_items(trl.batch), policy(REFERENCE))
    step = dpo_step(items, 10**9, ties="drop", pair_weight="pair")
    assert_equal(ours(objectives.dpo(actor, mine), step, actor.model), trl.loss())


@pytest.mark.parametrize("row", range(3))
def test_label_smoothing_is_trls_where_its_trainer_has_it(build: Build, row: int) -> None:
    # TRL smooths labels in `aot`, which sorts the margins of a batch first; in a batch of one there is nothing to sort
    trl = build("dpo", pairs(), loss_type=["aot"], beta=0.3, label_smoothing=0.2)
    batch = trl.rows([row])
    actor = policy()
    items = with_reference(ranked_items(batch), policy(REFERENCE))
    step = dpo_step(items, 10**9, ties="drop", pair_weight="pair")
    mine = objectives.dpo(actor, partial(losses.dpo, beta=0.3, label_smoothing=0.2))
    assert_equal(ours(mine, step, actor.model), trl.loss(batch))


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
