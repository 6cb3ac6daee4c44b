"""What each method minimises: a micro-batch to summed terms and mergeable metrics. Nothing here divides by a count.

Sums, not means: the loop divides each term once by its count over the whole step, so that the update does not depend
on how the step was cut into micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor

from posttrain.models.heads import Policy, PolicyOutput, ScalarModel, before
from posttrain.objectives.parts import mean as _mean
from posttrain.objectives.parts import ranked as _ranked
from posttrain.objectives.preferences import KTOLoss as KTOLoss
from posttrain.objectives.preferences import PreferenceLoss as PreferenceLoss
from posttrain.objectives.preferences import answer_logprobs as answer_logprobs
from posttrain.objectives.preferences import dpo as dpo
from posttrain.objectives.preferences import kto as kto
from posttrain.objectives.preferences import response_logprobs as response_logprobs
from posttrain.ops import kl, losses
from posttrain.ops.linear_head import Ahead, Proofs
from posttrain.ops.ragged import last_places, segment_mean, segment_sum
from posttrain.ops.wins import preferred
from posttrain.types import Apart, Batch, Largest, Mean, Objective, RolloutBatch, Scored, TargetBatch, Term, TokenBatch


def sft(policy: Policy) -> Objective:
    """Negative log-likelihood of the trained tokens; its count is their number."""

    proofs = Proofs()

    def score(batch: Batch) -> Scored:
        batch = _tokens(batch)
        total = _nll(policy(batch, ahead=Ahead(total=_nll, proofs=proofs)).logprobs)
        count = batch.trained.sum()
        return Scored(terms={"tokens": Term(total=total)}, metrics={"loss": _mean(total, count)})

    return score


def _nll(logprobs: Tensor) -> Tensor:
    return losses.nll(logprobs).sum()


def reward(scorer: ScoreReader, *, loss: str) -> Objective:
    """The ranking loss of a reward model, each prompt's pairs averaged; its count is the prompts with a strict pair."""

    def score(batch: Batch) -> Scored:
        batch = _ranked(batch)
        scores = scorer(batch.tokens, batch.responses)
        better, worse = scores[batch.pairs[:, 0]], scores[batch.pairs[:, 1]]
        if loss == "pairwise":
            total = (batch.weights * losses.pairwise(better, worse, batch.targets, batch.margins)).sum()
        else:
            prompts = batch.tokens.parents.count(-1)
            # The pairs of a prompt weigh as much together as its ranking does.
            weights = segment_sum(batch.weights, batch.prompt[batch.pairs[:, 0]], prompts)
            total = (weights * losses.plackett_luce(scores, batch.ranks, batch.prompt, prompts)).sum()
        strict = (batch.targets == 1.0).float()
        return Scored(
            terms={"prompts": Term(total=total)},
            metrics={
                "loss": _mean(total, batch.weights.sum()),
                "accuracy": _mean((preferred(better, worse) * strict).sum(), strict.sum()),
                "margin": _mean(((better - worse) * strict).sum(), strict.sum()),
                "score": _mean(scores.sum(), scores.new_full((), len(scores))),
            },
        )

    return score


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreReader:
    """Reads a scalar model's score of each response: after its last token, or its mean over the response's tokens."""

    model: ScalarModel
    mean: bool = False

    def __call__(self, batch: TokenBatch, responses: Tensor) -> Tensor:
        """Float32 [R] for int64 [R] response segments; an empty response is read after the last token of its prompt.

        [R, K] of a model with K outputs, which are read at the last token.
        """
        after = self.model(batch)
        segments = len(batch.parent)
        last = last_places(batch.segment, segments)
        places = torch.where(last >= 0, last, last[batch.parent])[responses]
        if not self.mean:
            return after[places]
        means = segment_mean(after, batch.segment, segments, torch.ones_like(batch.trained))[responses]
        return torch.where(last[responses] >= 0, means, after[places])


def head(reader: ScoreReader, *, classes: bool) -> Objective:
    """Cross-entropy to the class of each sequence, or the squared error to its number; its count is the sequences."""

    def score(batch: Batch) -> Scored:
        batch = cast("TargetBatch", batch)
        count = batch.targets.new_full((), len(batch.targets))
        outputs = reader(batch.tokens, torch.arange(len(batch.targets), device=batch.targets.device))
        loss = losses.cross_entropy if classes else losses.squared_error
        total = loss(outputs, batch.targets).sum()
        metrics = {"loss": _mean(total, count)}
        if classes:
            metrics["accuracy"] = _mean((outputs.argmax(dim=-1) == batch.targets).sum(), count)
        return Scored(terms={"rows": Term(total=total)}, metrics=metrics)

    return score


@dataclass(frozen=True, slots=True, kw_only=True)
class PPOLoss:
    """The numbers of the PPO loss.

    `kl` names the estimator (k2, k3) of the KL to the reference that the actor's loss holds, times the batch's `beta`;
    None leaves it out. `detach` keeps the critic's loss out of a trunk that it shares with the actor. `ptx` weighs the
    language-model loss of the text among the micro-batches.
    """

    clip: float
    value_clip: float | None
    value_coef: float
    entropy: float = 0.0
    detach: bool = False
    kl: str | None = None
    ptx: float = 0.0


