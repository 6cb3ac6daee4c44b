"""Online DPO: sample several answers a prompt, score them, pair them, update; the reference and the reward stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from posttrain.config import OnlineDPOConfig
from posttrain.config.automatic import steps_between
from posttrain.console import Console
from posttrain.data.examples import RankedItem
from posttrain.engine.local import LocalEngine, ParameterGroup
from posttrain.models.heads import Policy
from posttrain.recipes import fitting, setup
from posttrain.recipes.asked import read_prompts
from posttrain.recipes.functions import Loaded, asked, note_failures, refuse_failures
from posttrain.recipes.inspected_pairs import InspectedPairs
from posttrain.recipes.inspecting import Inspecting
from posttrain.recipes.keeping import Best, saving
from posttrain.recipes.load import budget_of
from posttrain.recipes.machine import set_aside
from posttrain.recipes.opening import Door, Opened, Reads, training
from posttrain.recipes.ppo import reward_lineage
from posttrain.recipes.preferences import check_reference, other_reference, pair_objective, settled
from posttrain.recipes.reward_models import reward_loader
from posttrain.recipes.rewarding import assembled, check_rewards
from posttrain.recipes.rollout_load import pair_load
from posttrain.rollout.annotate import over_answers
from posttrain.rollout.asking import Asking
from posttrain.rollout.grading import failed, grades_of
from posttrain.rollout.pairs import Judged, PairPlan, PairSource, answer_sums, prompts_of, ranked
from posttrain.run import Run
from posttrain.types import Completion, Prompt, SamplingSpec, Scorer, TokenBatch, moved


def online_dpo(config: OnlineDPOConfig, *, console: Console, fresh: bool = False, dry_run: bool = False) -> Run:
    """Trains a policy on preferences among its own answers and writes its run folder."""
    setup.refuse_weights(config.prompts, "prompts")
    functions = check_rewards(config.reward)
    other = other_reference(config)
    return training(
        config,
        Reads(data=config.prompts, kinds=("prompt",)),
        lambda door: _read(config, functions, door),
        lambda opened: _train(config, functions, opened),
        console=console,
        fresh=fresh,
        dry_run=dry_run,
        lineage=reward_lineage(config.reward) | ({} if other is None else {"reference": other}),
    )


def _read(config: OnlineDPOConfig, functions: Loaded, door: Door) -> list[Prompt]:
    check_reference(config, door)
    return read_prompts(config, functions, door)


def _train(config: OnlineDPOConfig, functions: Loaded, opened: Opened[list[Prompt]]) -> Run:
    codec, run = opened.codec, opened.run
    console = run.console
    where = setup.machine(config, console)
    budget = budget_of(config.micro_batch_tokens, where, setup.config_of(config.model))
    numbers = settled(config, console)
    start = setup.load_start(
        config.model, codec, where, console, packing=config.packing, temperature=config.temperature,
        trained=config.lora is None,
    )  # fmt: skip
    loader = reward_loader(config, codec, where, start, budget, console)
    reward = assembled(config.reward, functions, config.functions, loader)
    reference = _reference(config, numbers.reference, start, where, console)
    rate = setup.learning_rate(config, start.loaded.model, console)
    packing = start.policy.trunk.packing
    policy, parameters = setup.role(start, "policy", config.lora, packing=packing, seed=config.seed)
    read_only = [*([] if reference is None else [reference]), *(model.scalar for model in reward.models.values())]
    apart = set_aside(where, (policy,), read_only, console)
    group = ParameterGroup(name="policy", parameters=parameters, learning_rate=rate)
    engine = setup.engine(config, [group], config.steps, where)
    asking = Asking(
        prompts=opened.data,
        sampler=setup.sampler(policy, codec, opened.limit, where, tell=console.say),
        spec=SamplingSpec(max_new_tokens=config.max_new_tokens, temperature=config.temperature, stop=config.stop),
        rollouts=config.rollouts,
        group=config.group,
        seed=config.seed,
    )
    judge = _Judge(reward.scorer, reference, engine)
    plan = PairPlan(
        rounds=config.steps, pairs=config.pairs, missing_eos_penalty=config.missing_eos_penalty, budget=budget
    )

    def judged(completions: Sequence[Completion], prompts: Sequence[int]) -> Judged:
        with where.lent(apart):
            return judge(completions, prompts, budget.tokens)

    inspecting = InspectedPairs(config, Inspecting(run, codec, config.command), numbers.beta)
    inspect = inspecting.of_rounds(policy, reference, engine, lambda: where.lent(apart))
    best = Best(parameters, config.best, say=console.say)
    parts = fitting.Parts(
        source=PairSource(asking, judged, plan, watch=_watching(config, run, best, plan, inspect)),
        objective=pair_objective(config, policy, numbers.beta),
        engine=engine,
        load=pair_load(config, budget, policy, read_only, asking, opened.limit),
        models={"policy": policy},
        save=saving(start.loaded, policy.stack, codec),
        best=best,
    )
    kept = fitting.train(config, run, parts, where)
    parts.save(Path(config.out))
    last = run.writer.run.metrics[-1]
    results = {name: last[name] for name in _RESULTS if name in last}
    return fitting.ended(config, run, parts, {**results, **kept})


_RESULTS = ("score", "reward", "score_margin", "paired", "kl", "length", "stopped")


def _reference(
    config: OnlineDPOConfig, name: str, start: setup.Start, where: setup.Machine, console: Console
) -> Policy | None:
    """What the policy is held to, asked in every round; a second copy where the start's own weights are trained."""
    if name == "none":
        return None
    if name == "start" and config.lora is not None:
        return start.policy
    path = config.model if name == "start" else name
    copy = setup.load_start(path, start.codec, where, console, packing=config.packing, temperature=config.temperature)
    return copy.policy


