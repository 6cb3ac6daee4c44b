"""Direct preference optimisation: pairs or rankings, reference log-probs computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from posttrain import objectives
from posttrain.config import DPOConfig
from posttrain.config.automatic import steps_between
from posttrain.console import Console
from posttrain.counted import counted
from posttrain.data.examples import RankedItem
from posttrain.data.pack import split_by_tokens
from posttrain.data.rankings import dpo_step, ranked_batch, ranked_batches
from posttrain.data.source import EpochSource
from posttrain.data.views import Changed
from posttrain.engine.local import ParameterGroup
from posttrain.errors import ModelError
from posttrain.loop import measure
from posttrain.models.heads import Policy
from posttrain.models.load import save_causal
from posttrain.objectives import PreferenceLoss, response_logprobs
from posttrain.ops import losses
from posttrain.recipes import fitting, setup
from posttrain.recipes.load import budget_of, load_of
from posttrain.recipes.mixture import Mixture
from posttrain.recipes.opening import Door, Opened, Reads, training
from posttrain.recipes.reward import read_rankings
from posttrain.recipes.scoring import same_words
from posttrain.run import Run
from posttrain.text.chat import Codec
from posttrain.types import moved


def dpo(config: DPOConfig, *, console: Console, fresh: bool = False, dry_run: bool = False) -> Run:
    """Trains a policy on preferences and writes its run folder."""
    return training(
        config,
        Reads(data=config.data, kinds=("ranked",), held_out=config.eval_data),
        lambda door: _read(config, door),
        lambda opened: _train(config, opened),
        console=console,
        fresh=fresh,
        dry_run=dry_run,
        lineage={} if config.reference == "start" else {"reference": config.reference},
    )


def _read(config: DPOConfig, door: Door) -> Mixture[RankedItem]:
    """The rankings. Raises ModelError when the reference would read other tokens, or too few."""
    if config.reference != "start":
        other = Codec.load(config.reference, template=config.template)
        if not same_words(other, door.codec):
            raise ModelError(f"reference {config.reference} has another tokenizer or template than {config.model}")
        if setup.context_of(config.reference) < door.limit:
            raise ModelError(f"reference {config.reference} has a context below max_length {door.limit}")
    return read_rankings(config, door)


def _train(config: DPOConfig, opened: Opened[Mixture[RankedItem]]) -> Run:
    codec, run = opened.codec, opened.run
    console = run.console
    where = setup.machine(config.precision, console)
    start = setup.load_start(config.model, codec, where, console, packing=config.packing)
    reference = start.policy
    if config.reference != "start":
        other = setup.load_start(config.reference, codec, where, console, packing=config.packing)
        reference = other.policy
    budget = budget_of(config.micro_batch_tokens, where)
    step = partial(dpo_step, ties=config.ties, pair_weight=config.pair_weight)

    def joined(number: int, items: Sequence[RankedItem]) -> Sequence[RankedItem]:
        if run.dry:  # what the reference says changes neither memory nor time
            return Changed(items, lambda place, item: replace(item, reference=(0.0,) * len(item.ranks)))
        # In the precision of training: else the policy would differ from its reference at step 0.
        with where.autocast():
            name = f"reference-{number}"
            return with_reference(
                items, fitting.once(run, name, lambda: reference_sums(items, reference, budget.tokens))
            )

    sets = [replace(part, items=joined(number, part.items)) for number, part in enumerate(opened.data.sets, 1)]
    held = joined(0, opened.data.held)
    rows = counted(sum(len(part.items) for part in sets), "row")
    console.say(f"reference: {config.reference}, log-probs of {rows} computed once")
    rate = setup.learning_rate(config, start.loaded.model, console)
    policy, parameters = setup.role(start, "dpo", config.lora, packing=start.policy.trunk.packing, seed=config.seed)
    source = EpochSource(
        sets,
        lambda items: step(items, budget.tokens),
        batch_size=config.batch_size,
        epochs=config.epochs,
        steps=config.steps,
        seed=config.seed,
    )
    engine = setup.engine(
        config, [ParameterGroup(name="policy", parameters=parameters, learning_rate=rate)], source.steps, where
    )
    objective = objectives.dpo(policy, preference_loss(config))
    interval = steps_between(config.eval_every, source.steps)

    def evaluate() -> dict[str, float]:
        batches = ranked_batches(held, budget.tokens, ties=config.ties, pair_weight=config.pair_weight)
        return measure(batches, objective, engine)

    answer = setup.sampler(policy, codec, start.context, where)
    hooks = [
        *setup.evaluating(interval if held else None, source.steps, evaluate),
        *setup.sampling(config.samples, interval, source.steps, answer, codec, run),
    ]
    load = load_of(budget, sets, source, config.batch_size, step, frozen=[reference])
    parts = fitting.Parts(source=source, objective=objective, engine=engine, models={"policy": policy}, load=load)
    fitting.train(config, run, parts, where, hooks)
    save_causal(start.loaded, policy.stack, Path(config.out), stop_ids=codec.stop_ids)
    codec.save(config.out)
    results = evaluate() if held else {}
    console.finish(f"saved {config.out}")
    return run.writer.finish(**{f"eval_{name}": value for name, value in results.items()})


def reference_sums(items: Sequence[RankedItem], reference: Policy, budget: int) -> dict[str, NDArray[Any]]:
    """The reference's summed log-prob of every answer as `values`; those of item n begin at `starts[n]`."""
    parts: list[NDArray[np.float32]] = []
    starts = [0]
    with torch.inference_mode():
        for run in split_by_tokens(items, budget, size=len):
            batch = moved(ranked_batch(run, ties="drop", pair_weight="pair"), reference.device)
            parts.append(response_logprobs(reference, batch).float().cpu().numpy())
            starts.extend(accumulate((len(item.ranks) for item in run), initial=starts.pop()))
    return {"values": np.concatenate([np.zeros(0, np.float32), *parts]), "starts": np.array(starts)}


def with_reference(items: Sequence[RankedItem], sums: Mapping[str, NDArray[Any]]) -> Sequence[RankedItem]:
    """The rankings with the reference's log-probs of their answers, which are kept as plain numbers."""
    values, starts = sums["values"], sums["starts"]

    def joined(place: int, item: RankedItem) -> RankedItem:
        return replace(item, reference=tuple(values[starts[place] : starts[place + 1]].tolist()))

    return Changed(items, joined)


def preference_loss(config: DPOConfig) -> PreferenceLoss:
    """The chosen loss with its numbers."""
    if config.loss == "sigmoid":
        return partial(losses.dpo, beta=config.beta, label_smoothing=config.label_smoothing)
    if config.loss == "robust":
        return partial(losses.robust, beta=config.beta, label_smoothing=config.label_smoothing)
    return partial(losses.ipo if config.loss == "ipo" else losses.hinge, beta=config.beta)
