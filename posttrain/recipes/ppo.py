"""RLHF with PPO: sample, annotate, update the actor and the critic; the reference and the reward model stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from posttrain import objectives
from posttrain.config import PPOConfig
from posttrain.config.automatic import auto_critic_rate, steps_between
from posttrain.console import Console
from posttrain.data.pack import Budget
from posttrain.engine.local import LocalEngine
from posttrain.objectives import PPOLoss
from posttrain.recipes import fitting, setup
from posttrain.recipes.load import budget_of
from posttrain.recipes.opening import Door, Opened, Reads, training
from posttrain.recipes.roles import Roles, cast_roles
from posttrain.recipes.rollout_load import rollout_load
from posttrain.recipes.rows import in_memory
from posttrain.recipes.scoring import check_reward
from posttrain.rollout.annotate import Annotators, CreditRules, annotate, over_answers
from posttrain.rollout.buffer import Rollouts
from posttrain.rollout.source import RolloutSource, RoundPlan
from posttrain.run import Run
from posttrain.run.inspect import write_rollouts
from posttrain.types import Completion, Prompt, PromptRecord, SamplingSpec, State

# Captured and teacher-forced log-probs differ by float rounding; a larger gap means that the sampler's are not usable.
LARGEST_GAP = 1e-3


def ppo(config: PPOConfig, *, console: Console, fresh: bool = False, dry_run: bool = False) -> Run:
    """Trains a policy against a reward with PPO and writes its run folder."""
    setup.refuse_weights(config.prompts, "prompts")
    check_reward(config.reward)
    return training(
        config,
        Reads(data=config.prompts, kinds=("prompt",)),
        lambda door: _read(config, door),
        lambda opened: _train(config, opened),
        console=console,
        fresh=fresh,
        dry_run=dry_run,
        lineage={"reward": config.reward},
    )


def _read(config: PPOConfig, door: Door) -> list[Prompt]:
    """The prompts as tokens. Raises DataError for those that leave no room for an answer."""
    rows = in_memory(door.data, door.console)
    door.problems.extend(problem for part in rows for problem in part.problems)
    prompts = door.codec.prompts([record for part in rows for record in part.of(PromptRecord)])
    setup.check_room(prompts, door.limit)
    setup.say_room(prompts, door.limit, config.max_new_tokens, door.console)
    return prompts


def _train(config: PPOConfig, opened: Opened[list[Prompt]]) -> Run:
    codec, run = opened.codec, opened.run
    console = run.console
    where = setup.machine(config.precision, console)
    budget = budget_of(config.micro_batch_tokens, where)
    roles = cast_roles(config, codec, where, budget, console)
    rate = setup.learning_rate(config, roles.start.loaded.model, console)
    critic_rate = _critic_rate(config, rate, console)
    plan = _plan(config, budget)
    steps = plan.rounds * plan.epochs * plan.minibatches
    if plan.critic_warmup >= steps:
        console.say(f"critic.warmup {plan.critic_warmup}: all {steps} updates train the critic alone; the policy stays")
    engine = setup.engine(config, roles.groups(rate, critic_rate), steps, where)
    annotated = Annotator(config, roles, engine, budget, console)
    sampler = setup.sampler(roles.actor, codec, opened.limit, where)
    source = RolloutSource(
        opened.data,
        sampler,
        annotated,
        SamplingSpec(max_new_tokens=config.max_new_tokens, temperature=config.temperature, stop=config.stop),
        plan,
        watch=_watching(config, run),
    )
    parts = fitting.Parts(
        source=source,
        objective=objectives.ppo(roles.actor, roles.critic, ppo_loss(config)),
        engine=engine,
        load=rollout_load(config, budget, roles, sampler, opened.data, opened.limit),
        models={"actor": roles.actor} | ({} if roles.critic is None else {"critic": roles.critic}),
        also={"annotator": annotated},
    )
    fitting.train(config, run, parts, where)
    roles.save(Path(config.out), codec)
    console.finish(f"saved {config.out}")
    last = run.writer.run.metrics[-1]
    return run.writer.finish(**{name: last[name] for name in ("score", "kl", "length", "stopped") if name in last})


def _critic_rate(config: PPOConfig, rate: float, console: Console) -> float:
    """The critic's peak learning rate; an automatic one is said."""
    if config.critic.learning_rate != "auto":
        return config.critic.learning_rate
    chosen, reason = auto_critic_rate(rate)
    if config.baseline == "critic":
        console.choose("critic.learning_rate", chosen, reason)
    return chosen


