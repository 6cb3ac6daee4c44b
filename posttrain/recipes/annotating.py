"""The models of a run on the answers of a round: log-probs, values, scores, and the numbers they are credited by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from posttrain.config import PPOConfig
from posttrain.config.automatic import auto_estimator
from posttrain.console import Console
from posttrain.data.pack import Budget
from posttrain.engine.local import LocalEngine
from posttrain.recipes.roles import Roles
from posttrain.rollout.annotate import Annotators, CreditRules, annotate, over_answers
from posttrain.rollout.buffer import Rollouts
from posttrain.rollout.scaling import ScoreScale
from posttrain.types import Completion, State

# Captured and teacher-forced log-probs differ by float rounding; a larger gap means that the sampler's are not usable.
LARGEST_GAP = 1e-3
_SCALE = "scale."


def credit_rules(config: PPOConfig) -> CreditRules:
    """The numbers of rewards and advantages."""
    return CreditRules(
        form=config.reward_form,
        estimator=auto_estimator(config.beta.estimator, config.kl_in)[0],
        score_clip=config.reward_clip,
        missing_eos_penalty=config.missing_eos_penalty,
        gamma=config.gamma,
        lam=config.lam,
        whiten=config.whiten,
        baseline=config.baseline,
        kl_in_reward=config.kl_in == "reward",
    )


class Annotator:
    """Annotates each round; in the first one the sampler's log-probs are compared with teacher forcing."""

    def __init__(self, config: PPOConfig, roles: Roles, engine: LocalEngine, budget: Budget, console: Console) -> None:
        self._roles = roles
        self._engine = engine
        self._console = console
        self._rules = credit_rules(config)
        self._budget = budget
        self._trusted: bool | None = None
        self._scale = ScoreScale(config.reward_scale)

    def __call__(self, completions: Sequence[Completion], prompts: Sequence[int], beta: float) -> Rollouts:
        """The rollouts with every quantity of their tokens."""
        roles = self._roles
        with self._engine.precision(), roles.lent():
            if self._trusted is None:
                self._trusted = self._compared(completions, prompts)
            models = Annotators(
                reference=roles.reference_logprobs(),
                scorer=roles.scorer,
                value=roles.values(),
                actor=None if self._trusted else roles.actor_logprobs(),
                budget=self._budget.tokens,
                total=self._engine.total,
                exact=roles.divergence() if self._rules.estimator == "exact" else None,
                scale=self._scale,
            )
            return annotate(completions, prompts, models, self._rules, beta)

    def _compared(self, completions: Sequence[Completion], prompts: Sequence[int]) -> bool:
        """True when the sampler's log-probs are good enough to keep; said."""
        gap = _gap(self._roles, completions, prompts, self._budget.tokens)
        kept = "kept" if gap <= LARGEST_GAP else "computed again by teacher forcing"
        self._console.say(f"old log-probs: the sampler's, {gap:.0e} from teacher forcing: {kept}")
        return gap <= LARGEST_GAP

    def state(self) -> State:
        """What was decided in the first round, and the scores that a running scale has seen."""
        return {"trusted": self._trusted} | {f"{_SCALE}{name}": part for name, part in self._scale.state().items()}

    def load_state(self, state: State) -> None:
        """The same decision, which is not made again, and the same scale."""
        self._trusted = cast("bool | None", state["trusted"])
        own = {name.removeprefix(_SCALE): part for name, part in state.items() if name.startswith(_SCALE)}
        self._scale.load_state(own)


def _gap(roles: Roles, completions: Sequence[Completion], prompts: Sequence[int], budget: int) -> float:
    forced = over_answers(roles.actor_logprobs(), completions, prompts, budget)
    captured = forced.new_tensor([value for completion in completions for value in completion.logprobs])
    return float((forced - captured).abs().max()) if len(forced) else 0.0
