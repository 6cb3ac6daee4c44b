"""Supervised finetuning, and pretraining where the data are plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from posttrain.models.load import save_causal
from posttrain.recipes import fitting, setup
from posttrain.recipes.load import budget_of, load_of
from posttrain.recipes.mixture import Mixture, mixture
from posttrain.recipes.opening import Opened, Reads, training
from posttrain.run import Run
from posttrain.types import PrefixGroup, Step, TokenBatch


def sft(config: SFTConfig, *, console: Console, fresh: bool = False, dry_run: bool = False) -> Run:
    """Trains a model on conversations or text and writes its run folder."""
    return training(
        config,
        Reads(data=config.data, kinds=("chat", "text"), held_out=config.eval_data),
        lambda door: mixture(config, door, conversations(door.codec, door.limit, config.overlong, config.loss_on)),
        lambda opened: _train(config, opened),
        console=console,
        fresh=fresh,
        dry_run=dry_run,
    )


def _train(config: SFTConfig, opened: Opened[Mixture[PrefixGroup]]) -> Run:
    codec, run, data = opened.codec, opened.run, opened.data
    console = run.console
    where = setup.machine(config.precision, console)
    start = setup.load_start(config.model, codec, where, console, packing=config.packing)
    policy, parameters = setup.role(start, "sft", config.lora, packing=start.policy.trunk.packing, seed=config.seed)
    rate = setup.learning_rate(config, start.loaded.model, console)
    budget = budget_of(config.micro_batch_tokens, where)
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

    def evaluate() -> dict[str, float]:
        return measure(_batches(data.held, budget.tokens), objective, engine)

    answer = setup.sampler(policy, codec, start.context, where)
    hooks = [
        *setup.evaluating(interval if data.held else None, source.steps, evaluate),
        *setup.sampling(config.samples, interval, source.steps, answer, codec, run),
    ]
    load = load_of(budget, data.sets, source, config.batch_size, _step)
    parts = fitting.Parts(source=source, objective=objective, engine=engine, models={"policy": policy}, load=load)
    fitting.train(config, run, parts, where, hooks)
    save_causal(start.loaded, policy.stack, Path(config.out), stop_ids=codec.stop_ids)
    codec.save(config.out)
    results = evaluate() if data.held else {}
    console.finish(f"saved {config.out}")
    return run.writer.finish(**{f"eval_{name}": value for name, value in results.items()})


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
