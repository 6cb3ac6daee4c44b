"""RLHF with PPO: sample, annotate, update the actor and the critic; the reference and the reward model stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from posttrain import objectives
from posttrain.config import PPOConfig
from posttrain.config.automatic import auto_best, auto_critic_rate, auto_estimator, steps_between
from posttrain.config.rewards import RewardItem
from posttrain.console import Console
from posttrain.data.pack import Budget
from posttrain.loop import every
from posttrain.models.heads import Policy
from posttrain.objectives import PPOLoss
from posttrain.recipes import fitting, setup
from posttrain.recipes.annotating import Annotator
from posttrain.recipes.asked import Asked, read, reads
from posttrain.recipes.functions import Loaded, asked, note_failures, refuse_failures
from posttrain.recipes.inspected_rounds import InspectedRounds
from posttrain.recipes.inspecting import Inspecting
from posttrain.recipes.keeping import Average, Best
from posttrain.recipes.load import budget_of
from posttrain.recipes.opening import Opened, training
from posttrain.recipes.prompt_eval import PromptEvaluation
from posttrain.recipes.rewarding import check_rewards
from posttrain.recipes.roles import Roles, cast_roles
from posttrain.recipes.rollout_load import rollout_load
from posttrain.recipes.text_beside import text_source
from posttrain.rollout.buffer import Rollouts
from posttrain.rollout.source import RolloutSource, RoundPlan
from posttrain.run import Run
from posttrain.run.wires import Wires
from posttrain.types import Hook, SamplingSpec


def ppo(config: PPOConfig, *, console: Console, fresh: bool = False, dry_run: bool = False) -> Run:
    """Trains a policy against a reward with PPO and writes its run folder."""
    setup.refuse_weights(config.prompts, "prompts")
    functions = check_rewards(config.reward)
    return training(
        config,
        reads(config),
        lambda door: read(config, functions, door),
        lambda opened: _train(config, functions, opened),
        console=console,
        fresh=fresh,
        dry_run=dry_run,
        lineage=reward_lineage(config.reward),
    )


def reward_lineage(rewards: Sequence[RewardItem]) -> dict[str, str]:
    """The rewards by name: `reward` where there is one, else `reward/` and its name, of ensembles each member."""
    specs = [spec for item in rewards for spec in item.specs]
    return {"reward": specs[0]} if len(specs) == 1 else {f"reward/{spec}": spec for spec in specs}


def _train(config: PPOConfig, functions: Loaded, opened: Opened[Asked]) -> Run:
    codec, run = opened.codec, opened.run
    console = run.console
    where = setup.machine(config, console)
    budget = budget_of(config.micro_batch_tokens, where, setup.config_of(config.model))
    roles = cast_roles(config, codec, where, budget, console, functions)
    rate = setup.learning_rate(config, roles.start.loaded.model, console)
    critic_rate = _critic_rate(config, rate, console)
    _say_kl(config, console)
    plan = _plan(config, budget)
    updates = plan.epochs * plan.minibatches
    steps = plan.rounds * updates
    if plan.critic_warmup >= steps:
        console.say(f"critic.warmup {plan.critic_warmup}: all {steps} updates train the critic alone; the policy stays")
    engine = setup.engine(config, roles.groups(rate, critic_rate), steps, where)
    annotated = Annotator(config, roles, engine, budget, console)
    wires = Wires(config.stop_if.limits, patience=config.stop_if.patience) if config.stop_if else Wires({})
    best = _best(config, roles, wires, console)
    sampler = setup.sampler(roles.actor, codec, opened.limit, where, tell=console.say)
    inspected = InspectedRounds(config, Inspecting(run, codec, config.command), roles, engine, budget)
    source = RolloutSource(
        opened.data.prompts,
        sampler,
        annotated,
        SamplingSpec(max_new_tokens=config.max_new_tokens, temperature=config.temperature, stop=config.stop),
        plan,
        watch=_watching(config, run, best, updates, inspected.keep),
        texts=text_source(config, opened.data.texts, steps, budget),
    )
    evaluation = PromptEvaluation(
        prompts=opened.data.held, sampler=sampler, roles=roles, engine=engine, budget=budget, config=config, run=run
    )
    parts = fitting.Parts(
        source=source,
        objective=objectives.ppo(roles.actor, roles.critic, ppo_loss(config), reader=_reader(roles.actor)),
        engine=engine,
        load=rollout_load(config, budget, roles, sampler, opened.data, opened.limit),
        models={"actor": roles.actor} | ({} if roles.critic is None else {"critic": roles.critic}),
        also={"annotator": annotated},
        save=lambda folder: roles.save_actor(folder, codec),
        best=best,
        average=None if config.ema is None else Average(roles.actor_parameters, config.ema),
        wires=wires,
        at_start=evaluation if opened.data.held else None,
    )
    hooks = [source.learned, inspected.after(updates, lambda: source.held), *_evaluating(config, updates, steps, parts)]
    kept = fitting.train(config, run, parts, where, hooks)
    roles.save(Path(config.out), codec)
    last = run.writer.run.metrics[-1]
    results = {name: last[name] for name in ("score", "kl", "length", "stopped") if name in last}
    return fitting.ended(config, run, parts, {**results, **kept})


def _reader(actor: Policy) -> Policy:
    """The actor at temperature 1, at which text is read."""
    return Policy(actor.model, stack=actor.stack, packing=actor.trunk.packing)


def _evaluating(config: PPOConfig, updates: int, steps: int, parts: fitting.Parts) -> list[Hook]:
    """Hooks that evaluate after every `eval_every` rounds and after the last one."""
    apart = steps_between(config.eval_every, config.steps)
    if parts.at_start is None or apart is None:
        return []
    return every(apart * updates, parts.at_start, last=steps)


def _best(config: PPOConfig, roles: Roles, wires: Wires, console: Console) -> Best:
    """What keeps the best weights, by a measure that is said where it was chosen."""
    evaluated = config.eval_prompts is not None and config.eval_every is not None
    measure, reason = auto_best(config.best, wired=config.stop_if is not None, evaluated=evaluated)
    if config.best == "auto":
        console.choose("best", measure, reason)
    return Best(roles.actor_parameters, measure, healthy=wires.healthy, say=console.say)


def _critic_rate(config: PPOConfig, rate: float, console: Console) -> float:
    """The critic's peak learning rate; an automatic one is said."""
    if config.critic.learning_rate != "auto":
        return config.critic.learning_rate
    chosen, reason = auto_critic_rate(rate)
    if config.baseline == "critic":
        console.choose("critic.learning_rate", chosen, reason)
    return chosen


