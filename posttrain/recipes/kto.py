"""KTO in the command `dpo`: single answers with labels, and rankings as such, against the baseline of each step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from posttrain import objectives
from posttrain.config import DPOConfig
from posttrain.console import Console
from posttrain.counted import counted
from posttrain.data.examples import LabelledItem
from posttrain.data.labels import Baseline, kto_step, labelled_batches, one_label
from posttrain.data.tokenise import labels
from posttrain.errors import DataError
from posttrain.models.heads import Policy
from posttrain.objectives import KTOLoss, answer_logprobs
from posttrain.recipes.machine import apart_from
from posttrain.recipes.mixture import Mixture, mixture
from posttrain.recipes.opening import Door
from posttrain.recipes.preferences import Method, Ready, check_reference
from posttrain.types import TokenBatch, moved

_UNEVEN = 2.0
"""How many times the answers of one label outweigh those of the other before that is said with a remedy."""


def read_labels(config: DPOConfig, door: Door) -> Mixture[LabelledItem]:
    """The labelled answers, those of rankings too. Raises DataError where all have one label."""
    check_reference(config, door)
    found = mixture(config, door, labels(door.codec, door.limit, config.overlong))
    answers = sum(int(store.column("answers", np.int64).sum()) for store in found.stores)
    good = sum(int(store.column("good", np.int64).sum()) for store in found.stores)
    bad = answers - good
    if not (good and bad):
        raise DataError([one_label(good, bad)])
    _say_balance(config, good, bad, door.console)
    return found


def _say_balance(config: DPOConfig, good: int, bad: int, console: Console) -> None:
    """Says the numbers of both labels, and which weight would make them count alike where they do not."""
    console.say(f"labels: {counted(good, 'answer')} good, {bad:,} bad")
    ratio = config.desirable_weight * good / (config.undesirable_weight * bad)
    if ratio > _UNEVEN:
        weight = f"undesirable_weight {config.desirable_weight * good / bad:.3g}"
        console.say(f"labels: the good weigh {ratio:.3g} times as much as the bad; {weight} makes them even")
    elif ratio < 1 / _UNEVEN:
        weight = f"desirable_weight {config.undesirable_weight * bad / good:.3g}"
        console.say(f"labels: the bad weigh {1 / ratio:.3g} times as much as the good; {weight} makes them even")


def labelled(config: DPOConfig, ready: Ready) -> Method[LabelledItem]:
    """Each answer by itself, against a baseline that is taken once a step over all of its rows."""
    if ready.reference is None:
        raise RuntimeError("kto has a reference")
    reference = ready.reference

    def log_ratio(batch: TokenBatch) -> Tensor:
        with torch.inference_mode(), ready.where.autocast():
            return _branches(ready.policy, batch) - _branches(reference, batch)

    apart = apart_from((ready.policy,), (reference,))
    found = Baseline(log_ratio=log_ratio, limit=ready.limit)

    def baseline(items: Sequence[LabelledItem], budget: int) -> float:
        with ready.where.lent(apart):  # a reference that waits in CPU memory is asked once a step
            return found(items, budget)

    numbers = KTOLoss(
        beta=ready.beta, desirable_weight=config.desirable_weight, undesirable_weight=config.undesirable_weight
    )
    return Method(
        step=lambda items, budget: kto_step(items, budget, baseline),
        batches=lambda items, budget: labelled_batches(items, budget, baseline),
        objective=objectives.kto(ready.policy, numbers),
        ahead=False,  # the baseline is the policy's as it stands
    )


def _branches(policy: Policy, batch: TokenBatch) -> Tensor:
    """The summed log-prob of every branch, float [R]."""
    batch = moved(batch, policy.device)
    return answer_logprobs(policy, batch, (batch.parent >= 0).nonzero().flatten())[0]
