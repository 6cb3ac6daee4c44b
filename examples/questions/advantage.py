"""Why an advantage? The notes' maze: 10 for the direct way, 5 for the detour, both positive.

The policy is two logits; each update samples one way and follows `-A log P` of it, once with A = V and once with
A = V - E[V], the mean under the policy, which is what a perfect critic says before the choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from examples.questions.figures import Answer, Line, Panel
from posttrain.ops.losses import clipped_policy

RETURNS = (10.0, 5.0)
WAYS = ("direct", "detour")
CLIP = 0.2  # without effect: every update uses its own samples, so the ratio is 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is sampled; every run is a policy of its own."""

    updates: int = 150
    runs: int = 400
    learning_rate: float = 0.1
    seed: int = 0


def answer(plan: Plan) -> Answer:
    """Each sample's push and its variance at the start, and what comes of it."""
    start = torch.zeros(1, 2, dtype=torch.float64)
    pushes = {name: [_push(start, way, baseline=b) for way in range(2)] for name, b in _BOTH}
    spread = {name: _moments(start, baseline=b) for name, b in _BOTH}
    runs = {name: _train(plan, baseline=b) for name, b in _BOTH}
    lost = {name: float((run[-1] < 0.5).double().mean()) for name, run in runs.items()}
    steps = list(range(plan.updates + 1))
    lines = {
        name: Line(
            x=steps, y=run.mean(1).tolist(), band=(run.quantile(0.05, 1).tolist(), run.quantile(0.95, 1).tolist())
        )
        for name, run in runs.items()
    }
    pushed = Panel(title="one update after sampling this way", y="change of its own log-probability", places=WAYS,
                   bars=pushes)  # fmt: skip
    learnt = Panel(title=f"{plan.runs} runs: mean, 5 to 95 %", x="update", y="P(direct)", lines=lines)
    numbers = {
        "push_on_its_own_log_prob": {name: dict(zip(WAYS, push, strict=True)) for name, push in pushes.items()},
        "expected_gradient_of_the_direct_logit": {name: mean for name, (mean, _) in spread.items()},
        "variance_of_that_gradient": {name: variance for name, (_, variance) in spread.items()},
        "share_of_runs_that_end_on_the_detour": lost,
        "mean_p_direct_at_the_end": {name: float(run[-1].mean()) for name, run in runs.items()},
    }
    return Answer(numbers=numbers, panels=(pushed, learnt))


_BOTH = (("return alone", False), ("advantage", True))


def loss_of(logits: Tensor, way: Tensor, *, baseline: bool) -> Tensor:
    """The actor's loss [runs] of one sampled way each, float64, from logits [runs, 2]."""
    logprobs = logits.log_softmax(-1)
    returns = torch.tensor(RETURNS, dtype=torch.float64)
    value = (logprobs.detach().exp() @ returns) if baseline else torch.zeros(len(logits), dtype=torch.float64)
    chosen = logprobs.gather(-1, way[:, None]).squeeze(-1)
    return clipped_policy(chosen, chosen.detach(), returns[way] - value, CLIP)


def _gradient(logits: Tensor, way: Tensor, *, baseline: bool) -> Tensor:
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(-loss_of(leaf, way, baseline=baseline).sum(), leaf)[0]


def _push(logits: Tensor, way: int, *, baseline: bool) -> float:
    """How the log-probability of a way changes by one small update on its own sample, for each unit of the rate."""
    small = 1e-6
    moved = logits + small * _gradient(logits, torch.tensor([way]), baseline=baseline)
    return float((moved.log_softmax(-1) - logits.log_softmax(-1))[0, way]) / small


def _moments(logits: Tensor, *, baseline: bool) -> tuple[float, float]:
    """Mean and variance, over what the policy samples, of one sample's gradient of the direct way's logit."""
    chance = logits.softmax(-1)[0]
    found = torch.stack([_gradient(logits, torch.tensor([way]), baseline=baseline)[0, 0] for way in range(2)])
    mean = chance @ found
    return float(mean), float(chance @ (found - mean).square())


def _train(plan: Plan, *, baseline: bool) -> Tensor:
    """P(direct) of every run before and after each update, [updates + 1, runs]."""
    generator = torch.Generator().manual_seed(plan.seed)
    logits = torch.zeros(plan.runs, 2, dtype=torch.float64)
    found = [logits.softmax(-1)[:, 0]]
    for _ in range(plan.updates):
        way = torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(-1)
        logits = logits + plan.learning_rate * _gradient(logits, way, baseline=baseline)
        found.append(logits.softmax(-1)[:, 0])
    return torch.stack(found)
