"""Why the sigmoid in DPO? The raw difference of log-probs has no best value; the sigmoid is a likelihood and has one.

Preferences over four responses come from rewards by Bradley-Terry, P(i over j) = sigmoid(r_i - r_j), as exact shares
instead of draws, so the optimum of `E[r] - beta KL` is known: pi* = reference exp(r / beta) / Z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from examples.questions.figures import Answer, Line, Panel
from posttrain.ops import kl
from posttrain.ops.losses import dpo

REWARDS = torch.tensor([1.0, 0.4, -0.2, -1.2], dtype=torch.float64)
BEST, WORST = 0, 3
FIRST, SECOND = torch.triu_indices(4, 4, offset=1)

PairLoss = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Gradient descent on all pairs at once, from the reference."""

    steps: int = 1500
    learning_rate: float = 0.5
    beta: float = 1.0
    seed: int = 0


def answer(plan: Plan) -> Answer:
    """Where each loss leads under mixed preferences, and how the sigmoid goes on where nobody disagrees."""
    generator = torch.Generator().manual_seed(plan.seed)
    reference = (torch.randn(4, dtype=torch.float64, generator=generator) / 2).log_softmax(0)
    wrong = torch.sigmoid(REWARDS[SECOND] - REWARDS[FIRST])
    best = (reference + REWARDS / plan.beta).log_softmax(0)
    runs = {
        "raw difference": _descend(raw_difference(plan.beta), reference, wrong, plan),
        "sigmoid": _descend(sigmoid(plan.beta), reference, wrong, plan),
    }
    agreed = _descend(sigmoid(plan.beta), reference, torch.zeros_like(wrong), plan)
    wanted = float(REWARDS[BEST] - REWARDS[WORST])
    margins = {name: _margins(run, reference, plan.beta) for name, run in runs.items()}
    last = {name: run[-1] for name, run in runs.items()}
    agreed_margins = _margins(agreed, reference, plan.beta)
    numbers = {
        "margin_of_best_over_worst": {name: float(found[-1]) for name, found in margins.items()},
        "margin_at_half_of_the_steps": {name: float(found[plan.steps // 2]) for name, found in margins.items()},
        "margin_that_the_preferences_mean": wanted,
        "kl_to_the_optimum": {name: float(kl.exact(found, best)) for name, found in last.items()},
        "kl_of_the_optimum_to_it": {name: float(kl.exact(best, found)) for name, found in last.items()},
        "kl_to_the_reference": {name: float(kl.exact(found, reference)) for name, found in last.items()},
        "kl_of_the_optimum_to_the_reference": float(kl.exact(best, reference)),
        "smallest_log_prob": {name: float(found.min()) for name, found in last.items()},
        "sigmoid_where_all_agree": {"half": float(agreed_margins[plan.steps // 2]), "end": float(agreed_margins[-1])},
    }
    return Answer(numbers=numbers, panels=_panels(plan, margins, wanted))


def raw_difference(beta: float) -> PairLoss:
    """The notes' first form: minus beta times the difference of log-ratios; a share that is wrong counts against it."""

    def loss(first: Tensor, second: Tensor, ref_first: Tensor, ref_second: Tensor, wrong: Tensor) -> Tensor:
        return -(1 - 2 * wrong) * beta * ((first - ref_first) - (second - ref_second))

    return loss


def sigmoid(beta: float) -> PairLoss:
    """DPO's loss; the share of wrong labels is its label smoothing."""
    return lambda first, second, ref_first, ref_second, wrong: dpo(first, second, ref_first, ref_second, beta, wrong)


def _descend(loss: PairLoss, reference: Tensor, wrong: Tensor, plan: Plan) -> Tensor:
    """The log-probs [steps + 1, 4] of the policy on its way."""
    logits = reference.clone()
    found = [logits.log_softmax(0)]
    for _ in range(plan.steps):
        leaf = logits.clone().requires_grad_()
        own = leaf.log_softmax(0)
        total = loss(own[FIRST], own[SECOND], reference[FIRST], reference[SECOND], wrong).mean()
        logits = logits - plan.learning_rate * torch.autograd.grad(total, leaf)[0]
        found.append(logits.log_softmax(0))
    return torch.stack(found)


def _margins(run: Tensor, reference: Tensor, beta: float) -> Tensor:
    ratio = run - reference
    return beta * (ratio[:, BEST] - ratio[:, WORST])


def _panels(plan: Plan, margins: dict[str, Tensor], wanted: float) -> tuple[Panel, Panel]:
    every = max(1, plan.steps // 200)
    steps = list(range(every, plan.steps + 1, every))
    lines = {name: Line(x=steps, y=found[every::every].tolist()) for name, found in margins.items()}
    lines["what the preferences mean"] = Line(x=[every, plan.steps], y=[wanted, wanted], dashed=True)
    grown = Panel(
        title="margin of the best over the worst answer", x="step", y="margin, log scale", lines=lines, log=True
    )
    margin = torch.linspace(-6, 6, 121, dtype=torch.float64)
    pulls: dict[str, Line] = {}
    for name, loss in (("raw difference", raw_difference(1.0)), ("sigmoid", sigmoid(1.0))):
        leaf = margin.clone().requires_grad_()
        zero = torch.zeros_like(margin)
        (pull,) = torch.autograd.grad(loss(leaf, zero, zero, zero, zero).sum(), leaf)
        pulls[name] = Line(x=margin.tolist(), y=(-pull).tolist())
    felt = Panel(title="how hard a pair still pulls", x="margin", y="minus the loss's slope", lines=pulls)
    return grown, felt
