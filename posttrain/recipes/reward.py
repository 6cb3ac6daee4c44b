"""A reward model from rankings: all pairs of a prompt together, scores centred, accuracy with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from posttrain import objectives
from posttrain.config import DPOConfig, RewardConfig
from posttrain.config.automatic import every, held_out_share
from posttrain.console import Console
from posttrain.data.examples import Overlong, RankedItem, ranked_within, split
from posttrain.data.rankings import ranked_batches, reward_step
from posttrain.data.source import EpochSource, Weighted
from posttrain.engine.local import ParameterGroup
from posttrain.loop import fit, measure
from posttrain.measures import Share, ranking_accuracy
from posttrain.models.heads import Policy, ScalarModel, scalar_head
from posttrain.models.load import save_scalar
from posttrain.models.parity import gate_scalar
from posttrain.objectives import ScoreReader
from posttrain.recipes import setup
from posttrain.recipes.rows import Rows, problems_of, read_rows
from posttrain.recipes.scoring import RewardCard, answer_group, score_groups
from posttrain.run import Run, RunWriter, check_out
from posttrain.text.chat import Codec
from posttrain.types import ChatRecord, PrefixGroup, PromptRecord, RankedRecord


def reward(config: RewardConfig, *, console: Console, fresh: bool = False) -> Run:
    """Trains a reward model on ranked answers and writes its run folder."""
    setup.quiet_libraries()
    lineage = {"model": config.model}
    paths = setup.data_paths([item.path for item in config.data], config.eval_data, config.center)
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


def _train(config: RewardConfig, rows: list[Rows], codec: Codec, context: int, run: setup.Telling) -> Run:
    console = run.console
    limit, pad = setup.max_length(config.max_length, context, console), pad_id(codec)
    sets, held = ranked_sets(config, rows, codec, limit, run)
    where = setup.machine(config.precision)
    start = setup.load_start(config.model, codec, where, console, packing=config.packing)
    rate = setup.learning_rate(config, start.loaded.model, console)
    policy, parameters = setup.role(start, "reward", config.lora, packing=start.policy.trunk.packing, seed=config.seed)
    scalar = new_scalar(policy, config.seed)
    trunk = {id(part) for part in scalar.model.parameters()}
    # A language head that is not tied to the embedding has no part in a score.
    trained = [*(part for part in parameters if id(part) in trunk), *scalar.score.parameters()]
    gate_scalar(scalar, start.loaded.own_attention, packing=policy.trunk.packing)
    source = EpochSource(
        sets,
        lambda items: reward_step(items, config.micro_batch_tokens, ties=config.ties),
        batch_size=config.batch_size,
        epochs=config.epochs,
        steps=config.steps,
        seed=config.seed,
    )
    engine = setup.engine(
        config, [ParameterGroup(name="reward", parameters=trained, learning_rate=rate)], source.steps, where
    )
    reader = ScoreReader(model=scalar, mean=config.score_at == "mean")
    objective = objectives.reward(reader, loss=config.loss)
    batches = ranked_batches(held, config.micro_batch_tokens, ties=config.ties, pair_weight="prompt")
    hooks = [
        *setup.evaluating(
            every(config.eval_every, source.steps) if held else None,
            source.steps,
            lambda: measure(batches, objective, engine),
        ),
        setup.reporting(run),
    ]
    console.start(f"reward  {config.model} → {config.out}", source.steps, where=where.where)
    fit(source, objective, engine, hooks=hooks)
    card = _card(config, [item.group for part in sets for item in part.items], reader, codec, limit, console)
    folder = Path(config.out)
    save_scalar(scalar, folder, base=start.loaded.base, pad_id=pad)
    codec.save(folder, pad=pad)
    card.write(folder)
    results = _results(sets, held, reader, config.micro_batch_tokens, console)
    console.finish(f"saved {config.out}")
    return run.writer.finish(**results)


def ranked_sets(
    config: RewardConfig | DPOConfig, rows: list[Rows], codec: Codec, limit: int, run: setup.Telling
) -> tuple[list[Weighted[RankedItem]], list[RankedItem]]:
    """The rankings to train on, and those held out by prompt."""
    share = held_out_share(config.eval_data)
    sets: list[Weighted[RankedItem]] = []
    held: list[RankedItem] = []
    for part in rows:
        items = ranked_items(part, codec, limit, config.overlong, run)
        if share is not None:
            items, apart = split(items, share, key=lambda item: item.group.root.tokens, seed=config.seed)
            held += apart
        sets.append(Weighted(items=items, weight=part.weight))
    if config.eval_data is not None and share is None:
        for part in read_rows(config.eval_data, ("ranked",), run.console):
            held += ranked_items(part, codec, limit, config.overlong, run)
    return sets, held


def ranked_items(part: Rows, codec: Codec, limit: int, overlong: Overlong, run: setup.Telling) -> list[RankedItem]:
    """The rankings of one source as tokens; says what was too long."""
    records = part.of(RankedRecord)
    broken = codec.losses.breaks
    items, losses = ranked_within(records, codec.rankings(records), limit, overlong)
    losses["answers whose tokens decode to another text"] = codec.losses.breaks - broken
    setup.say_losses(run, part.name, len(items), losses)
    return items


def new_scalar(policy: Policy, seed: int) -> ScalarModel:
    """A scalar model on a policy's trunk and stack, its head drawn from the seed."""
    width = int(policy.model.config.get_text_config().hidden_size)
    head = scalar_head(width, generator=torch.Generator().manual_seed(seed)).to(policy.device)
    return ScalarModel(policy.trunk.model, head, stack=policy.stack, packing=policy.trunk.packing)


