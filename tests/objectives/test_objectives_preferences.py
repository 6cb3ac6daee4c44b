"""The preference family over packed answers: every option against its formula, and what must not matter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import pytest
import torch
from architectures import tiny, tiny_policy
from rows_at_hand import rankings
from torch import Tensor

from posttrain import objectives
from posttrain.data.examples import RankedItem
from posttrain.data.rankings import dpo_step, ranked_batch
from posttrain.loop import loss_of
from posttrain.models.heads import Policy
from posttrain.objectives import KTOLoss, PolicyOutput
from posttrain.ops import losses
from posttrain.types import LabelledBatch, PrefixGroup, RankedBatch, Scored, Span, TokenBatch

LOG_2 = 0.6931471805599453


def value(scored: Scored, name: str) -> float:
    return float(scored.metrics[name].total) / float(scored.metrics[name].count)


def total(scored: Scored, name: str) -> float:
    return float(scored.terms[name].total.detach())


def item(lengths: Sequence[int], ranks: Sequence[int | None], *, weight: float = 1.0) -> RankedItem:
    branches = tuple(Span.all([5 + n] * length, trained=True) for n, length in enumerate(lengths))
    group = PrefixGroup(id="row", root=Span.all([3], trained=False), branches=branches)
    return RankedItem(group=group, ranks=tuple(ranks), weight=weight, margin=0.0, annotator=None)


def decided(per_token: Sequence[float], responses: Tensor) -> Policy:
    """A stand-in for a policy: every token of a response has the log-prob that was decided for it."""

    def run(tokens: TokenBatch, *, ahead: object = None) -> PolicyOutput:
        logprobs = torch.zeros(len(tokens.tokens))
        for each, segment in zip(per_token, responses.tolist(), strict=True):
            logprobs[tokens.segment == segment] = each
        return PolicyOutput(logprobs=logprobs, entropy=None, values=None)

    return cast("Policy", run)


# two answers of 2 and 4 tokens, each token at -1 and -1.5: sums -2 and -6; of the reference -3 and -4
PAIR = replace(
    ranked_batch([item((2, 4), (1, 2))], ties="drop", pair_weight="pair"), reference=torch.tensor([-3.0, -4.0])
)
PER_TOKEN = (-1.0, -1.5)


def scored(loss: objectives.PreferenceLoss, batch: RankedBatch = PAIR, **options: float | bool) -> Scored:
    policy = decided(PER_TOKEN, batch.responses)
    return objectives.dpo(policy, loss, **options)(batch)  # pyright: ignore[reportArgumentType]


def test_the_losses_are_of_sums_unless_they_are_asked_for_means_per_token() -> None:
    # sums: log-ratios 1 and -2, so h = 3; means: .5 and -.5, so h = 1
    sigmoid = partial(losses.dpo, beta=0.5)
    assert total(scored(sigmoid), "pairs") == pytest.approx(math.log(1 + math.exp(-1.5)))
    assert total(scored(sigmoid, per_token=True), "pairs") == pytest.approx(math.log(1 + math.exp(-0.5)))
    ipo = partial(losses.ipo, beta=0.25)
    assert total(scored(ipo), "pairs") == pytest.approx((3 - 2) ** 2)
    assert total(scored(ipo, per_token=True), "pairs") == pytest.approx((1 - 2) ** 2)
    assert value(scored(sigmoid, per_token=True), "margin") == pytest.approx(1.0)


def test_answers_of_one_length_have_means_that_are_sums_over_a_constant() -> None:
    batch = replace(
        ranked_batch([item((4, 4), (2, 1))], ties="drop", pair_weight="pair"), reference=torch.tensor([-3.0, -4.0])
    )
    whole = scored(partial(losses.dpo, beta=0.1), batch)
    means = scored(partial(losses.dpo, beta=0.4), batch, per_token=True)
    assert total(whole, "pairs") == pytest.approx(total(means, "pairs"))


def test_the_likelihood_of_the_best_answers_has_their_tokens_as_its_count() -> None:
    plain, added = scored(partial(losses.dpo, beta=0.5)), scored(partial(losses.dpo, beta=0.5), nll=0.3)
    assert total(added, "chosen") == pytest.approx(2.0)
    assert value(added, "nll") == pytest.approx(1.0)
    counts = dpo_step([item((2, 4), (1, 2))], 100, ties="drop", pair_weight="pair").counts
    alone, both = loss_of(plain, counts), loss_of(added, counts)
    assert alone is not None
    assert both is not None
    assert float(both - alone) == pytest.approx(0.3 * 2.0 / 2)


def test_of_a_ranking_the_answers_of_the_first_tier_are_likely_each_once() -> None:
    batch = ranked_batch([item((1, 2, 3, 4), (2, 1, 1, None), weight=2.0)], ties="drop", pair_weight="pair")
    policy = decided((-1.0, -2.0, -3.0, -50.0), batch.responses)
    found = objectives.dpo(policy, partial(losses.dpo, beta=0.5), nll=1.0)(batch)
    assert total(found, "chosen") == pytest.approx(2.0 * (2 * 2.0 + 3 * 3.0))
    assert value(found, "nll") == pytest.approx((2 * 2.0 + 3 * 3.0) / 5)


def test_without_a_reference_the_metrics_speak_of_log_probs() -> None:
    batch = replace(PAIR, reference=torch.zeros(2))

    def simpo(chosen: Tensor, rejected: Tensor, _: Tensor, __: Tensor) -> Tensor:
        return losses.simpo(chosen, rejected, beta=2.0, gamma=0.25)

    found = scored(simpo, batch, per_token=True, reference=False)
    assert total(found, "pairs") == pytest.approx(math.log(1 + math.exp(-(2.0 * 0.5 - 0.25))))
    assert (value(found, "chosen_logprob"), value(found, "rejected_logprob")) == (-1.0, -1.5)
    assert (value(found, "margin"), value(found, "accuracy")) == (0.5, 1.0)
    assert not any("ratio" in name for name in found.metrics)


def test_orpo_is_the_likelihood_of_the_best_and_lambda_times_the_odds_ratio() -> None:
    batch = replace(PAIR, reference=torch.zeros(2))

    def odds(chosen: Tensor, rejected: Tensor, _: Tensor, __: Tensor) -> Tensor:
        return 0.2 * losses.odds_ratio(chosen, rejected)

    found = scored(odds, batch, per_token=True, nll=1.0, reference=False)
    p, q = math.exp(-1.0), math.exp(-1.5)
    ratio = (p / (1 - p)) / (q / (1 - q))
    whole = loss_of(found, {"pairs": 1.0, "chosen": 2.0})
    assert whole is not None
    assert float(whole) == pytest.approx(1.0 + 0.2 * math.log(1 + 1 / ratio))


def test_means_and_likelihood_of_a_real_policy_by_a_slow_double_loop() -> None:
    actor, rows = tiny_policy(), [row for row in rankings(8) if len(row.ranks) == 2]
    expected, tokens, likelihood = 0.0, 0, 0.0
    for row in rows:
        means: list[float] = []
        for branch in row.group.branches:
            ids = torch.tensor((*row.group.root.tokens, *branch.tokens))
            with torch.no_grad():
                own = tiny("llama")(input_ids=ids[None]).logits[0].log_softmax(-1)
            first = len(row.group.root.tokens)
            each = [float(own[place - 1, ids[place]]) for place in range(first, len(ids))]
            means.append(sum(each) / len(each))
            if row.ranks[len(means) - 1] == 1:
                likelihood -= row.weight * sum(each)
                tokens += len(each) * int(row.weight)
        better, worse = (means[0], means[1]) if row.ranks == (1, 2) else (means[1], means[0])
        expected += row.weight * math.log(1 + math.exp(-2.0 * (better - worse) + 0.5))

    def simpo(chosen: Tensor, rejected: Tensor, _: Tensor, __: Tensor) -> Tensor:
        return losses.simpo(chosen, rejected, beta=2.0, gamma=0.5)

    batch = ranked_batch(rows, ties="drop", pair_weight="pair")
    found = objectives.dpo(actor, simpo, per_token=True, nll=0.7, reference=False)(batch)
    assert total(found, "pairs") == pytest.approx(expected, rel=1e-5)
    assert total(found, "chosen") == pytest.approx(likelihood, rel=1e-5)
    assert float(found.metrics["nll"].count) == tokens


# --- single answers with labels -------------------------------------------------------------------------------------


def labelled(baseline: float) -> LabelledBatch:
    """Answers of 2, 4 and 1 tokens, the first desirable, the others not; the last weighs three times."""
    ranked = ranked_batch([item((2, 4, 1), (1, 2, 2))], ties="drop", pair_weight="pair")
    return LabelledBatch(
        tokens=ranked.tokens,
        responses=ranked.responses,
        desirable=torch.tensor([True, False, False]),
        weights=torch.tensor([1.0, 1.0, 3.0]),
        reference=torch.tensor([-3.0, -7.0, -2.0]),
        baseline=torch.tensor(baseline),
    )


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_kto_by_hand() -> None:
    # sums -2, -6, -2: log-ratios 1, 1, 0
    batch = labelled(0.5)
    numbers = KTOLoss(beta=0.4, desirable_weight=1.5, undesirable_weight=0.5)
    found = objectives.kto(decided((-1.0, -1.5, -2.0), batch.responses), numbers)(batch)
    good = 1.5 * (1 - sigmoid(0.4 * (1 - 0.5)))
    bad = 0.5 * ((1 - sigmoid(0.4 * (0.5 - 1))) + 3 * (1 - sigmoid(0.4 * (0.5 - 0))))
    assert total(found, "answers") == pytest.approx(good + bad)
    assert value(found, "loss") == pytest.approx((good + bad) / 5)
    # the first is above the baseline as it should be, the second is not below it, the third is
    assert value(found, "accuracy") == pytest.approx((1 + 0 + 3) / 5)
    assert (value(found, "desirable_logratio"), value(found, "undesirable_logratio")) == (1.0, 0.25)


def test_kto_begins_at_one_half_of_its_weights_with_accuracy_one_half() -> None:
    batch = replace(labelled(0.0), reference=torch.tensor([-2.0, -6.0, -2.0]))
    found = objectives.kto(decided((-1.0, -1.5, -2.0), batch.responses), KTOLoss(desirable_weight=4.0))(batch)
    assert total(found, "answers") == pytest.approx(0.5 * (4.0 + 1 + 3))
    assert value(found, "accuracy") == 0.5
