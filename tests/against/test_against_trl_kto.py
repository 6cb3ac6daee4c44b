"""KTO, equal to TRL 1.16 with its baseline, which is of a micro-batch where ours is of the step."""

from __future__ import annotations

import pytest
import torch
from our_side import assert_equal, labelled_batch, mismatched, ours, policy
from trl_side import PAIRS, Build, Theirs

from posttrain import objectives
from posttrain.objectives import KTOLoss
from posttrain.ops.losses import kto_baseline
from posttrain.types import Step

pytestmark = [pytest.mark.medium, pytest.mark.filterwarnings("ignore")]  # TRL's own warnings are TRL's
ROWS = [
    {"prompt": prompt, "completion": answer, "label": good}
    for prompt, chosen, rejected in PAIRS
    for answer, good in ((rejected, False), (chosen, True))
]
REFERENCE = -0.05  # this side of the policy the baseline is above 0, where it is not cut
NUMBERS = KTOLoss(beta=0.3, desirable_weight=1.5, undesirable_weight=0.5)


def trainer(build: Build) -> Theirs:
    return build("kto", ROWS, reference=REFERENCE, beta=0.3, desirable_weight=1.5, undesirable_weight=0.5)


def test_kto_is_trls_on_the_baseline_of_its_batch(build: Build) -> None:
    trl = trainer(build)
    actor, reference = policy(), policy(REFERENCE)
    baseline = kto_baseline(mismatched(trl.batch, actor, reference))
    assert float(baseline) > 0.1  # else the test would not see it
    batch = labelled_batch(trl.batch, reference, baseline)
    step = Step(micro_batches=[batch], counts={"answers": float(len(ROWS))})
    assert_equal(ours(objectives.kto(actor, NUMBERS), step, actor.model), trl.loss())


def test_trl_has_a_baseline_for_each_micro_batch_where_ours_is_one_for_the_step(build: Build) -> None:
    trl = trainer(build)
    actor, reference = policy(), policy(REFERENCE)
    parts = [trl.rows(rows) for rows in ([0, 1, 2], [3, 4, 5])]
    log_ratios = [mismatched(part, actor, reference) for part in parts]
    baseline = kto_baseline(torch.cat(log_ratios))
    step = Step(
        micro_batches=[labelled_batch(part, reference, baseline) for part in parts],
        counts={"answers": float(len(ROWS))},
    )
    mine = ours(objectives.kto(actor, NUMBERS), step, actor.model)
    assert_equal(mine, trl.loss(trl.rows(range(6))))  # in one micro-batch its baseline is the step's
    theirs = [trl.loss(part)[0] for part in parts]
    assert float((kto_baseline(log_ratios[0]) - kto_baseline(log_ratios[1])).abs()) > 0.1
    assert abs(sum(theirs) / 2 - mine[0]) > 1e-3
