"""KTO, equal to TRL 1.16 where its baseline is that of the step and of other prompts; see `test_against_trl.py`."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from our_side import assert_equal, judged_items, log_probs, ours, policy
from trl_side import PAIRS, Build, Theirs

from posttrain import objectives
from posttrain.data.examples import LabelledItem
from posttrain.data.labels import Baseline, kto_step
from posttrain.models.heads import Policy
from posttrain.objectives import KTOLoss
from posttrain.types import TokenBatch

pytestmark = [pytest.mark.medium, pytest.mark.filterwarnings("ignore")]  # TRL's own warnings are TRL's
REFERENCE = -0.05  # this side of the policy the baseline is above 0, where it is not cut
NUMBERS = KTOLoss(beta=0.3, desirable_weight=1.5, undesirable_weight=0.5)
OTHERS = [("What is 2 + 2?", " 4", True), ("Bye", " Hello", False), ("Sing!", " La la la la", True)]
ROWS = [(prompt, chosen, number != 1) for number, (prompt, chosen, _) in enumerate(PAIRS)] + OTHERS


def trainer(build: Build, rows: Sequence[tuple[str, str, bool]]) -> Theirs:
    data = [{"prompt": prompt, "completion": answer, "label": good} for prompt, answer, good in rows]
    return build("kto", data, reference=REFERENCE, beta=0.3, desirable_weight=1.5, undesirable_weight=0.5)


def baseline(actor: Policy) -> Baseline:
    reference = policy(REFERENCE)

    def log_ratio(batch: TokenBatch) -> torch.Tensor:
        with torch.no_grad():
            return log_probs(actor, batch) - log_probs(reference, batch)

    return Baseline(log_ratio=log_ratio, limit=256)


def items(trl: Theirs) -> list[LabelledItem]:
    """The rows in the order of the data set, which decides what answer is put to which prompt."""
    return judged_items(trl.rows(range(len(trl.trainer.train_dataset))), policy(REFERENCE))


def test_kto_is_trls_where_all_rows_are_one_micro_batch_and_neighbours_ask_other_prompts(build: Build) -> None:
    trl = trainer(build, ROWS)
    actor = policy()
    step = kto_step(items(trl), 60, baseline(actor))
    assert len(list(step.micro_batches)) > 1  # ours may be cut, its baseline is the step's all the same
    assert step.metrics["z0"] > 0.1  # else the test would not see it
    assert_equal(ours(objectives.kto(actor, NUMBERS), step, actor.model), trl.loss(trl.rows(range(len(ROWS)))))


def test_trl_has_a_baseline_for_each_micro_batch_where_ours_is_one_for_the_step(build: Build) -> None:
    trl = trainer(build, ROWS)
    halves = [trl.loss(trl.rows(rows))[0] for rows in ([0, 1, 2], [3, 4, 5])]
    actor = policy()
    found, _ = ours(objectives.kto(actor, NUMBERS), kto_step(items(trl), 60, baseline(actor)), actor.model)
    assert abs(sum(halves) / 2 - found) > 1e-3


def test_trl_puts_an_answer_to_its_own_prompt_where_neighbours_ask_the_same_and_ours_looks_further(
    build: Build,
) -> None:
    twice = [
        (prompt, answer, good) for prompt, *pair in PAIRS for answer, good in zip(pair, (True, False), strict=True)
    ]
    trl = trainer(build, twice)
    trl.loss(trl.rows(range(len(twice))))
    (theirs,) = trl.trainer._metrics["train"]["kl"]
    actor = policy()
    mine = kto_step(items(trl), 10**6, baseline(actor)).metrics["z0"]
    collated = trl.rows(range(len(twice)))
    prompts = [
        ids[(attended == 1) & (completion == 0)].tolist()
        for ids, attended, completion in zip(
            collated["input_ids"], collated["attention_mask"], collated["completion_mask"], strict=True
        )
    ]
    assert prompts[0] == prompts[1]  # what TRL puts to the second prompt is the first answer to that very prompt
    assert abs(theirs - mine) > 0.1