class _Judge:
    """Scores the answers of a round, and takes their log-probs under the reference."""

    def __init__(self, scorer: Scorer, reference: Policy | None, engine: LocalEngine) -> None:
        self._scorer = scorer
        self._reference = reference
        self._engine = engine

    def __call__(self, completions: Sequence[Completion], prompts: Sequence[int], budget: int) -> Judged:
        """The judged answers."""
        with self._engine.precision():
            grades = grades_of(self._scorer, completions)
            reference, sums = self._reference, None
            if reference is not None:

                def logprobs(batch: TokenBatch) -> Tensor:
                    return reference(moved(batch, reference.device)).logprobs

                sums = answer_sums(over_answers(logprobs, completions, prompts, budget), completions)
        return Judged(
            completions=completions,
            prompts=prompts,
            scores=grades.total,
            reference=sums,
            parts=dict(grades.parts),
            failures=failed(grades, completions),
        )


def _watching(
    config: OnlineDPOConfig,
    run: setup.Telling,
    best: Best,
    plan: PairPlan,
    inspect: Callable[[int, Sequence[RankedItem]], None],
) -> Callable[[int, Judged, dict[str, float]], None]:
    """Keeps pairs for the inspector and shows one prompt's answers every so many rounds, and keeps the best weights.

    A round without a pair is said, and each failure.

    What it returns raises ModelError when too many answers of a round have no score.
    """
    apart = steps_between(config.rollouts_every, config.steps)

    def watch(number: int, judged: Judged, metrics: dict[str, float]) -> None:
        lost, asked_for = int(judged.scores.isnan().sum()), len(judged.completions)
        note_failures(run, number, judged.failures, lost, asked_for)
        refuse_failures(judged.failures, lost, asked_for, config.functions)
        if lost < asked_for:
            best.consider(number - 1, metrics)  # the answers are those of the weights as they stand
        if metrics["paired"] == 0:
            run.console.say(f"step {number}: no prompt has two answers of different scores; nothing is learnt in it")
        if apart is None or (number % apart and number not in (1, config.steps)):
            return
        if metrics["paired"]:
            inspect(number, ranked(judged, plan))
        for row in prompts_of(judged.prompts)[0]:
            answer = judged.completions[row]
            text = asked(answer.prompt.record)
            run.writer.sample(number, prompt=text, answer=answer.text, stopped=answer.stopped)
            run.console.sample(text, answer.text, stopped=answer.stopped)

    return watch
