"""The laws that a self-test measures: each a sentence, a number that would be 0 in theory, and how large it may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posttrain.models.heads import Policy, ScalarModel
from posttrain.ops import losses
from posttrain.rollout.buffer import Rollouts
from posttrain.types import PrefixGroup
from posttrain.workflows.proofs import gradients, standing, updates
from posttrain.workflows.proofs.models import make_policy, make_scalar
from posttrain.workflows.proofs.paths import largest_delta
from posttrain.workflows.proofs.reached import after_dpo, after_ppo, after_proxy, after_reward
from posttrain.workflows.proofs.trials import RULES, Preferences
from posttrain.workflows.proofs.world import World, make_world

Measure = Callable[[], float]
GRADIENTS = "on average each loss follows the gradient of what it is for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Law:
    """`says` what holds; `measure` gives how far from it the package is, at most `bound` where it holds."""

    about: str
    says: str
    measure: Measure
    bound: float


def laws(device: torch.device) -> list[Law]:
    """Every law that needs no model of the user's: of formulas and gradients on the CPU, of training on the device."""
    world = make_world(vocabulary=3, prompts=2)
    policy = make_policy(world).to(device)
    return [*_optimum(world), *_gradients(world), *_updates(world), *of_any_model(policy), *_reached(world, device)]


def of_any_model(policy: Policy, *, bound: float = 1e-4) -> list[Law]:
    """What holds of every language model under this package; `bound` is in nats, for float32."""
    vocabulary = int(policy.model.config.get_text_config().vocab_size)
    groups = standing.random_groups(vocabulary)
    found: list[tuple[str, Measure]] = [
        ("an answer's log-probs do not depend on what is packed with it", partial(standing.packing, policy, groups)),
        ("the order of prompts and answers changes nothing", partial(standing.order, policy, groups)),
        ("no token sees a later one, nor another answer", partial(standing.future, policy, groups)),
        ("PPO begins with ratio 1, KL 0 and the loss -mean(A)", partial(standing.first_ratio, policy, groups)),
        ("DPO begins at log 2", partial(standing.first_margin, policy, groups)),
    ]
    return [Law(about="a small model", says=says, measure=measure, bound=bound) for says, measure in found]


# --- formulas ---------------------------------------------------------------------------------------------------


def _optimum(world: World) -> Iterator[Law]:
    for form, says in (
        ("token", "at the optimum, with the soft value as critic, every delta is 0"),
        ("spread", "with the score spread, the deltas of a path add up to 0 there"),
    ):
        yield Law(about="at the optimum", says=says, measure=partial(largest_delta, world, form), bound=1e-12)


def _gradients(world: World) -> Iterator[Law]:
    actor = partial(gradients.policy_gradient, world)
    found: list[tuple[str, Measure]] = [
        ("PPO's actor: of E[r] - beta KL", actor),
        ("the same beside a critic that knows nothing", partial(actor, baseline="critic")),
        ("the same beside a second answer (RLOO)", partial(actor, baseline="rloo")),
        ("k2 in the loss: of KL(policy, reference)", partial(gradients.kl_in_loss, world, "k2")),
        ("k3 in the loss: of KL(reference, policy)", partial(gradients.kl_in_loss, world, "k3")),
        ("the entropy bonus: of the entropy", partial(gradients.entropy_bonus, world)),
        ("the critic: of the distance to the true values", partial(gradients.critic_gradient, world)),
        *_of_preferences(world, beta=0.3, flipped=0.1),
        ("Plackett-Luce: of the cross-entropy of all orders", partial(gradients.ranking_gradient, world)),
        ("Plackett-Luce at the true scores: nothing", partial(gradients.ranking_at_truth, world)),
    ]
    for says, measure in found:
        yield Law(
            about="on average each loss follows the gradient of what it is for", says=says, measure=measure, bound=1e-10
        )


def _of_preferences(world: World, *, beta: float, flipped: float) -> Iterator[tuple[str, Measure]]:
    """DPO and its kin; the formulas stand here once more, from their papers, as functions of h."""

    def smoothed(h: Tensor) -> Tensor:
        return -(1 - flipped) * F.logsigmoid(beta * h) - flipped * F.logsigmoid(-beta * h)

    def robust(h: Tensor) -> Tensor:
        signed = -(1 - flipped) * F.logsigmoid(beta * h) + flipped * F.logsigmoid(-beta * h)
        return signed / (1 - 2 * flipped)

    pairs = partial(gradients.preference_gradient, world)
    dpo, cdpo = partial(losses.dpo, beta=beta), partial(losses.dpo, beta=beta, label_smoothing=flipped)
    yield "DPO: of the preferences' likelihood", partial(pairs, dpo, lambda h: -F.logsigmoid(beta * h))
    yield "DPO with label smoothing", partial(pairs, cdpo, smoothed)
    yield "DPO for flipped labels", partial(pairs, partial(losses.robust, beta=beta, label_smoothing=flipped), robust)
    yield "IPO", partial(pairs, partial(losses.ipo, beta=beta), lambda h: (h - 1 / (2 * beta)).square())
    yield "the hinge loss", partial(pairs, partial(losses.hinge, beta=beta), lambda h: F.relu(1 - beta * h))


def _updates(world: World) -> Iterator[Law]:
    groups = standing.random_groups(world.vocabulary)
    masked = partial(_of_both, world, updates.masked, groups)
    alone = partial(_of_both, world, updates.learns_alone, groups)
    found: list[tuple[str, Measure, float]] = [
        ("NaN outside the answers changes nothing", masked, 0.0),
        ("the actor's loss moves no critic, nor the other way round", alone, 0.0),
        ("micro-batches change nothing", partial(_of_rollouts, world, updates.micro_batches), 1e-10),
        ("two ranks do what one does, whitening included", partial(_of_rollouts, world, updates.ranks), 1e-10),
    ]
    for says, measure, bound in found:
        yield Law(about="updates", says=says, measure=measure, bound=bound)


def _of_both(
    world: World, law: Callable[[Policy, ScalarModel, Sequence[PrefixGroup]], float], groups: Sequence[PrefixGroup]
) -> float:
    return law(*_models(world), groups)


def _of_rollouts(world: World, law: Callable[[Policy, ScalarModel, Rollouts], float]) -> float:
    policy, critic = _models(world)
    reference = make_policy(world, seed=6, dtype=torch.float64)
    return law(policy, critic, gradients.annotated(world, policy, reference, critic, RULES))


def _models(world: World) -> tuple[Policy, ScalarModel]:
    """A policy and a critic in float64."""
    critic = make_scalar(world, dtype=torch.float64)
    nn.init.normal_(critic.score.weight, generator=torch.Generator().manual_seed(0))
    return make_policy(world, dtype=torch.float64), critic


# --- training ---------------------------------------------------------------------------------------------------


def _reached(world: World, device: torch.device) -> Iterator[Law]:
    drawn = Preferences(draws=50_000)
    found: list[tuple[str, Measure, float]] = [
        ("PPO reaches the optimum", partial(after_ppo, world, device), 0.01),
        ("DPO on exact preferences reaches it", partial(after_dpo, world, device, Preferences()), 1e-4),
        ("DPO on 50,000 drawn preferences reaches it", partial(after_dpo, world, device, drawn), 0.01),
        ("a reward model recovers the reward (1 - correlation)", partial(after_reward, world, device, drawn), 0.01),
        ("a wrong proxy: the true reward ends below its peak by 0.5", partial(after_proxy, device), -0.5),
    ]
    for says, measure, bound in found:
        yield Law(about="training reaches what enumeration says", says=says, measure=measure, bound=bound)