def _say_kl(config: PPOConfig, console: Console) -> None:
    """Says which KL is charged where, and which KL each metric is."""
    estimator, reason = auto_estimator(config.beta.estimator, config.kl_in)
    if reason:
        console.choose("beta.estimator", estimator, reason)
    console.say(
        f"KL: {estimator} in the {config.kl_in}, against the start policy; of the metrics kl (k1) and kl_k3 are sums"
        " over an answer against the start policy, step_kl is k3 per token, the old policy against the new one"
    )


def _plan(config: PPOConfig, budget: Budget) -> RoundPlan:
    return RoundPlan(
        rounds=config.steps,
        rollouts=config.rollouts,
        group=config.group,
        epochs=config.ppo_epochs,
        minibatches=config.minibatches,
        estimator=auto_estimator(config.beta.estimator, config.kl_in)[0],
        kl_in_loss=config.kl_in == "loss",
        epoch_kl_stop=config.epoch_kl_stop,
        critic_warmup=config.critic.warmup if config.baseline == "critic" else 0,
        beta=config.beta.coef,
        kl_target=config.beta.target,
        horizon=config.beta.horizon,
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
        ptx=0.0 if config.ptx is None else config.ptx.coef,
        kl=auto_estimator(config.beta.estimator, config.kl_in)[0] if config.kl_in == "loss" else None,
    )


def _refuse_failures(config: PPOConfig, run: setup.Telling, number: int, rollouts: Rollouts) -> None:
    """Notes and says which answers have no score. Raises ModelError when they are too many."""
    lost, asked_for = rollouts.unscored, len(rollouts.completions) + rollouts.unscored
    note_failures(run, number, rollouts.failures, lost, asked_for)
    refuse_failures(rollouts.failures, lost, asked_for, config.functions, least=config.minibatches)


def _watching(
    config: PPOConfig, run: setup.Telling, best: Best, updates: int, keep: Callable[[int, Rollouts], None]
) -> Callable[[int, Rollouts, dict[str, float]], None]:
    """Keeps rollouts for the inspector, shows one answer of each kept round, and the weights of the best one."""
    apart = steps_between(config.rollouts_every, config.steps)

    def watch(number: int, rollouts: Rollouts, metrics: dict[str, float]) -> None:
        _refuse_failures(config, run, number, rollouts)
        best.consider((number - 1) * updates, metrics)  # the answers are those of the weights as they stand
        if apart is None or (number % apart and number not in (1, config.steps)):
            return
        keep(number, rollouts)
        shown = rollouts.completions[0]
        prompt = asked(shown.prompt.record)
        run.writer.sample(number, prompt=prompt, answer=shown.text, stopped=shown.stopped)
        run.console.sample(prompt, shown.text, stopped=shown.stopped)

    return watch
