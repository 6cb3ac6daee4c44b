"""What the preference family minimises: pairs against a reference or without one, and answers with labels.

A loss here is of log-probs of whole answers, sums over their tokens or means per token; `nll` adds the likelihood of
the best answers, which has a count of its own: their tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from posttrain.models.heads import Policy
from posttrain.objectives.parts import mean, ranked
from posttrain.ops import losses
from posttrain.ops.linear_head import Ahead, Proofs
from posttrain.ops.ragged import segment_sum
from posttrain.ops.wins import preferred
from posttrain.types import Batch, LabelledBatch, Mean, Objective, RankedBatch, Scored, Term, TokenBatch

PreferenceLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(chosen, rejected, reference chosen, reference rejected) log-probs of answers [N] to losses [N]."""


def dpo(
    policy: Policy, loss: PreferenceLoss, *, per_token: bool = False, nll: float = 0.0, reference: bool = True
) -> Objective:
    """A preference loss over the pairs, a tie as half of either order; its count is their summed weight.

    The log-probs of an answer are sums over its tokens, with `per_token` their means. `nll` > 0 adds that many times
    the negative log-likelihood of each prompt's best answers, divided by the number of their tokens (count `chosen`).
    Without a `reference` the batch holds zeros for it, and the metrics speak of log-probs instead of log-ratios.
    The metrics but `loss` are of strict pairs: a tie has no better answer.
    """
    what = "logratio" if reference else "logprob"

    proofs = Proofs()

    def pairs(batch: RankedBatch, sums: Tensor, share: Tensor) -> Tensor:
        logprobs, held = sums / share, batch.reference / share
        better, worse = batch.pairs[:, 0], batch.pairs[:, 1]
        values = batch.targets * loss(logprobs[better], logprobs[worse], held[better], held[worse])
        turned = loss(logprobs[worse], logprobs[better], held[worse], held[better])
        return (batch.weights * (values + (1 - batch.targets) * turned)).sum()

    def score(batch: Batch) -> Scored:
        batch = ranked(batch)
        lengths = answer_lengths(batch.tokens, batch.responses)
        share = lengths if per_token else torch.ones_like(lengths)
        # With `nll` the two parts have counts of their own: their sum cannot be told ahead.
        told = None if nll else _told(batch, lambda sums: pairs(batch, sums, share), proofs)
        sums = answer_sums(policy(batch.tokens, ahead=told).logprobs, batch.tokens, batch.responses)
        total = pairs(batch, sums, share)
        ratio = (sums - batch.reference) / share
        terms = {"pairs": Term(total=total)}
        metrics = {"loss": mean(total, batch.weights.sum()), **_of_pairs(batch, ratio, what)}
        if nll:
            likelihood = losses.nll(batch.best * sums).sum()
            terms["chosen"] = Term(total=likelihood, weight=nll)
            metrics["nll"] = mean(likelihood, (batch.best * lengths).sum())
        return Scored(terms=terms, metrics=metrics)

    return score


def _of_pairs(batch: RankedBatch, ratio: Tensor, what: str) -> dict[str, Mean]:
    """Accuracy, margin and both sides of the strict pairs, by their weight; `ratio`: float [R]."""
    better, worse = batch.pairs[:, 0], batch.pairs[:, 1]
    strict = batch.weights * (batch.targets == 1.0)
    return {
        "accuracy": mean((strict * preferred(ratio[better], ratio[worse])).sum(), strict.sum()),
        "margin": mean((strict * (ratio[better] - ratio[worse])).sum(), strict.sum()),
        f"chosen_{what}": mean((strict * ratio[better]).sum(), strict.sum()),
        f"rejected_{what}": mean((strict * ratio[worse]).sum(), strict.sum()),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class KTOLoss:
    """The numbers of KTO: beta, and how much the answers of either label weigh."""

    beta: float = 0.1
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0


def kto(policy: Policy, numbers: KTOLoss) -> Objective:
    """KTO over labelled answers; its count is their summed weight, which the weights of the labels do not enter.

    The baseline z0 belongs to the whole step and comes with the batch. `accuracy` is the share of answers on their
    label's side of it.
    """

    proofs = Proofs()

    def answers(batch: LabelledBatch, sums: Tensor) -> Tensor:
        values = losses.kto(
            sums - batch.reference, batch.desirable, batch.baseline, numbers.beta,
            numbers.desirable_weight, numbers.undesirable_weight,
        )  # fmt: skip
        return (batch.weights * values).sum()

    def score(batch: Batch) -> Scored:
        batch = cast("LabelledBatch", batch)
        told = _told(batch, lambda sums: answers(batch, sums), proofs)
        sums = answer_sums(policy(batch.tokens, ahead=told).logprobs, batch.tokens, batch.responses)
        ratio = sums - batch.reference
        total = answers(batch, sums)
        above = preferred(ratio, batch.baseline.expand_as(ratio))
        right = torch.where(batch.desirable, above, 1 - above)
        good, bad = batch.weights * batch.desirable, batch.weights * ~batch.desirable
        return Scored(
            terms={"answers": Term(total=total)},
            metrics={
                "loss": mean(total, batch.weights.sum()),
                "accuracy": mean((batch.weights * right).sum(), batch.weights.sum()),
                "desirable_logratio": mean((good * ratio).sum(), good.sum()),
                "undesirable_logratio": mean((bad * ratio).sum(), bad.sum()),
            },
        )

    return score


def response_logprobs(policy: Policy, batch: RankedBatch | LabelledBatch) -> Tensor:
    """The summed log-prob of each response, float [R]."""
    return answer_logprobs(policy, batch.tokens, batch.responses)[0]


def answer_logprobs(policy: Policy, tokens: TokenBatch, responses: Tensor) -> tuple[Tensor, Tensor]:
    """The summed log-prob of each response and the number of its trained tokens, at least 1; both float [R]."""
    logprobs = policy(tokens).logprobs
    return answer_sums(logprobs, tokens, responses), answer_lengths(tokens, responses).to(logprobs.dtype)


def answer_sums(logprobs: Tensor, tokens: TokenBatch, responses: Tensor) -> Tensor:
    """The summed log-prob of each response, float [R], from those of the tokens [T]."""
    return segment_sum(logprobs, tokens.segment, len(tokens.parent))[responses]


def answer_lengths(tokens: TokenBatch, responses: Tensor) -> Tensor:
    """The number of each response's trained tokens, at least 1, float [R]."""
    return segment_sum(tokens.trained.float(), tokens.segment, len(tokens.parent))[responses].clamp_min(1)


def _told(batch: RankedBatch | LabelledBatch, total: Callable[[Tensor], Tensor], proofs: Proofs) -> Ahead:
    """A loss of the summed log-probs [R] of answers, told ahead: only answers to one prompt enter it together."""
    tokens = batch.tokens
    sizes: list[int] = []
    for parent, learns in zip(tokens.parents, tokens.learns, strict=True):
        if parent < 0:
            sizes.append(learns)
        else:
            sizes[-1] += learns
    return Ahead(
        total=lambda logprobs: total(answer_sums(logprobs, tokens, batch.responses)), sizes=sizes, proofs=proofs
    )