def _card(
    config: RewardConfig,
    groups: Sequence[PrefixGroup],
    reader: ScoreReader,
    codec: Codec,
    limit: int,
    console: Console,
) -> RewardCard:
    """Shift and scale that give the centring answers mean 0 and standard deviation 1."""
    if config.center is not None:
        rows = read_rows(config.center, ("chat",), console)
        chats = [record for part in rows for record in part.of(ChatRecord)]
        groups = [_demonstration(record, codec) for record in chats]
        groups = [group for group in groups if len(group) <= limit]
    scores = score_groups(reader, groups, config.micro_batch_tokens)
    shift, deviation = float(scores.mean()), float(scores.std())
    scale = deviation if deviation > 0 else 1.0
    source = config.center or "the training answers"
    console.say(f"scores: shift {shift:.3f}, scale {scale:.3f}, for mean 0 and deviation 1 on {source}")
    return RewardCard(shift=shift, scale=scale, score_at=config.score_at)


def _demonstration(record: ChatRecord, codec: Codec) -> PrefixGroup:
    asked = PromptRecord(id=record.id, messages=record.messages[:-1])
    answer = codec.answer(asked, record.messages[-1].content)
    return answer_group(record.id, codec.prompt(asked).tokens, [answer])


def _results(
    sets: Sequence[Weighted[RankedItem]],
    held: Sequence[RankedItem],
    reader: ScoreReader,
    budget: int,
    console: Console,
) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, items in (("training", [item for part in sets for item in part.items]), ("held_out", held)):
        if items:
            accuracy = accuracy_of(items, reader, budget)
            console.say(f"{name.replace('_', '-')} accuracy {accuracy}")
            found[f"{name}_accuracy"] = accuracy.facts()
    return found


def accuracy_of(items: Sequence[RankedItem], reader: ScoreReader, budget: int) -> Share:
    """The accuracy of raw scores over the strict pairs of rankings."""
    scores = score_groups(reader, [item.group for item in items], budget)
    return ranking_accuracy([item.ranks for item in items], scores.split([len(item.ranks) for item in items]))


def pad_id(codec: Codec) -> int:
    """A token that no answer ends with, for a saved classifier to pad with and to pool before.

    The tokenizer's own padding where that differs from every end; else the last ordinary token of the vocabulary.
    """
    tokenizer = codec.tokenizer
    own = (tokenizer.pad_token_id, tokenizer.unk_token_id, codec.bos)
    last = range(codec.vocab_size - 1, -1, -1)
    return next(token for token in (*own, *last) if isinstance(token, int) and token not in codec.stop_ids)
