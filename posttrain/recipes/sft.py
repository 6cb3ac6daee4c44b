"""Supervised finetuning, and pretraining where the data are plain text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from posttrain import objectives
from posttrain.config import SFTConfig
from posttrain.config.automatic import every, held_out_share
from posttrain.console import Console
from posttrain.data.examples import split, within
from posttrain.data.pack import pack, split_by_tokens
from posttrain.data.source import EpochSource, Weighted
from posttrain.engine.local import ParameterGroup
from posttrain.loop import fit, measure
from posttrain.models.load import save_causal
from posttrain.recipes import setup
from posttrain.recipes.opening import Opened, training
from posttrain.run import Run
from posttrain.text.chat import Codec
from posttrain.types import ChatRecord, PrefixGroup, Step, TextRecord, TokenBatch


def sft(config: SFTConfig, *, console: Console, fresh: bool = False) -> Run:
    """Trains a model on conversations or text and writes its run folder."""
    return training(
        config,
        config.data,
        ("chat", "text"),
        lambda opened: _train(config, opened),
        console=console,
        fresh=fresh,
        reads=[config.eval_data],
        held_out=config.eval_data,
    )


def _train(config: SFTConfig, opened: Opened) -> Run:
    codec, run = opened.codec, opened.run
    console = run.console
    sets, held = _sets(config, opened, run)
    where = setup.machine(config.precision)
    start = setup.load_start(config.model, codec, where, console, packing=config.packing)
    policy, parameters = setup.role(start, "sft", config.lora, packing=start.policy.trunk.packing, seed=config.seed)
    rate = setup.learning_rate(config, start.loaded.model, console)
    source = EpochSource(
        sets,
        lambda groups: _step(groups, config.micro_batch_tokens),
        batch_size=config.batch_size,
        epochs=config.epochs,
        steps=config.steps,
        seed=config.seed,
    )
    group = ParameterGroup(name="policy", parameters=parameters, learning_rate=rate)
    engine = setup.engine(config, [group], source.steps, where)
    objective = objectives.sft(policy)
    batches = _batches(held, config.micro_batch_tokens)
    interval = every(config.eval_every, source.steps)
    answer = setup.sampler(policy, codec, start.context, where)
    hooks = [
        *setup.evaluating(interval if held else None, source.steps, lambda: measure(batches, objective, engine)),
        *setup.sampling(config.samples, interval, source.steps, answer, codec, run),
        setup.reporting(run),
    ]
    console.start(f"sft  {config.model} → {config.out}", source.steps, where=where.where)
    fit(source, objective, engine, hooks=hooks)
    save_causal(start.loaded, policy.stack, Path(config.out), stop_ids=codec.stop_ids)
    codec.save(config.out)
    results = measure(batches, objective, engine) if held else {}
    console.finish(f"saved {config.out}")
    return run.writer.finish(**{f"eval_{name}": value for name, value in results.items()})


def _sets(
    config: SFTConfig, opened: Opened, run: setup.Telling
) -> tuple[list[Weighted[PrefixGroup]], list[PrefixGroup]]:
    """The mixture to train on, and the held-out conversations."""
    codec, limit, share = opened.codec, opened.limit, held_out_share(config.eval_data)
    sets: list[Weighted[PrefixGroup]] = []
    held: list[PrefixGroup] = []
    for part in opened.rows:
        records = part.of(ChatRecord, TextRecord)
        apart: list[ChatRecord | TextRecord] = []
        if share is not None:
            records, apart = split(records, share, key=_prompt_of, seed=config.seed)
        sets.append(Weighted(items=_groups(records, config, codec, limit, part.name, run), weight=part.weight))
        held += _groups(apart, config, codec, limit, f"{part.name} held out", run) if apart else []
    if share is not None and not held:
        run.console.say(f"eval_data {config.eval_data}: no row falls into it, so nothing is held out")
    for part in opened.held_out:
        held += _groups(part.of(ChatRecord, TextRecord), config, codec, limit, part.name, run)
    return sets, held


def _prompt_of(record: ChatRecord | TextRecord) -> object:
    return record.text if isinstance(record, TextRecord) else record.messages[:-1]


def _groups(
    records: Sequence[ChatRecord | TextRecord],
    config: SFTConfig,
    codec: Codec,
    limit: int,
    name: str,
    run: setup.Telling,
) -> list[PrefixGroup]:
    broken = codec.losses.breaks
    chats = [record for record in records if isinstance(record, ChatRecord)]
    texts = [record for record in records if isinstance(record, TextRecord)]
    groups = [
        PrefixGroup(id=record.id, root=span)
        for record, spans in zip(chats, codec.conversations(chats, loss_on=config.loss_on), strict=True)
        for span in spans
    ]
    expanded = len(groups) - len(chats)
    groups += [PrefixGroup(id=record.id, root=span) for record, span in zip(texts, codec.texts(texts), strict=True)]
    kept, losses = within(groups, limit, config.overlong)
    counts: Counter[str] = Counter(losses)
    counts["turns as samples of their own"] = expanded
    counts["answers whose tokens decode to another text"] = codec.losses.breaks - broken
    setup.say_losses(run, name, len(kept), counts)
    return kept


def _step(groups: Sequence[PrefixGroup], budget: int) -> Step:
    batches = _batches(groups, budget)
    return Step(
        micro_batches=batches,
        counts={"tokens": float(sum(int(batch.trained.sum()) for batch in batches))},
        rows=[group.id for group in groups],
        metrics={"tokens": float(sum(len(group) for group in groups))},
    )


def _batches(groups: Sequence[PrefixGroup], budget: int) -> list[TokenBatch]:
    return [pack(run) for run in split_by_tokens(groups, budget, size=len)]
