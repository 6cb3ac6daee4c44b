"""Direct preference optimisation: pairs or rankings, reference log-probs computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from posttrain import objectives
from posttrain.config import DPOConfig
from posttrain.config.automatic import every
from posttrain.console import Console
from posttrain.data.examples import RankedItem
from posttrain.data.pack import split_by_tokens
from posttrain.data.rankings import dpo_step, ranked_batch, ranked_batches
from posttrain.data.source import EpochSource
from posttrain.engine.local import ParameterGroup
from posttrain.loop import fit, measure
from posttrain.models.heads import Policy
from posttrain.models.load import save_causal
from posttrain.objectives import PreferenceLoss, response_logprobs
from posttrain.ops import losses
from posttrain.recipes import setup
from posttrain.recipes.reward import ranked_sets
from posttrain.recipes.rows import Rows, problems_of, read_rows
from posttrain.run import Run, RunWriter, check_out
from posttrain.text.chat import Codec
from posttrain.types import moved


def dpo(config: DPOConfig, *, console: Console, fresh: bool = False) -> Run:
    """Trains a policy on preferences and writes its run folder."""
    setup.quiet_libraries()
    lineage = {"model": config.model}
    if config.reference != "start":
        lineage["reference"] = config.reference
    paths = setup.data_paths([item.path for item in config.data], config.eval_data)
    check_out(config, config.out, fresh=fresh, lineage=lineage, data=paths)
    context = setup.context_of(config.model)
    codec = setup.load_codec(config.model, config.template, console)
    rows = read_rows(config.data, ("ranked",), console)
    with RunWriter.create(config.out, config, fresh=fresh, lineage=lineage, data=paths) as writer:
        if writer.finished:
            console.say(f"{config.out} is done already; --fresh trains it again")
            return writer.run
        console.attach(writer.log)
        writer.problems(problems_of(rows))
        return _train(config, rows, codec, context, setup.Telling(writer=writer, console=console))


def _train(config: DPOConfig, rows: list[Rows], codec: Codec, context: int, run: setup.Telling) -> Run:
    console = run.console
    limit = setup.max_length(config.max_length, context, console)
    sets, held = ranked_sets(config, rows, codec, limit, run)
    where = setup.machine(config.precision)
    start = setup.load_start(config.model, codec, where, console, packing=config.packing)
    reference = start.policy
    if config.reference != "start":
        reference = setup.load_start(config.reference, codec, where, console, packing=config.packing).policy
    budget = config.micro_batch_tokens
    sets = [replace(part, items=with_reference(part.items, reference, budget)) for part in sets]
    held = with_reference(held, reference, budget)
    console.say(
        f"reference: {config.reference}, log-probs of {sum(len(part.items) for part in sets):,} rows computed once"
    )
    rate = setup.learning_rate(config, start.loaded.model, console)
    policy, parameters = setup.role(start, "dpo", config.lora, packing=start.policy.trunk.packing, seed=config.seed)
    source = EpochSource(
        sets,
        lambda items: dpo_step(items, budget, ties=config.ties, pair_weight=config.pair_weight),
        batch_size=config.batch_size,
        epochs=config.epochs,
        steps=config.steps,
        seed=config.seed,
    )
    engine = setup.engine(
        config, [ParameterGroup(name="policy", parameters=parameters, learning_rate=rate)], source.steps, where
    )
    objective = objectives.dpo(policy, preference_loss(config))
    batches = ranked_batches(held, budget, ties=config.ties, pair_weight=config.pair_weight)
    interval = every(config.eval_every, source.steps)
    answer = setup.sampler(policy, codec, start.context)
    hooks = [
        *setup.evaluating(interval if held else None, source.steps, lambda: measure(batches, objective, engine)),
        *setup.sampling(config.samples, interval, source.steps, answer, codec, run),
        setup.reporting(run),
    ]
    console.start(f"dpo  {config.model} → {config.out}", source.steps, where=where.where)
    fit(source, objective, engine, hooks=hooks)
    save_causal(start.loaded, policy.stack, Path(config.out), stop_ids=codec.stop_ids)
    codec.save(config.out)
    results = measure(batches, objective, engine) if held else {}
    console.finish(f"saved {config.out}")
    return run.writer.finish(**{f"eval_{name}": value for name, value in results.items()})


def with_reference(items: Sequence[RankedItem], reference: Policy, budget: int) -> list[RankedItem]:
    """The rankings with the reference's summed log-probs of their answers."""
    found: list[RankedItem] = []
    with torch.inference_mode():
        for run in split_by_tokens(items, budget, size=len):
            batch = moved(ranked_batch(run, ties="drop", pair_weight="pair"), reference.device)
            values: list[float] = response_logprobs(reference, batch).tolist()
            for item in run:
                count = len(item.ranks)
                found.append(replace(item, reference=tuple(values[:count])))
                del values[:count]
    return found


def preference_loss(config: DPOConfig) -> PreferenceLoss:
    """The chosen loss with its numbers."""
    if config.loss == "sigmoid":
        return partial(losses.dpo, beta=config.beta, label_smoothing=config.label_smoothing)
    if config.loss == "robust":
        return partial(losses.robust, beta=config.beta, label_smoothing=config.label_smoothing)
    return partial(losses.ipo if config.loss == "ipo" else losses.hinge, beta=config.beta)
