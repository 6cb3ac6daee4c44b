"""Samples to experience: reference log-probs, values and scores, then rewards, advantages and returns per token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from posttrain.data.pack import split_by_tokens
from posttrain.ops import credit, kl, ragged
from posttrain.ops.statistics import pearson
from posttrain.rollout.buffer import Rollouts, pack_answers
from posttrain.rollout.grading import failed, graded, grades_of
from posttrain.types import Completion, LogprobFn, Scorer, ValueFn


@dataclass(frozen=True, slots=True, kw_only=True)
class CreditRules:
    """How scores and KL become advantages: `docs/methods.md`, "RLHF with PPO", has the formulas."""

    form: str
    estimator: str
    score_clip: float | None
    missing_eos_penalty: float
    gamma: float
    lam: float
    whiten: bool
    baseline: str
    kl_in_reward: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotators:
    """The frozen views of the models. `actor` is needed only where the sampler's own log-probs are not trusted.

    `exact` gives the KL over the whole vocabulary, for the estimator of that name; `scale` is what scores are divided
    by, from the scores of the step.
    """

    reference: LogprobFn
    scorer: Scorer
    value: ValueFn | None
    actor: LogprobFn | None
    budget: int
    total: Callable[[Tensor], Tensor] = ragged.identity
    exact: LogprobFn | None = None
    scale: Callable[[Tensor], float] = lambda scores: 1.0


def annotate(
    completions: Sequence[Completion],
    prompts: Sequence[int],
    models: Annotators,
    rules: CreditRules,
    beta: float,
) -> Rollouts:
    """Every quantity of every answer token. `prompts` numbers the prompt of each answer; equal numbers are neighbours.

    An answer without a score takes no part: not in groups, whitening, counts or health; it stands in the failures.
    Raises Diverged for a score that is not finite without a failure to explain it, naming the prompt.
    """
    grades = grades_of(models.scorer, completions)
    failures = failed(grades, completions)
    kept = graded(grades)
    completions, prompts = [completions[row] for row in kept], [prompts[row] for row in kept]
    lengths = torch.tensor([len(completion.tokens) for completion in completions], dtype=torch.int64)
    response = torch.repeat_interleave(torch.arange(len(completions)), lengths)
    captured = torch.tensor([value for completion in completions for value in completion.logprobs])
    old = captured if models.actor is None else over_answers(models.actor, completions, prompts, models.budget)
    reference = over_answers(models.reference, completions, prompts, models.budget)
    values = torch.zeros_like(old)
    if models.value is not None:
        values = over_answers(models.value, completions, prompts, models.budget)
    scores = grades.total[kept]
    scale = models.scale(scores)
    stopped = torch.tensor([completion.stopped for completion in completions], dtype=torch.bool)
    settled = credit.settled_scores(
        credit.scaled_scores(scores, scale),
        stopped,
        clip=rules.score_clip,
        missing_eos_penalty=rules.missing_eos_penalty,
    )
    trained = torch.ones_like(response, dtype=torch.bool)
    if models.exact is None:
        divergence = kl.ESTIMATORS[rules.estimator](old, reference)
    else:
        divergence = over_answers(models.exact, completions, prompts, models.budget)
    coefficient = beta if rules.kl_in_reward else 0.0
    rewards = credit.FORMS[rules.form](settled, divergence, response, trained, coefficient)
    group = torch.tensor(list(prompts), dtype=torch.int64)
    advantages, returns = _advantages(rewards, values, response, trained, group, rules)
    numbers = {
        "beta": beta,
        "scale": scale if scale > credit.SMALLEST_DEVIATION else 1.0,
        "mean": 0.0,
        "deviation": 1.0,
    }
    if rules.whiten:
        mean, deviation = ragged.moments(advantages, trained, total=models.total)
        numbers |= {"mean": float(mean), "deviation": float(deviation)}
        advantages = ragged.whiten(advantages, trained, total=models.total)
    return Rollouts(
        completions=tuple(completions), prompts=tuple(prompts), response=response, scores=scores, settled=settled,
        old=old, reference=reference, kl=divergence, values=values, rewards=rewards, advantages=advantages,
        returns=returns, parts={name: values[kept] for name, values in grades.parts.items()}, failures=failures,
        numbers=numbers,
    )  # fmt: skip


def _advantages(
    rewards: Tensor, values: Tensor, response: Tensor, trained: Tensor, group: Tensor, rules: CreditRules
) -> tuple[Tensor, Tensor]:
    if rules.baseline in ("critic", "none"):
        # Without a critic the advantage is the return itself: V = 0 and lambda = 1.
        lam = rules.lam if rules.baseline == "critic" else 1.0
        return credit.gae(rewards, values, response, trained, rules.gamma, lam)
    total = ragged.segment_sum(rewards, response, len(group))
    among = credit.rloo_advantages if rules.baseline == "rloo" else credit.group_advantages
    advantages = among(total, group)[response]
    return advantages, advantages + values


def over_answers(
    model: Callable[..., Tensor], completions: Sequence[Completion], prompts: Sequence[int], budget: int
) -> Tensor:
    """A per-token function of packed batches at the answer tokens, float [M], in the order of the answers."""
    parts: list[tuple[Tensor, Tensor]] = []
    rows = range(len(completions))
    size = [len(completion.prompt.tokens) + len(completion.tokens) for completion in completions]
    with torch.inference_mode():
        for run in split_by_tokens(rows, budget, size=lambda row: size[row]):
            batch = pack_answers([completions[row] for row in run], [prompts[row] for row in run])
            parts.append((model(batch), batch.places))
        # Fetched when all are under way: until then the device has no need to wait.
        found = [values.cpu()[places] for values, places in parts]
    # A copy outside inference mode, so that the training step may save it for backward.
    return torch.cat(found).clone() if found else torch.zeros(0)


def health(
    rollouts: Rollouts,
    total: Callable[[Tensor], Tensor] = ragged.identity,
    *,
    estimator: str = "k1",
    beta_in_loss: float = 0.0,
) -> dict[str, float]:
    """What a round shows of the policy: scores, KL per answer, lengths, endings, repetition, and the critic's fit.

    `kl` is k1, the others name their estimator: `kl_k3` always, and that of `rollouts.kl`. `objective` is what PPO
    raises: an answer's rewards, KL and all, less `beta_in_loss` times its KL where that is in the loss.
    """
    answers = rollouts.completions
    lengths = torch.tensor([float(len(answer.tokens)) for answer in answers])
    k3 = kl.k3(rollouts.old, rollouts.reference)
    sums = torch.stack(
        [
            torch.tensor(float(len(answers))),
            lengths.sum(),
            rollouts.scores.sum(),
            rollouts.settled.sum(),
            (rollouts.old - rollouts.reference).sum(),
            k3.sum(),
            torch.tensor(float(sum(answer.stopped for answer in answers))),
            rollouts.old.neg().sum(),
            torch.tensor(sum(distinct_bigrams(answer.tokens) for answer in answers)),
            rollouts.rewards.sum(),
            rollouts.kl.sum(),
        ]
    )
    count, tokens, score, settled, nats, nats_k3, stopped, surprise, distinct, rewards, away = total(
        sums.double()
    ).tolist()
    count = max(1.0, count)
    found = {
        "score": score / count,
        "reward": settled / count,
        "kl": nats / count,
        "kl_k3": nats_k3 / count,
        "objective": (rewards - beta_in_loss * away) / count,
        "length": tokens / count,
        "stopped": stopped / count,
        "sampled_entropy": surprise / max(1.0, tokens),
        "distinct_bigrams": distinct / count,
        "score_length_correlation": pearson(rollouts.scores, lengths),
    }
    if estimator not in ("k1", "k3"):
        found[f"kl_{estimator}"] = away / count
    found |= {name: float(values.mean()) for name, values in rollouts.parts.items()}
    if rollouts.failures:
        found["unscored"] = float(rollouts.unscored)
    if bool(rollouts.values.any()):
        everywhere = torch.ones_like(rollouts.response, dtype=torch.bool)
        found["explained_variance"] = float(ragged.explained_variance(rollouts.values, rollouts.returns, everywhere))
    return found


def distinct_bigrams(tokens: Sequence[int]) -> float:
    """The share of an answer's neighbouring token pairs that are different from one another; 1 for fewer than two."""
    pairs = list(pairwise(tokens))
    return len(set(pairs)) / len(pairs) if pairs else 1.0
