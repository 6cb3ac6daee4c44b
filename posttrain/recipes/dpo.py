"""Direct preference optimisation: pairs or rankings, reference log-probs computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from posttrain.config import DPOConfig
from posttrain.config.automatic import steps_between
from posttrain.console import Console
from posttrain.counted import counted
from posttrain.data.examples import RankedItem
from posttrain.data.pack import Budget
from posttrain.data.source import EpochSource
from posttrain.data.views import Changed, Joined
from posttrain.engine.local import ParameterGroup
from posttrain.loop import every, measure
from posttrain.models.heads import Policy
from posttrain.recipes import fitting, setup
from posttrain.recipes.inspected_pairs import InspectedPairs, pairs_of, said_of
from posttrain.recipes.inspecting import Inspecting, spaced
from posttrain.recipes.keeping import best_of_rows, saving
from posttrain.recipes.kto import labelled, read_labels
from posttrain.recipes.load import budget_of, load_of
from posttrain.recipes.machine import set_aside
from posttrain.recipes.mixture import Mixture
from posttrain.recipes.opening import Door, Opened, Reads, training
from posttrain.recipes.preferences import (
    ItemT,
    Method,
    Ready,
    check_reference,
    other_reference,
    pairs,
    reference_sums,
    settled,
    with_reference,
)
from posttrain.recipes.reward import read_rankings
from posttrain.run import Run


def dpo(config: DPOConfig, *, console: Console, fresh: bool = False, dry_run: bool = False) -> Run:
    """Trains a policy on preferences and writes its run folder."""
    run = partial(
        training,
        config,
        console=console,
        fresh=fresh,
        dry_run=dry_run,
        lineage={"reference": other} if (other := other_reference(config)) else {},
    )
    if config.loss == "kto":
        return run(
            Reads(data=config.data, kinds=("labelled", "ranked"), held_out=config.eval_data),
            lambda door: read_labels(config, door),
            lambda opened: _train(config, opened, lambda ready: labelled(config, ready)),
        )
    return run(
        Reads(data=config.data, kinds=("ranked",), held_out=config.eval_data),
        lambda door: _read(config, door),
        lambda opened: _train(config, opened, lambda ready: pairs(config, ready)),
    )


def _read(config: DPOConfig, door: Door) -> Mixture[RankedItem]:
    """The rankings. Raises ModelError when the reference would read other tokens, or too few."""
    check_reference(config, door)
    return read_rankings(config, door)


def _train(config: DPOConfig, opened: Opened[Mixture[ItemT]], method_of: Callable[[Ready], Method[ItemT]]) -> Run:
    codec, run = opened.codec, opened.run
    console = run.console
    where = setup.machine(config, console)
    numbers = settled(config, console)
    start = setup.load_start(config.model, codec, where, console, packing=config.packing, trained=config.lora is None)
    reference = _reference(config, numbers.reference, start, where, console)
    budget = budget_of(config.micro_batch_tokens, where, setup.config_of(config.model))
    joined = _joining(run, reference, where, budget)
    sets = [replace(part, items=joined(number, part.items)) for number, part in enumerate(opened.data.sets, 1)]
    held = joined(0, opened.data.held)
    shown = pairs_of(held or Joined([part.items for part in sets]))
    with where.autocast():
        said = None if reference is None or run.dry else said_of(reference, shown)
    set_aside(where, (start.policy,), () if reference is None else (reference,), console)
    if reference is not None:
        rows = counted(sum(len(part.items) for part in sets), "row")
        console.say(f"reference: {numbers.reference}, log-probs of {rows} computed once")
    rate = setup.learning_rate(config, start.loaded.model, console)
    policy, parameters = setup.role(start, "dpo", config.lora, packing=start.policy.trunk.packing, seed=config.seed)
    ready = Ready(policy=policy, reference=reference, beta=numbers.beta, limit=opened.limit, where=where)
    method = method_of(ready)
    source = EpochSource(
        sets, lambda items: method.step(items, budget.tokens), batch_size=config.batch_size, epochs=config.epochs,
        steps=config.steps, seed=config.seed, ahead=method.ahead,
    )  # fmt: skip
    group = ParameterGroup(name="policy", parameters=parameters, learning_rate=rate)
    engine = setup.engine(config, [group], source.steps, where)
    interval = steps_between(config.eval_every, source.steps)
    evaluated = interval if held else None
    inspect = InspectedPairs(config, Inspecting(run, codec, config.command), numbers.beta).of_rows(
        shown, policy, said, engine
    )

    def evaluate() -> dict[str, float]:
        return measure(method.batches(held, budget.tokens), method.objective, engine)

    answer = setup.sampler(policy, codec, start.context, where, tell=console.say)
    hooks = [
        *setup.evaluating(evaluated, source.steps, evaluate),
        *every(spaced(interval, source.steps, config.batch_size), inspect, last=source.steps),
        *setup.sampling(config.samples, interval, source.steps, answer, codec, run),
    ]
    frozen = [] if reference is None else [reference]
    load = load_of(budget, sets, source, config.batch_size, method.step, frozen=frozen)
    parts = fitting.Parts(
        source=source, objective=method.objective, engine=engine, models={"policy": policy}, load=load,
        save=saving(start.loaded, policy.stack, codec),
        best=best_of_rows(config.best, parameters, source, console, interval=evaluated), inspect=inspect,
    )  # fmt: skip
    kept = fitting.train(config, run, parts, where, hooks)
    parts.save(Path(config.out))
    results = {f"eval_{name}": value for name, value in (evaluate() if held else {}).items()}
    return fitting.ended(config, run, parts, {**results, **kept})


def _joining(
    run: setup.Telling, reference: Policy | None, where: setup.Machine, budget: Budget
) -> Callable[[int, Sequence[ItemT]], Sequence[ItemT]]:
    """What gives rows the log-probs that the reference has of their answers; the number names what is kept of them."""

    def joined(number: int, items: Sequence[ItemT]) -> Sequence[ItemT]:
        if reference is None:
            return items
        if run.dry:  # what the reference says changes neither memory nor time
            return Changed(items, lambda place, item: replace(item, reference=(0.0,) * len(item.group.branches)))
        # In the precision of training: else the policy would differ from its reference at step 0.
        with where.autocast():
            sums = partial(reference_sums, items, reference, budget.tokens)
            return with_reference(items, fitting.once(run, f"reference-{number}", sums))

    return joined


def _reference(
    config: DPOConfig, name: str, start: setup.Start, where: setup.Machine, console: Console
) -> Policy | None:
    """What the policy is held to, or None. The start serves until it is trained itself; kto asks it in every step."""
    if name == "none":
        return None
    if name == "start" and (config.loss != "kto" or config.lora is not None):
        return start.policy
    return setup.load_start(
        config.model if name == "start" else name, start.codec, where, console, packing=config.packing
    ).policy
