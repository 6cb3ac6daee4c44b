"""Supervised finetuning, and pretraining where the data are plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain import objectives
from posttrain.config import SFTConfig
from posttrain.config.automatic import steps_between
from posttrain.console import Console
from posttrain.data.pack import pack, split_by_tokens
from posttrain.data.source import EpochSource
from posttrain.data.tokenise import conversations
from posttrain.engine.local import ParameterGroup
from posttrain.loop import measure
from posttrain.recipes import fitting, setup
from posttrain.recipes.keeping import best_of_rows, saving
from posttrain.recipes.load import budget_of, load_of
from posttrain.recipes.measuring import Evaluation, Questions, held_questions
from posttrain.recipes.mixture import Mixture, mixture
from posttrain.recipes.opening import Door, Opened, Reads, training
from posttrain.run import Run
from posttrain.types import PrefixGroup, Step, TokenBatch


def sft(config: SFTConfig, *, console: Console, fresh: bool = False, dry_run: bool = False) -> Run:
    """Trains a model on conversations or text and writes its run folder."""
    return training(
        config,
        Reads(data=config.data, kinds=("chat", "text"), held_out=config.eval_data),
        lambda door: _read(config, door),
        lambda opened: _train(config, opened),
        console=console,
        fresh=fresh,
        dry_run=dry_run,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    """Rows to train on and rows held out; `questions` are those of the latter that are answered and measured."""

    mixture: Mixture[PrefixGroup]
    questions: Questions | None


def _read(config: SFTConfig, door: Door) -> _Data:
    found = mixture(config, door, conversations(door.codec, door.limit, config.overlong, config.loss_on))
    return _Data(mixture=found, questions=held_questions(config, door))


def _train(config: SFTConfig, opened: Opened[_Data]) -> Run:
    codec, run, data, questions = opened.codec, opened.run, opened.data.mixture, opened.data.questions
    console = run.console
    where = setup.machine(config, console)
    start = setup.load_start(config.model, codec, where, console, packing=config.packing, trained=config.lora is None)
    policy, parameters = setup.role(start, "sft", config.lora, packing=start.policy.trunk.packing, seed=config.seed)
    rate = setup.learning_rate(config, start.loaded.model, console)
    budget = budget_of(config.micro_batch_tokens, where, setup.config_of(config.model))
    source = EpochSource(
        data.sets,
        lambda groups: _step(groups, budget.tokens),
        batch_size=config.batch_size,
        epochs=config.epochs,
        steps=config.steps,
        seed=config.seed,
    )
    group = ParameterGroup(name="policy", parameters=parameters, learning_rate=rate)
    engine = setup.engine(config, [group], source.steps, where)
    objective = objectives.sft(policy)
    interval = steps_between(config.eval_every, source.steps)
    evaluated = interval if data.held else None

    def loss() -> dict[str, float]:
        return measure(_batches(data.held, budget.tokens), objective, engine)

    answer = setup.sampler(policy, codec, start.context, where, tell=console.say)
    evaluate = Evaluation(config, loss, questions, answer)
    hooks = [
        *setup.evaluating(evaluated, source.steps, evaluate),
        *setup.sampling(config.samples, interval, source.steps, answer, codec, run),
    ]
    cache = questions.cache(start.loaded.model, config.max_new_tokens) if questions else 0
    load = load_of(budget, data.sets, source, config.batch_size, _step, cache=cache)
    best = best_of_rows(config.best, parameters, source, console, interval=evaluated)
    parts = fitting.Parts(
        source=source, objective=objective, engine=engine, models={"policy": policy}, load=load,
        save=saving(start.loaded, policy.stack, codec), best=best,
    )  # fmt: skip
    kept = fitting.train(config, run, parts, where, hooks)
    parts.save(Path(config.out))
    results = evaluate.results() if data.held else {}
    return fitting.ended(config, run, parts, {**results, **kept})


def _step(groups: Sequence[PrefixGroup], budget: int) -> Step:
    batches = list(_batches(groups, budget))
    return Step(
        micro_batches=batches,
        counts={"tokens": float(sum(int(batch.trained.sum()) for batch in batches))},
        rows=[group.id for group in groups],
        metrics={"tokens": float(sum(len(group) for group in groups))},
    )


def _batches(groups: Sequence[PrefixGroup], budget: int) -> Iterator[TokenBatch]:
    return (pack(run) for run in split_by_tokens(groups, budget, size=len))
