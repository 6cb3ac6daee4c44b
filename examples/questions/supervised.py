"""Why is supervised tuning not enough? The notes' translation: of three words for *good*, one is right, one mediocre.

Both policies are the same three logits at first and are trained until the right word has the same probability, so that
their token loss is equal: one on the right word alone, one on the ranking right > mediocre > bad.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.questions.figures import Answer, Panel
from posttrain.ops.losses import dpo, nll, pairwise
from posttrain.ops.ranking import pairs_from_ranks

WORDS = ("right", "mediocre", "bad")
"""好, 一般 and 差 in the notes' example."""
GOLD = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
START = torch.tensor([0.2, 0.4, 0.4], dtype=torch.float64)
PAIRS = pairs_from_ranks([1, 2, 3]).strict

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where training stops, and the strength of the pull to the start in DPO."""

    right: float = 0.6
    beta: float = 0.5
    learning_rate: float = 0.1
    seed: int = 0  # nothing is sampled here


def answer(plan: Plan) -> Answer:
    """Two policies of one token loss and two golds, and the scores that a ranking gives the same words."""
    found = {"start": START, "supervised": trained(supervised, plan), "ranking": trained(ranking(plan), plan)}
    scores = reward_scores()
    loss = {name: float(nll(chances[0].log())) for name, chances in found.items()}
    gold = {name: float(chances @ GOLD) for name, chances in found.items()}
    numbers = {
        "probabilities": {name: dict(zip(WORDS, chances.tolist(), strict=True)) for name, chances in found.items()},
        "token_loss": loss,
        "gold": gold,
        "gradient_of_the_token_loss_at_the_start": dict(zip(WORDS, _gradient(START.log()).tolist(), strict=True)),
        "scores_from_the_ranking": dict(zip(WORDS, scores.tolist(), strict=True)),
    }
    bars = {name: chances.tolist() for name, chances in found.items()}
    words = Panel(title="what each policy says for “good”", y="probability", places=WORDS, bars=bars)
    names = tuple(found)
    both = Panel(
        title="equal token loss, different gold", places=names,
        bars={"token loss, nats": [loss[name] for name in names], "expected gold": [gold[name] for name in names]},
    )  # fmt: skip
    return Answer(numbers=numbers, panels=(words, both))


def supervised(logits: Tensor) -> Tensor:
    """The token loss of the right word, the only one in a demonstration."""
    return nll(logits.log_softmax(-1)[0])


def ranking(plan: Plan) -> Loss:
    """DPO's loss over the pairs of the ranking, with the start as the reference."""
    reference = START.log()
    better, worse = (torch.tensor(side) for side in zip(*PAIRS, strict=True))

    def loss(logits: Tensor) -> Tensor:
        own = logits.log_softmax(-1)
        return dpo(own[better], own[worse], reference[better], reference[worse], beta=plan.beta).mean()

    return loss


def trained(loss: Loss, plan: Plan) -> Tensor:
    """The probabilities, float64 [3], when gradient descent has given the right word exactly its share."""
    logits = START.log()
    while True:
        leaf = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf), leaf)
        after = logits - plan.learning_rate * gradient
        if float(after.softmax(-1)[0]) >= plan.right:
            return _between(logits, after, plan.right).softmax(-1)
        logits = after


def reward_scores(steps: int = 200, rate: float = 1.0) -> Tensor:
    """Scores [3] of mean 0 that a reward model without features gives the words after some steps on the ranking.

    They would grow for ever, as every annotator agrees; their order is the point.
    """
    scores = torch.zeros(3, dtype=torch.float64)
    for _ in range(steps):
        leaf = scores.clone().requires_grad_()
        loss = torch.stack([pairwise(leaf[better], leaf[worse]) for better, worse in PAIRS]).mean()
        scores = scores - rate * torch.autograd.grad(loss, leaf)[0]
    return scores - scores.mean()


def _gradient(logits: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(supervised(leaf), leaf)[0]


def _between(before: Tensor, after: Tensor, right: float) -> Tensor:
    """The logits on the way from one to the other whose first probability is `right`, by halving."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        reached = float((before + middle * (after - before)).softmax(-1)[0]) >= right
        low, high = (low, middle) if reached else (middle, high)
    found = before + high * (after - before)
    assert math.isclose(float(found.softmax(-1)[0]), right, rel_tol=1e-9)
    return found
