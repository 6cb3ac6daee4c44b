"""A reward model from rankings: all pairs of a prompt together, scores centred, accuracy with its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from posttrain import objectives
from posttrain.config import DPOConfig, RewardConfig
from posttrain.config.automatic import steps_between
from posttrain.console import Console
from posttrain.data.examples import RankedItem
from posttrain.data.rankings import ranked_batches, reward_step
from posttrain.data.source import EpochSource, Weighted
from posttrain.data.tokenise import rankings
from posttrain.data.views import Changed, Joined
from posttrain.engine.local import ParameterGroup
from posttrain.errors import DataError
from posttrain.loop import every, measure
from posttrain.measures.reward_card import RewardFindings, findings_of
from posttrain.measures.rewards import Scores
from posttrain.models.heads import Policy, ScalarModel, scalar_head
from posttrain.models.load import REWARD_CARD, save_scalar
from posttrain.models.parity import gate_scalar
from posttrain.objectives import ScoreReader
from posttrain.recipes import fitting, setup
from posttrain.recipes.annotators import weighed
from posttrain.recipes.inspected_scores import InspectedScores
from posttrain.recipes.inspecting import Inspecting, spaced
from posttrain.recipes.keeping import best_of_rows
from posttrain.recipes.load import budget_of, load_of
from posttrain.recipes.mixture import Mixture, mixture
from posttrain.recipes.opening import Door, Opened, Reads, training
from posttrain.recipes.rows import in_memory
from posttrain.recipes.scoring import RewardCard, answer_group, score_groups
from posttrain.recipes.setup import Telling
from posttrain.run import Run
from posttrain.text.chat import Codec
from posttrain.types import ChatRecord, PrefixGroup, PromptRecord


def reward(config: RewardConfig, *, console: Console, fresh: bool = False, dry_run: bool = False) -> Run:
    """Trains a reward model on ranked answers and writes its run folder."""
    return training(
        config,
        Reads(data=config.data, kinds=("ranked",), held_out=config.eval_data, aside=config.center),
        lambda door: _read(config, door),
        lambda opened: _train(config, opened),
        console=console,
        fresh=fresh,
        dry_run=dry_run,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    """Rankings, and the answers whose scores get mean 0."""

    mixture: Mixture[RankedItem]
    centre: Sequence[PrefixGroup]


def _read(config: RewardConfig, door: Door) -> _Data:
    found = weighed(read_rankings(config, door), config.annotators, door.console)
    return _Data(mixture=found, centre=_centre(config, door, found))


def read_rankings(config: RewardConfig | DPOConfig, door: Door) -> Mixture[RankedItem]:
    """The rankings to train on, and those held out by prompt."""
    found = mixture(config, door, rankings(door.codec, door.limit, config.overlong))
    if config.loss != "pairwise" and any(store.column("margin", np.float64).any() for store in found.stores):
        door.console.say(f"margins: not used by loss {config.loss}")
    return found


def _train(config: RewardConfig, opened: Opened[_Data]) -> Run:
    codec, run = opened.codec, opened.run
    sets, held = opened.data.mixture.sets, opened.data.mixture.held
    console = run.console
    pad = pad_id(codec)
    where = setup.machine(config, console)
    start = setup.load_start(config.model, codec, where, console, packing=config.packing, trained=config.lora is None)
    rate = setup.learning_rate(config, start.loaded.model, console)
    policy, parameters = setup.role(start, "reward", config.lora, packing=start.policy.trunk.packing, seed=config.seed)
    scalar = new_scalar(policy, config.seed)
    trunk = {id(part) for part in scalar.model.parameters()}
    # A language head that is not tied to the embedding has no part in a score.
    trained = [*(part for part in parameters if id(part) in trunk), *scalar.score.parameters()]
    gate_scalar(scalar, start.loaded.own_attention, packing=policy.trunk.packing)
    budget = budget_of(config.micro_batch_tokens, where, setup.config_of(config.model), vocabulary=False)
    step = partial(reward_step, ties=config.ties)
    source = EpochSource(
        sets, lambda items: step(items, budget.tokens), batch_size=config.batch_size, epochs=config.epochs,
        steps=config.steps, seed=config.seed,
    )  # fmt: skip
    engine = setup.engine(
        config, [ParameterGroup(name="reward", parameters=trained, learning_rate=rate)], source.steps, where
    )
    reader = ScoreReader(model=scalar, mean=config.score_at == "mean")
    objective = objectives.reward(reader, loss=config.loss)
    shown = held or Joined([part.items for part in sets])
    inspect = InspectedScores(shown, reader, config.loss, Inspecting(run, codec, config.command), engine)

    def evaluate() -> dict[str, float]:
        batches = ranked_batches(held, budget.tokens, ties=config.ties, pair_weight="prompt")
        return measure(batches, objective, engine)

    def save(folder: Path) -> None:
        with where.autocast():
            card = _card(config, opened.data.centre, reader, budget.tokens)
        of = "" if folder == Path(config.out) else f" of run/{folder.stem}"
        on = config.center or "the training answers"
        console.say(f"scores{of}: shift {card.shift:.3f}, scale {card.scale:.3f}, for mean 0 and deviation 1 on {on}")
        save_scalar(scalar, folder, base=start.loaded.base, pad_id=pad)
        codec.save(folder, pad=pad)
        card.write(folder)

    interval = steps_between(config.eval_every, source.steps)
    evaluated = interval if held else None
    hooks = [
        *setup.evaluating(evaluated, source.steps, evaluate),
        *every(spaced(interval, source.steps, config.batch_size), inspect, last=source.steps),
    ]
    load = load_of(budget, sets, source, config.batch_size, step)
    best = best_of_rows(config.best, trained, source, console, interval=evaluated)
    parts = fitting.Parts(
        source=source, objective=objective, engine=engine, models={"reward": scalar}, load=load, save=save, best=best,
        inspect=inspect,
    )  # fmt: skip
    kept = fitting.train(config, run, parts, where, hooks)
    parts.save(Path(config.out))
    inspect.keep(source.steps, RewardCard.of(Path(config.out) / REWARD_CARD))
    with where.autocast():
        results = _results(sets, held, partial(card_of, reader=reader, budget=budget.tokens, codec=codec), run)
    return fitting.ended(config, run, parts, {**results, **kept})


def new_scalar(policy: Policy, seed: int, *, outputs: int = 1) -> ScalarModel:
    """A scalar model on a policy's trunk and stack, its head of so many outputs drawn from the seed."""
    width = int(policy.model.config.get_text_config().hidden_size)
    head = scalar_head(width, outputs=outputs, generator=torch.Generator().manual_seed(seed)).to(policy.device)
    return ScalarModel(policy.trunk.model, head, stack=policy.stack, packing=policy.trunk.packing)


