"""Our side of a comparison with TRL: its padded tokens packed, our objective's loss and gradient, and both compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trl_side import causal

from posttrain.data.examples import LabelledItem, RankedItem
from posttrain.data.pack import pack
from posttrain.data.rankings import dpo_step
from posttrain.loop import loss_of
from posttrain.models.attention import IMPLEMENTATION, register
from posttrain.models.heads import Policy
from posttrain.objectives import answer_logprobs, response_logprobs
from posttrain.types import Objective, PrefixGroup, Span, Step, TokenBatch

Found = tuple[float, dict[str, Tensor]]
"""A loss, and the gradient of each weight."""


def packed(model: Any) -> Any:
    """The model with our packed attention."""
    register()
    model.set_attn_implementation(IMPLEMENTATION)
    return model


def policy(off: float = 0.0) -> Policy:
    """The weights that TRL's trainer has, `off` as for `causal`."""
    return Policy(packed(causal(off)))


def gradient_of(model: nn.Module) -> dict[str, Tensor]:
    """The gradient of every parameter, by name."""
    return {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}


def ours(objective: Objective, step: Step, model: nn.Module) -> Found:
    """The loss of a step, its micro-batches added up, and its gradient by parameter name."""
    model.zero_grad()
    total = 0.0
    for batch in step.micro_batches:
        loss = loss_of(objective(batch), step.counts)
        assert loss is not None
        loss.backward()
        total += float(loss.detach())
    return total, gradient_of(model)


def assert_equal(mine: Found, trl: Found) -> None:
    """Loss and gradient of every weight agree to 1e-5, and the gradient is none that vanishes."""
    assert mine[0] == pytest.approx(trl[0], abs=1e-5)
    assert set(mine[1]) == set(trl[1])
    assert max(float(part.abs().max()) for part in trl[1].values()) > 1e-3
    for name, part in trl[1].items():
        torch.testing.assert_close(mine[1][name], part, rtol=1e-5, atol=1e-5, msg=lambda said, at=name: f"{at}: {said}")


# --- TRL's batches as ours --------------------------------------------------------------------------------------


def conversations(batch: Mapping[str, Any]) -> list[PrefixGroup]:
    """The rows that TRL collated for SFT; trained are those with a label, but the first, which nothing predicts."""
    found: list[PrefixGroup] = []
    for ids, labels, attended in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        there = attended == 1
        trained = (False, *(labels[there][1:] != -100).tolist())
        found.append(PrefixGroup(id="row", root=Span(tokens=tuple(ids[there].tolist()), trained=trained)))
    return found


def sft_step(batches: Sequence[Sequence[PrefixGroup]]) -> Step:
    """A step of finetuning from micro-batches, its count being all of their trained tokens."""
    micro = [pack(groups) for groups in batches]
    return Step(micro_batches=micro, counts={"tokens": float(sum(int(batch.trained.sum()) for batch in micro))})


def item(prompt: Sequence[int], answers: Sequence[Sequence[int]], **changes: Any) -> RankedItem:
    """A ranking of answers to a prompt, the first the better."""
    group = PrefixGroup(
        id="row",
        root=Span.all(prompt, trained=False),
        branches=tuple(Span.all(answer, trained=True) for answer in answers),
    )
    given: dict[str, Any] = {"ranks": (1, 2), "weight": 1.0, "margin": 0.0, "annotator": None, **changes}
    return RankedItem(group=group, **given)


def ranked_items(batch: Mapping[str, Any]) -> list[RankedItem]:
    """The pairs that TRL collated for DPO: the chosen half, then the rejected one."""
    half = len(batch["input_ids"]) // 2
    found: list[RankedItem] = []
    for row in range(half):
        (prompt, chosen), (again, rejected) = (
            _split(batch["input_ids"][at], batch["attention_mask"][at], batch["completion_mask"][at])
            for at in (row, row + half)
        )
        assert prompt == again
        found.append(item(prompt, (chosen, rejected)))
    return found


def labelled_items(batch: Mapping[str, Any]) -> list[RankedItem]:
    """The pairs that TRL's older trainers collated: chosen and rejected rows apart, prompts without a label."""
    found: list[RankedItem] = []
    for row in range(len(batch["chosen_input_ids"])):
        (prompt, chosen), (again, rejected) = (
            _split(
                batch[f"{side}_input_ids"][row],
                batch[f"{side}_attention_mask"][row],
                (batch[f"{side}_labels"][row] != -100).long(),
            )
            for side in ("chosen", "rejected")
        )
        assert prompt == again
        found.append(item(prompt, (chosen, rejected)))
    return found


def scored_items(batch: Mapping[str, Any], margins: Sequence[float]) -> list[RankedItem]:
    """The pairs that TRL collated for a reward model; what both rows begin with is the prompt."""
    half = len(batch["input_ids"]) // 2
    found: list[RankedItem] = []
    for row in range(half):
        chosen, rejected = (
            tuple(batch["input_ids"][at][batch["attention_mask"][at] == 1].tolist()) for at in (row, row + half)
        )
        shared = next(at for at, (one, other) in enumerate(zip(chosen, rejected, strict=False)) if one != other)
        found.append(item(chosen[:shared], (chosen[shared:], rejected[shared:]), margin=margins[row]))
    return found


def judged_items(batch: Mapping[str, Any], reference: Policy) -> list[LabelledItem]:
    """The labelled answers that TRL collated for KTO, with what the reference gives them."""
    found: list[LabelledItem] = []
    rows = (batch["input_ids"], batch["attention_mask"], batch["completion_mask"], batch["label"])
    for ids, attended, completion, label in zip(*rows, strict=True):
        prompt, answer = _split(ids, attended, completion)
        group = item(prompt, [answer]).group
        with torch.no_grad():
            held = log_probs(reference, pack([group])).tolist()
        found.append(LabelledItem(group=group, labels=(bool(label),), weight=1.0, reference=tuple(held)))
    return found


def log_probs(model: Policy, batch: TokenBatch) -> Tensor:
    """The summed log-prob of each branch, float [R]."""
    return answer_logprobs(model, batch, (batch.parent >= 0).nonzero().flatten())[0]


def with_reference(items: Sequence[RankedItem], reference: Policy) -> list[RankedItem]:
    """The rankings with what the reference gives their answers, each prompt in a batch of its own."""
    found: list[RankedItem] = []
    for one in items:
        (batch,) = dpo_step([one], 10**9, ties="drop", pair_weight="pair").micro_batches
        with torch.no_grad():
            found.append(replace(one, reference=tuple(response_logprobs(reference, batch).tolist())))
    return found


def _split(ids: Tensor, attended: Tensor, completion: Tensor) -> tuple[list[int], list[int]]:
    """The tokens of a padded row: those of the prompt and those of the answer."""
    there = attended == 1
    return ids[there & (completion == 0)].tolist(), ids[there & (completion == 1)].tolist()
