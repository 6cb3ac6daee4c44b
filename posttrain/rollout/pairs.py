"""Rounds of sampling, scoring and pairing as the optimizer steps of online DPO: one update a round."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import torch
from torch import Tensor

from posttrain.data.examples import RankedItem
from posttrain.data.pack import Budget
from posttrain.data.rankings import dpo_step
from posttrain.ops import credit
from posttrain.ops.ragged import segment_sum
from posttrain.rollout.annotate import distinct_bigrams
from posttrain.rollout.asking import Asking
from posttrain.rollout.grading import Failed
from posttrain.types import Completion, PrefixGroup, Span, State, Step

Which = Literal["best_worst", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The answers of a round with what is thought of them.

    Axes: R answers, neighbours where they answer one prompt. `prompts`: the prompt of each, as a number. `scores`:
    float [R] as the scorer gave them, NaN for an answer without one. `reference`: float [R], their summed reference
    log-probs; None without a reference. `parts`: what the scores are made of, by name, float [R] each. `failures`: why
    answers have no score.
    """

    completions: Sequence[Completion]
    prompts: Sequence[int]
    scores: Tensor
    reference: Tensor | None
    parts: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    failures: Sequence[Failed] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PairPlan:
    """How a run is cut: `rounds`, which `pairs` of a prompt's answers, and what an answer loses that was cut off."""

    rounds: int
    pairs: Which
    missing_eos_penalty: float
    budget: Budget


class PairSource:
    """Yields one update a round over the pairs of its answers, which come from the policy as it stands.

    A round without a pair is a step without micro-batches: it has its number and its place in the schedule, and
    changes nothing. `watch` sees each round before its update.
    """

    def __init__(
        self,
        asking: Asking,
        judge: Callable[[Sequence[Completion], Sequence[int]], Judged],
        plan: PairPlan,
        *,
        watch: Callable[[int, Judged, dict[str, float]], None],
    ) -> None:
        self._asking = asking
        self._judge = judge
        self._plan = plan
        self._watch = watch
        self._round = 0

    @property
    def steps(self) -> int:
        """The number of optimizer steps in the whole run."""
        return self._plan.rounds

    def __iter__(self) -> Iterator[Step]:
        while self._round < self._plan.rounds:
            judged = self._judge(*self._asking.answers(self._round))
            items = ranked(judged, self._plan)
            metrics = {**health(judged, items, self._plan), "round": float(self._round + 1)}
            self._watch(self._round + 1, judged, metrics)
            # Counted before it is handed out: a state taken after the update must point behind it.
            self._round += 1
            step = dpo_step(items, self._plan.budget.tokens, ties="drop", pair_weight="pair")
            yield replace(step, metrics=metrics)

    def state(self) -> State:
        """The rounds begun: a round has one update, so nothing of it is left when a state is taken."""
        return {"round": self._round, **self._asking.state()}

    def load_state(self, state: State) -> None:
        """Goes on with the round after those of `state`. Raises DataError when there are other prompts."""
        self._asking.load_state(state)
        self._round = cast("int", state["round"])


def ranked(judged: Judged, plan: PairPlan) -> list[RankedItem]:
    """A ranking of each prompt whose answers make a pair, its answers with their reference log-probs."""
    settled = settled_scores(judged, plan.missing_eos_penalty).tolist()
    items: list[RankedItem] = []
    for rows in prompts_of(judged.prompts):
        ranks = ranks_of([settled[row] for row in rows], plan.pairs)
        if ranks is None:
            continue
        kept = [(row, rank) for row, rank in zip(rows, ranks, strict=True) if rank is not None]
        answers = [judged.completions[row] for row, _ in kept]
        group = PrefixGroup(
            id=answers[0].prompt.id,
            root=Span.all(answers[0].prompt.tokens, trained=False),
            branches=tuple(Span.all(answer.tokens, trained=True) for answer in answers),
        )
        held = None if judged.reference is None else tuple(judged.reference[[row for row, _ in kept]].tolist())
        items.append(
            RankedItem(
                group=group, ranks=tuple(rank for _, rank in kept), weight=1.0, margin=0.0, annotator=None,
                reference=held,
            )
        )  # fmt: skip
    return items


def ranks_of(scores: Sequence[float], pairs: Which) -> list[int | None] | None:
    """The tier of each answer by its score, None for those in no pair; None when no two scores differ.

    `best_worst` keeps the first of the best answers and the first of the worst. A score that is NaN is none.
    """
    given = sorted({score for score in scores if not math.isnan(score)}, reverse=True)
    if len(given) < 2:
        return None
    if pairs == "all":
        return [None if math.isnan(score) else given.index(score) + 1 for score in scores]
    ranks: list[int | None] = [None] * len(scores)
    ranks[scores.index(given[0])], ranks[scores.index(given[-1])] = 1, 2
    return ranks


def settled_scores(judged: Judged, missing_eos_penalty: float) -> Tensor:
    """Float [R]: the scores, less the penalty for answers that the length limit cut."""
    stopped = torch.tensor([answer.stopped for answer in judged.completions])
    return credit.settled_scores(judged.scores, stopped, clip=None, missing_eos_penalty=missing_eos_penalty)


def prompts_of(numbers: Sequence[int]) -> list[list[int]]:
    """The rows of each prompt, in order."""
    rows: dict[int, list[int]] = {}
    for row, number in enumerate(numbers):
        rows.setdefault(number, []).append(row)
    return list(rows.values())


def health(judged: Judged, items: Sequence[RankedItem], plan: PairPlan) -> dict[str, float]:
    """What a round shows of the policy: scores and their spread, prompts with a pair, KL, lengths, endings.

    `reward` is the mean settled score, less the penalty of answers that were cut; `score_margin` the mean over prompts
    of the best settled score less the worst; `kl` the mean over answers of
    the sampled log-ratio to the reference, where there is one.
    """
    answers, scored = judged.completions, ~judged.scores.isnan()
    settled = settled_scores(judged, plan.missing_eos_penalty)
    spreads = [_spread(settled[rows]) for rows in prompts_of(judged.prompts)]
    scores = judged.scores[scored]
    found = {
        "score": float(scores.mean()) if len(scores) else 0.0,
        "reward": float(settled[scored].mean()) if len(scores) else 0.0,
        "score_margin": sum(spreads) / len(spreads),
        "paired": len(items) / len(spreads),
        "unscored": float((~scored).sum()),
        "length": sum(len(answer.tokens) for answer in answers) / len(answers),
        "stopped": sum(answer.stopped for answer in answers) / len(answers),
        "distinct_bigrams": sum(distinct_bigrams(answer.tokens) for answer in answers) / len(answers),
    }
    if judged.reference is not None:
        sampled = torch.tensor([math.fsum(answer.logprobs) for answer in answers])
        found["kl"] = float((sampled - judged.reference).mean())
    return found | {name: float(values.nanmean()) for name, values in judged.parts.items() if len(scores)}


def _spread(scores: Tensor) -> float:
    """The best score less the worst, 0 for fewer than two."""
    given = scores[~scores.isnan()]
    return float(given.max() - given.min()) if len(given) else 0.0


def answer_sums(per_token: Tensor, completions: Sequence[Completion]) -> Tensor:
    """Float [R]: the sums over each answer of a quantity of all answer tokens [M]."""
    lengths = torch.tensor([len(answer.tokens) for answer in completions])
    return segment_sum(per_token, torch.repeat_interleave(torch.arange(len(completions)), lengths), len(completions))