def ppo(policy: Policy, critic: ScalarModel | None, numbers: PPOLoss, *, reader: Policy | None = None) -> Objective:
    """Clipped actor and critic losses, whose counts are the response tokens of the step, and `ptx` on text.

    The values come from the critic, whose loss then goes backwards by itself, or from the policy's own value head
    (layout `trunk`); without either there is no critic term, as for the critic-free baselines. `reader` is the policy
    at temperature 1: micro-batches of plain tokens are text, whose count is their trained tokens. Source of `ptx`:
    Ouyang 2022 (InstructGPT), equation 2.
    """

    proofs, proofs_of_text = Proofs(), Proofs()

    def actor(batch: Batch) -> Scored:
        if isinstance(batch, TokenBatch):
            return _text(batch, reader or policy, numbers.ptx, proofs_of_text)
        batch = _rollout(batch)
        terms: dict[str, Term] = {}
        metrics: dict[str, Mean | Largest] = {}
        if batch.train_actor:
            told = Ahead(total=partial(_actor_total, batch, numbers), proofs=proofs)
            spread = numbers.entropy != 0.0
            output = policy(batch.tokens, entropy=spread, detach_values=numbers.detach, ahead=told)
            _actor(batch, output, numbers, terms, metrics)
            shared = output.values
        else:  # the critic warms up, and the policy must not move, not even through a trunk that the two share
            shared = None if policy.value_head is None else policy.values(batch.tokens, detach=True)
        if critic is None and shared is not None:
            _critic(batch, shared, numbers, numbers.value_coef, terms, metrics)
        return Scored(terms=terms, metrics=metrics)

    if critic is None:
        return actor

    def values(batch: Batch) -> Scored:
        terms: dict[str, Term] = {}
        metrics: dict[str, Mean | Largest] = {}
        if not isinstance(batch, TokenBatch):
            batch = _rollout(batch)
            _critic(batch, before(batch.tokens, critic(batch.tokens)), numbers, 1.0, terms, metrics)
        return Scored(terms=terms, metrics=metrics)

    return Apart((actor, values))


def _text(batch: TokenBatch, reader: Policy, weight: float, proofs: Proofs) -> Scored:
    total = _nll(reader(batch, ahead=Ahead(total=_nll, proofs=proofs)).logprobs)
    return Scored(
        terms={"ptx": Term(total=total, weight=weight)}, metrics={"ptx_loss": _mean(total, batch.trained.sum())}
    )


def _actor(
    batch: RolloutBatch,
    output: PolicyOutput,
    numbers: PPOLoss,
    terms: dict[str, Term],
    metrics: dict[str, Mean | Largest],
) -> None:
    places = batch.tokens.places
    count = batch.tokens.trained.sum()
    logprobs, old = output.logprobs[places], batch.old[places]
    surrogate, away = _surrogate(batch, numbers, output.logprobs)
    total = surrogate if away is None else surrogate + batch.beta * away
    metrics["actor_loss"] = _mean(surrogate, count)
    if away is not None:
        metrics["kl_loss"] = _mean(away, count)
    if output.entropy is not None:
        total = total - numbers.entropy * output.entropy[places].sum()
        metrics["entropy"] = _mean(output.entropy[places].sum(), count)
    terms["actor"] = Term(total=total)
    with torch.no_grad():
        ratio = (logprobs - old).exp()
        clipped = losses.is_clipped(logprobs, old, batch.advantages[places], numbers.clip).float()
        metrics["ratio"] = _mean(ratio.sum(), count)
        metrics["ratio_max"] = Largest(value=ratio.amax() if len(ratio) else ratio.new_ones(()))
        metrics["clip_fraction"] = _mean(clipped.sum(), count)
        metrics["step_kl"] = _mean(kl.k3(old, logprobs).sum(), count)


def _surrogate(batch: RolloutBatch, numbers: PPOLoss, logprobs: Tensor) -> tuple[Tensor, Tensor | None]:
    """The clipped loss of log-probs [T], and their KL to the reference where the loss holds it; both sums."""
    places = batch.tokens.places
    now = logprobs[places]
    surrogate = losses.clipped_policy(now, batch.old[places], batch.advantages[places], numbers.clip).sum()
    return surrogate, None if numbers.kl is None else kl.ESTIMATORS[numbers.kl](now, batch.reference[places]).sum()


def _actor_total(batch: RolloutBatch, numbers: PPOLoss, logprobs: Tensor) -> Tensor:
    surrogate, away = _surrogate(batch, numbers, logprobs)
    return surrogate if away is None else surrogate + batch.beta * away


def _critic(
    batch: RolloutBatch,
    values: Tensor,
    numbers: PPOLoss,
    weight: float,
    terms: dict[str, Term],
    metrics: dict[str, Mean | Largest],
) -> None:
    places = batch.tokens.places
    now, old, wanted = values[places], batch.values[places], batch.returns[places]
    total = losses.clipped_value(now, old, wanted, numbers.value_clip).sum()
    terms["critic"] = Term(total=total, weight=weight)
    metrics["critic_loss"] = _mean(total, batch.tokens.trained.sum())


def _tokens(batch: Batch) -> TokenBatch:
    return cast("TokenBatch", batch)


def _rollout(batch: Batch) -> RolloutBatch:
    return cast("RolloutBatch", batch)
