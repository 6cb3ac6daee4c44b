"""What the commands of the preference family share: the settled numbers of a loss, its objective, its reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from posttrain import objectives
from posttrain.config import DPOConfig, OnlineDPOConfig
from posttrain.config.automatic import auto_beta, auto_reference
from posttrain.console import Console
from posttrain.data.examples import LabelledItem, RankedItem
from posttrain.data.pack import pack, split_by_tokens
from posttrain.data.rankings import dpo_step, ranked_batches
from posttrain.data.views import Changed
from posttrain.errors import ModelError
from posttrain.models.heads import Policy
from posttrain.objectives import PreferenceLoss, answer_logprobs
from posttrain.ops import losses
from posttrain.recipes import setup
from posttrain.recipes.opening import Door
from posttrain.recipes.scoring import same_words
from posttrain.text.chat import Codec
from posttrain.types import Batch, Objective, Step, moved

ItemT = TypeVar("ItemT", RankedItem, LabelledItem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What the automatic settings of a loss came to. `reference` is `start`, `none` or a model."""

    beta: float
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What a method needs besides its settings: the policy to train, its reference, and the longest row in tokens."""

    policy: Policy
    reference: Policy | None
    beta: float
    limit: int
    where: setup.Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Method(Generic[ItemT]):
    """How rows become optimizer steps, batches to measure, and a loss. The numbers are tokens of a micro-batch.

    `ahead`: a step may be made before the update before it is done.
    """

    step: Callable[[Sequence[ItemT], int], Step]
    batches: Callable[[Sequence[ItemT], int], Iterable[Batch]]
    objective: Objective
    ahead: bool = True


def pairs(config: DPOConfig, ready: Ready) -> Method[RankedItem]:
    """All pairs of each row's ranked answers."""
    return Method(
        step=partial(dpo_step, ties=config.ties, pair_weight=config.pair_weight),
        batches=partial(ranked_batches, ties=config.ties, pair_weight=config.pair_weight),
        objective=pair_objective(config, ready.policy, ready.beta),
    )


def settled(config: DPOConfig | OnlineDPOConfig, console: Console) -> Settled:
    """The settings that may be automatic, said where they are."""
    beta, reference = config.beta, config.reference
    if beta == "auto":
        beta, reason = auto_beta(config.loss)
        if config.loss != "orpo":
            console.choose("beta", beta, reason)
    if reference == "auto":
        reference, reason = auto_reference(config.loss)
        console.choose("reference", reference, reason)
    return Settled(beta=beta, reference=reference)


def other_reference(config: DPOConfig | OnlineDPOConfig) -> str | None:
    """The model that the policy is held to where that is not its own start; None otherwise."""
    return None if config.reference in ("auto", "start", "none") else config.reference


def check_reference(config: DPOConfig | OnlineDPOConfig, door: Door) -> None:
    """Raises ModelError when the reference would read other tokens than the policy, or too few."""
    other = other_reference(config)
    if other is None:
        return
    if not same_words(Codec.load(other, template=config.template), door.codec):
        raise ModelError(f"reference {other} has another tokenizer or template than {config.model}")
    if setup.context_of(other) < door.limit:
        raise ModelError(f"reference {other} has a context below max_length {door.limit}")


def pair_objective(config: DPOConfig | OnlineDPOConfig, policy: Policy, beta: float) -> Objective:
    """The chosen loss of pairs with its numbers."""
    return objectives.dpo(
        policy,
        pair_loss(config, beta),
        per_token=config.length_normalize or config.loss in ("simpo", "orpo"),
        nll=1.0 if config.loss == "orpo" else config.nll,
        reference=config.loss not in ("simpo", "orpo"),
    )


def pair_loss(config: DPOConfig | OnlineDPOConfig, beta: float) -> PreferenceLoss:
    """The loss of a pair, of log-probs that are sums, or means per token where the loss takes those."""
    match config.loss:
        case "sigmoid":
            return partial(losses.dpo, beta=beta, label_smoothing=config.label_smoothing)
        case "robust":
            return partial(losses.robust, beta=beta, label_smoothing=config.label_smoothing)
        case "simpo":
            return lambda chosen, rejected, _, __: losses.simpo(chosen, rejected, beta=beta, gamma=config.gamma)
        case "orpo":
            return lambda chosen, rejected, _, __: config.lam * losses.odds_ratio(chosen, rejected)
        case "ipo":
            return partial(losses.ipo, beta=beta)
        case _:
            return partial(losses.hinge, beta=beta)


# --- the reference's log-probs of rows ------------------------------------------------------------------------------


def reference_sums(
    items: Sequence[RankedItem | LabelledItem], reference: Policy, budget: int
) -> dict[str, NDArray[Any]]:
    """The reference's summed log-prob of every answer as `values`; those of item n begin at `starts[n]`."""
    parts: list[NDArray[np.float32]] = []
    starts = [0]
    with torch.inference_mode():
        for run in split_by_tokens(items, budget, size=len):
            batch = moved(pack([item.group for item in run]), reference.device)
            sums, _ = answer_logprobs(reference, batch, (batch.parent >= 0).nonzero().flatten())
            parts.append(sums.float().cpu().numpy())
            starts.extend(accumulate((len(item.group.branches) for item in run), initial=starts.pop()))
    return {"values": np.concatenate([np.zeros(0, np.float32), *parts]), "starts": np.array(starts)}


def with_reference(items: Sequence[ItemT], sums: Mapping[str, NDArray[Any]]) -> Sequence[ItemT]:
    """The rows with the reference's log-probs of their answers, which are kept as plain numbers."""
    values, starts = sums["values"], sums["starts"]

    def joined(place: int, item: ItemT) -> ItemT:
        return replace(item, reference=tuple(values[starts[place] : starts[place + 1]].tolist()))

    return Changed(items, joined)
