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
from posttrain.errors import DataError
from posttrain.loop import fit, measure
from posttrain.measures import Share, ranking_accuracy
from posttrain.models.heads import Policy, ScalarModel, scalar_head
from posttrain.models.load import save_scalar
from posttrain.models.parity import gate_scalar
from posttrain.objectives import ScoreReader
from posttrain.recipes import setup
from posttrain.recipes.opening import Opened, training
from posttrain.recipes.rows import Rows
from posttrain.recipes.scoring import RewardCard, answer_group, score_groups
from posttrain.run import Run
from posttrain.text.chat import Codec
from posttrain.types import ChatRecord, PrefixGroup, PromptRecord, RankedRecord


def reward(config: RewardConfig, *, console: Console, fresh: bool = False) -> Run:
    """Trains a reward model on ranked answers and writes its run folder."""
    return training(
        config,
        config.data,
        ("ranked",),
        lambda opened: _train(config, opened),
        console=console,
        fresh=fresh,
        reads=[config.eval_data, config.center],
        held_out=config.eval_data,
        aside=config.center,
    )


def _train(config: RewardConfig, opened: Opened) -> Run:
    codec, run = opened.codec, opened.run
    console = run.console
    pad = pad_id(codec)
    sets, held = ranked_sets(config, opened, run)
    centre = _centre(config, opened, sets)
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
    with where.autocast():
        card = _card(config, centre, reader, console)
    folder = Path(config.out)
    save_scalar(scalar, folder, base=start.loaded.base, pad_id=pad)
    codec.save(folder, pad=pad)
    card.write(folder)
    with where.autocast():
        results = _results(sets, held, reader, config.micro_batch_tokens, console)
    console.finish(f"saved {config.out}")
    return run.writer.finish(**results)


def ranked_sets(
    config: RewardConfig | DPOConfig, opened: Opened, run: setup.Telling
) -> tuple[list[Weighted[RankedItem]], list[RankedItem]]:
    """The rankings to train on, and those held out by prompt."""
    share = held_out_share(config.eval_data)
    sets: list[Weighted[RankedItem]] = []
    held: list[RankedItem] = []
    for part in opened.rows:
        items = ranked_items(part, opened.codec, opened.limit, config.overlong, run)
        if share is not None:
            items, apart = split(items, share, key=lambda item: item.group.root.tokens, seed=config.seed)
            held += apart
        sets.append(Weighted(items=items, weight=part.weight))
    if share is not None and not held:
        run.console.say(f"eval_data {config.eval_data}: no prompt falls into it, so nothing is held out")
    for part in opened.held_out:
        held += ranked_items(part, opened.codec, opened.limit, config.overlong, run)
    if config.loss != "pairwise" and any(item.margin for found in sets for item in found.items):
        run.console.say(f"margins: not used by loss {config.loss}")
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


def _centre(config: RewardConfig, opened: Opened, sets: Sequence[Weighted[RankedItem]]) -> list[PrefixGroup]:
    """The answers whose scores get mean 0: demonstrations, or the training answers.

    Raises DataError, before anything is trained, when fewer than two are left.
    """
    groups = [item.group for part in sets for item in part.items]
    if config.center is not None:
        chats = [record for part in opened.aside for record in part.of(ChatRecord)]
        demonstrations = [_demonstration(record, opened.codec) for record in chats]
        groups = [group for group in demonstrations if len(group) <= opened.limit]
        opened.run.console.say(f"{config.center}: {len(groups):,} kept; {len(demonstrations) - len(groups)} overlong")
    if sum(len(group.branches) for group in groups) < 2:
        raise DataError(f"{config.center or 'the data'}: fewer than two answers are left to centre the scores on")
    return groups


def _card(config: RewardConfig, groups: Sequence[PrefixGroup], reader: ScoreReader, console: Console) -> RewardCard:
    """Shift and scale that give the centring answers mean 0 and standard deviation 1."""
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