def _centre(config: RewardConfig, door: Door, found: Mixture[RankedItem]) -> Sequence[PrefixGroup]:
    """The answers whose scores get mean 0: demonstrations, or the training answers.

    Raises DataError when fewer than two demonstrations are left.
    """
    if config.center is None:
        return Changed(Joined([part.items for part in found.sets]), _group_of)
    groups: list[PrefixGroup] = []
    overlong = 0
    for part in in_memory(door.aside, door.console):
        door.problems.extend(part.problems)
        for record in part.of(ChatRecord):
            group = _demonstration(record, door.codec)
            overlong += len(group) > door.limit
            groups += [group] if len(group) <= door.limit else []
    door.console.say(f"{config.center}: {len(groups):,} kept; {overlong} overlong")
    if len(groups) < 2:
        raise DataError(f"{config.center}: fewer than two answers are left to centre the scores on")
    return groups


def _group_of(place: int, item: RankedItem) -> PrefixGroup:
    return item.group


def _card(config: RewardConfig, groups: Sequence[PrefixGroup], reader: ScoreReader, budget: int) -> RewardCard:
    """Shift and scale that give the centring answers mean 0 and standard deviation 1, by the weights as they stand."""
    scores = score_groups(reader, groups, budget)
    shift, deviation = float(scores.mean()), float(scores.std())
    scale = deviation if deviation > 0 else 1.0
    return RewardCard(shift=shift, scale=scale, score_at=config.score_at)


def _demonstration(record: ChatRecord, codec: Codec) -> PrefixGroup:
    asked = PromptRecord(id=record.id, messages=record.messages[:-1])
    answer = codec.answer(asked, record.messages[-1].content)
    return answer_group(record.id, codec.prompt(asked).tokens, [answer])


def _results(
    sets: Sequence[Weighted[RankedItem]],
    held: Sequence[RankedItem],
    card_on: Callable[[Sequence[RankedItem]], RewardFindings],
    run: Telling,
) -> dict[str, object]:
    """The accuracies for run.json; the whole cards go into run/reward_card.json, and one of them is shown."""
    found: dict[str, object] = {}
    cards: dict[str, RewardFindings] = {}
    for name, items in (("training", Joined([part.items for part in sets])), ("held_out", held)):
        if items:
            cards[name] = card = card_on(items)
            run.console.say(f"{name.replace('_', '-')} accuracy {card.accuracy.share}")
            found[f"{name}_accuracy"] = card.accuracy.share.facts()
    run.writer.keep("reward_card", {name: card.facts() for name, card in cards.items()})
    name = "held_out" if "held_out" in cards else "training"
    run.console.table(cards[name].table(), f"reward card, {name.replace('_', '-')} rankings")
    return found


def card_of(items: Sequence[RankedItem], reader: ScoreReader, budget: int, codec: Codec) -> RewardFindings:
    """What raw scores say of rankings; the codec reads the texts of the largest disagreements."""
    scores = score_groups(reader, (item.group for item in items), budget).split([len(item.ranks) for item in items])
    rankings = [Scores(item=item, scores=part) for item, part in zip(items, scores, strict=True)]
    return findings_of(rankings, lambda tokens: codec.decode(tokens).strip())


def pad_id(codec: Codec) -> int:
    """A token that no answer ends with, for a saved classifier to pad with and to pool before.

    The tokenizer's own padding where that differs from every end; else the last ordinary token of the vocabulary.
    """
    tokenizer = codec.tokenizer
    own = (tokenizer.pad_token_id, tokenizer.unk_token_id, codec.bos)
    last = range(codec.vocab_size - 1, -1, -1)
    return next(token for token in (*own, *last) if isinstance(token, int) and token not in codec.stop_ids)
