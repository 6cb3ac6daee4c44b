"""Rounds of sampling, annotating and updating as the optimizer steps of PPO."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import cast

import numpy as np

from posttrain.data.pack import Budget
from posttrain.ops.kl import adapted
from posttrain.rollout.annotate import health
from posttrain.rollout.asking import Asking
from posttrain.rollout.buffer import Rollouts
from posttrain.types import Completion, Prompt, Sampler, SamplingSpec, Source, State, Step

Annotate = Callable[[Sequence[Completion], Sequence[int], float], Rollouts]
"""(answers, their prompts' numbers, beta) to annotated rollouts."""
_ROLLOUTS, _TEXTS = "rollouts.", "texts."


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """How a run is cut: `rounds` of `rollouts` answers, `group` to a prompt, each used for `epochs` x `minibatches`.

    During the first `critic_warmup` updates the actor stays. `kl_target` (nats per answer) adapts beta over `horizon`.
    `estimator` is that of the KL to the reference, which stands in the rewards or, `kl_in_loss`, in the actor's loss.
    After an update whose `step_kl` is above `epoch_kl_stop` the others of its round are skipped.
    """

    rounds: int
    rollouts: int
    group: int
    epochs: int
    minibatches: int
    critic_warmup: int
    beta: float
    kl_target: float | None
    horizon: float
    budget: Budget
    seed: int
    estimator: str = "k1"
    kl_in_loss: bool = False
    epoch_kl_stop: float | None = None


class RolloutSource:
    """Yields each round's updates; the answers of a round come from the policy as it stands when the round begins.

    `watch` sees each round before its updates, and may add to its metrics. Every update takes the next step of `texts`
    along, where there are any. A skipped update is a step without micro-batches: it has its number and its place in
    the learning rate's schedule, and changes nothing.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        sampler: Sampler,
        annotate: Annotate,
        spec: SamplingSpec,
        plan: RoundPlan,
        *,
        watch: Callable[[int, Rollouts, dict[str, float]], None],
        texts: Source | None = None,
    ) -> None:
        self._asking = Asking(
            prompts=prompts, sampler=sampler, spec=spec, rollouts=plan.rollouts, group=plan.group, seed=plan.seed
        )
        self._annotate = annotate
        self._plan = plan
        self._watch = watch
        self._texts = texts
        self._read = iter(texts or ())
        self._round = 0
        self._beta = plan.beta
        self._held: Rollouts | None = None
        self._metrics: dict[str, float] = {}
        self._handed = 0
        self._far = False

    @property
    def steps(self) -> int:
        """The number of optimizer steps in the whole run."""
        return self._plan.rounds * self.steps_per_round

    @property
    def steps_per_round(self) -> int:
        """The number of optimizer steps that one round's answers serve."""
        return self._plan.epochs * self._plan.minibatches

    @property
    def held(self) -> Rollouts | None:
        """The answers of the round under way, from its first update to its last one's hooks."""
        return self._held

    def __iter__(self) -> Iterator[Step]:
        while self._held is not None or self._round < self._plan.rounds:
            if self._held is None:
                self._begin()
            rollouts = cast("Rollouts", self._held)
            for step in self.updates(self._round - 1, rollouts, self._metrics, first=self._handed):
                # Counted before it is handed out: a state taken after the update must point behind it.
                self._handed += 1
                yield step
            self._held = None

    def _begin(self) -> None:
        """The next round's answers are there, and none of its updates is handed out."""
        rollouts = self.collect(self._round)
        in_loss = self._beta if self._plan.kl_in_loss else 0.0
        self._metrics = {
            **health(rollouts, estimator=self._plan.estimator, beta_in_loss=in_loss),
            "beta": self._beta,
            "round": float(self._round + 1),
        }
        self._watch(self._round + 1, rollouts, self._metrics)
        self._adapt(self._metrics["kl"], len(rollouts.completions))
        self._held, self._handed, self._far = rollouts, 0, False
        self._round += 1

    def collect(self, number: int) -> Rollouts:
        """Samples and annotates the answers of a round."""
        completions, numbers = self._asking.answers(number)
        return self._annotate(completions, numbers, self._beta)

    def updates(self, number: int, rollouts: Rollouts, metrics: dict[str, float], *, first: int = 0) -> Iterator[Step]:
        """The optimizer steps over one round's answers from step `first` on, reshuffled in every epoch."""
        plan = self._plan
        for place in range(first, self.steps_per_round):
            epoch, part = divmod(place, plan.minibatches)
            order = np.random.default_rng([plan.seed, number, epoch]).permutation(len(rollouts.completions))
            rows = np.array_split(order, plan.minibatches)[part]
            done = number * self.steps_per_round + place
            if plan.epoch_kl_stop is not None:
                metrics = {**metrics, "kl_stopped": float(self._far)}
            if self._far:
                yield Step(micro_batches=(), counts={}, metrics=metrics)
            else:
                yield self._step(rollouts, rows.tolist(), metrics, train_actor=done >= plan.critic_warmup)

    def _step(self, rollouts: Rollouts, rows: list[int], metrics: dict[str, float], *, train_actor: bool) -> Step:
        tokens = float(rollouts.tokens_in(rows))
        beta = metrics["beta"] if self._plan.kl_in_loss else 0.0
        step = Step(
            micro_batches=rollouts.micro_batches(rows, self._plan.budget.tokens, train_actor=train_actor, beta=beta),
            counts={"actor": tokens, "critic": tokens},
            rows=[rollouts.completions[row].prompt.id for row in rows],
            metrics=metrics,
        )
        return self._with_text(step) if train_actor and self._texts is not None else step

    def _with_text(self, step: Step) -> Step:
        text = next(self._read)
        return replace(
            step,
            micro_batches=chain(step.micro_batches, text.micro_batches),
            counts={**step.counts, **text.counts},
            rows=[*step.rows, *text.rows],
        )

    def learned(self, number: int, metrics: dict[str, float]) -> None:
        """A hook: the rest of a round is skipped once the policy has moved too far from the one that sampled."""
        limit = self._plan.epoch_kl_stop
        self._far = self._far or (limit is not None and metrics.get("step_kl", 0.0) > limit)

    def _adapt(self, nats: float, responses: int) -> None:
        target = self._plan.kl_target
        if target is not None:
            self._beta = adapted(self._beta, nats, target=target, responses=responses, horizon=self._plan.horizon)

    def state(self) -> State:
        """The rounds begun, the adaptive beta and, while a round has updates left, its answers and its place."""
        state: State = {"round": self._round, "beta": self._beta, **self._asking.state()}
        if self._texts is not None:
            state |= {f"{_TEXTS}{name}": value for name, value in self._texts.state().items()}
        if self._held is None or self._handed == self.steps_per_round:
            return state
        state |= {"handed": self._handed, "metrics": dict(self._metrics), "far": self._far}
        return state | {f"{_ROLLOUTS}{name}": value for name, value in self._held.state().items()}

    def load_state(self, state: State) -> None:
        """Goes on in the round of `state`, or with the next one. Raises DataError when there are other prompts."""
        self._asking.load_state(state)
        self._round = cast("int", state["round"])
        self._beta = cast("float", state["beta"])
        self._held, self._handed, self._far = None, 0, False
        if self._texts is not None:
            self._texts.load_state(_named(state, _TEXTS))
            self._read = iter(self._texts)
        if "handed" in state:
            self._handed = cast("int", state["handed"])
            self._metrics = cast("dict[str, float]", state["metrics"])
            self._far = cast("bool", state["far"])
            self._held = Rollouts.from_state(_named(state, _ROLLOUTS), self._asking.asked(self._round - 1))


def _named(state: State, start: str) -> State:
    """The part of a state whose names begin with `start`, without it."""
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}
