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
from posttrain.recipes.rows import Rows, problems_of, read_rows
from posttrain.run import Run, RunWriter, check_out
from posttrain.text.chat import Codec
from posttrain.types import ChatRecord, PrefixGroup, Step, TextRecord, TokenBatch


def sft(config: SFTConfig, *, console: Console, fresh: bool = False) -> Run:
    """Trains a model on conversations or text and writes its run folder."""
    setup.quiet_libraries()
    lineage = {"model": config.model}
    paths = setup.data_paths([item.path for item in config.data], config.eval_data)
    check_out(config, config.out, fresh=fresh, lineage=lineage, data=paths)
    context = setup.context_of(config.model)
    codec = setup.load_codec(config.model, config.template, console)
    rows = read_rows(config.data, ("chat", "text"), console)
    with RunWriter.create(config.out, config, fresh=fresh, lineage=lineage, data=paths) as writer:
        if writer.finished:
            console.say(f"{config.out} is done already; --fresh trains it again")
            return writer.run
        console.attach(writer.log)
        writer.problems(problems_of(rows))
        return _train(config, rows, codec, context, setup.Telling(writer=writer, console=console))


def _train(config: SFTConfig, rows: list[Rows], codec: Codec, context: int, run: setup.Telling) -> Run:
    console = run.console
    limit = setup.max_length(config.max_length, context, console)
    sets, held = _sets(config, rows, codec, limit, run)
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
    answer = setup.sampler(policy, codec, start.context)

    def evaluate() -> dict[str, float]:
        with setup.resting(policy):
            return measure(batches, objective, engine)

    hooks = [
        *setup.evaluating(interval if held else None, source.steps, evaluate),
        *setup.sampling(config.samples, interval, source.steps, answer, codec, run),
        setup.reporting(run),
    ]
    console.start(f"sft  {config.model} → {config.out}", source.steps, where=where.where)
    policy.train()
    fit(source, objective, engine, hooks=hooks)
    save_causal(start.loaded, policy.stack, Path(config.out), stop_ids=codec.stop_ids)
    codec.save(config.out)
    results = evaluate() if held else {}
    console.finish(f"saved {config.out}")
    return run.writer.finish(**{f"eval_{name}": value for name, value in results.items()})


def _sets(
    config: SFTConfig, rows: list[Rows], codec: Codec, limit: int, run: setup.Telling
) -> tuple[list[Weighted[PrefixGroup]], list[PrefixGroup]]:
    """The mixture to train on, and the held-out conversations."""
    share = held_out_share(config.eval_data)
    sets: list[Weighted[PrefixGroup]] = []
    held: list[PrefixGroup] = []
    for part in rows:
        records = part.of(ChatRecord, TextRecord)
        apart: list[ChatRecord | TextRecord] = []
        if share is not None:
            records, apart = split(records, share, key=_prompt_of, seed=config.seed)
        sets.append(Weighted(items=_groups(records, config, codec, limit, part.name, run), weight=part.weight))
        held += _groups(apart, config, codec, limit, f"{part.name} held out", run) if apart else []
    if config.eval_data is not None and share is None:
        for part in read_rows(config.eval_data, ("chat", "text"), run.console):
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