def _plan(config: PPOConfig, budget: Budget) -> RoundPlan:
    return RoundPlan(
        rounds=config.steps,
        rollouts=config.rollouts,
        group=config.group,
        epochs=config.ppo_epochs,
        minibatches=config.minibatches,
        critic_warmup=config.critic.warmup if config.baseline == "critic" else 0,
        beta=config.beta.coef,
        kl_target=config.beta.target,
        horizon=int(config.beta.horizon),
        budget=budget,
        seed=config.seed,
    )


def ppo_loss(config: PPOConfig) -> PPOLoss:
    """The numbers of the loss."""
    return PPOLoss(
        clip=config.clip,
        value_clip=config.value_clip,
        value_coef=config.value_coef,
        entropy=config.entropy,
        detach=config.critic.detach,
    )


def credit_rules(config: PPOConfig) -> CreditRules:
    """The numbers of rewards and advantages."""
    return CreditRules(
        form=config.reward_form,
        estimator=config.beta.estimator,
        score_clip=config.reward_clip,
        missing_eos_penalty=config.missing_eos_penalty,
        gamma=config.gamma,
        lam=config.lam,
        whiten=config.whiten,
        baseline=config.baseline,
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

    def __call__(self, completions: Sequence[Completion], prompts: Sequence[int], beta: float) -> Rollouts:
        """The rollouts with every quantity of their tokens."""
        roles = self._roles
        with self._engine.precision():
            if self._trusted is None:
                self._trusted = self._compared(completions, prompts)
            models = Annotators(
                reference=roles.reference_logprobs(),
                scorer=roles.scorer,
                value=roles.values(),
                actor=None if self._trusted else roles.actor_logprobs(),
                budget=self._budget.tokens,
                total=self._engine.total,
            )
            return annotate(completions, prompts, models, self._rules, beta)

    def _compared(self, completions: Sequence[Completion], prompts: Sequence[int]) -> bool:
        """True when the sampler's log-probs are good enough to keep; said."""
        gap = _gap(self._roles, completions, prompts, self._budget.tokens)
        kept = "kept" if gap <= LARGEST_GAP else "computed again by teacher forcing"
        self._console.say(f"old log-probs: the sampler's, {gap:.0e} from teacher forcing: {kept}")
        return gap <= LARGEST_GAP

    def state(self) -> State:
        """What was decided in the first round."""
        return {"trusted": self._trusted}

    def load_state(self, state: State) -> None:
        """The same decision, which is not made again."""
        self._trusted = cast("bool | None", state["trusted"])


def _gap(roles: Roles, completions: Sequence[Completion], prompts: Sequence[int], budget: int) -> float:
    forced = over_answers(roles.actor_logprobs(), completions, prompts, budget)
    captured = forced.new_tensor([value for completion in completions for value in completion.logprobs])
    return float((forced - captured).abs().max()) if len(forced) else 0.0


def _watching(config: PPOConfig, run: setup.Telling) -> Callable[[int, Rollouts], None]:
    """Keeps rollouts for the inspector, and shows one answer of each kept round."""
    apart = steps_between(config.rollouts_every, config.steps)

    def watch(number: int, rollouts: Rollouts) -> None:
        if apart is None or (number % apart and number not in (1, config.steps)):
            return
        write_rollouts(run.writer.path / "run" / "inspect" / f"step-{number:06d}.parquet", rollouts)
        shown = rollouts.completions[0]
        record = shown.prompt.record
        asked = record.messages[-1].content if record.messages else record.text or ""
        run.writer.sample(number, prompt=asked, answer=shown.text, stopped=shown.stopped)
        run.console.sample(asked, shown.text, stopped=shown.stopped)

    return watch
