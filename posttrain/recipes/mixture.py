"""What a run over data trains on and what it holds out: every source as tokens, split by prompt, nothing in both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from posttrain.config import ClassifyConfig, DPOConfig, RewardConfig, SFTConfig
from posttrain.config.automatic import held_out_share
from posttrain.console import Console
from posttrain.counted import counted
from posttrain.data.cache import Cache
from posttrain.data.source import Weighted, examples_per_epoch
from posttrain.data.split import held_out
from posttrain.data.store import Store
from posttrain.data.tokenise import Encoder, Tokens, tokens_of
from posttrain.data.views import Chosen, Joined
from posttrain.errors import DataError, Problem
from posttrain.recipes.opening import Door
from posttrain.recipes.rows import Source, announced

ItemT = TypeVar("ItemT")
Config: TypeAlias = SFTConfig | ClassifyConfig | RewardConfig | DPOConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture(Generic[ItemT]):
    """The sets to train on, the rows held out, and the stores that the sets are parts of."""

    sets: list[Weighted[ItemT]]
    held: Sequence[ItemT]
    stores: list[Store[ItemT]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part(Generic[ItemT]):
    """A source as tokens. `apart`: bool [N], True for the rows that are not trained on.

    They are held out, or `leaks`: they ask a prompt of the evaluation data.
    """

    source: Source
    tokens: Tokens[ItemT]
    apart: NDArray[np.bool_]
    leaks: bool

    @property
    def items(self) -> Store[ItemT]:
        return self.tokens.items

    @property
    def counts(self) -> dict[str, int]:
        apart = int(self.apart.sum())
        why = "ask a prompt of eval_data" if self.leaks else "held out"
        return {"kept": len(self.items) - apart, why: apart, **self.tokens.report.losses}

    @property
    def kept(self) -> str:
        kept, *lost = self.counts.items()
        return _kept(self.source.name, kept[1], dict(lost))

    def chosen(self, mask: NDArray[np.bool_]) -> Sequence[ItemT]:
        return self.items if mask.all() else Chosen(self.items, mask.nonzero()[0])


def mixture(config: Config, door: Door, encoder: Encoder[ItemT]) -> Mixture[ItemT]:
    """The rows of `data` and `eval_data` as tokens; says what was kept, lost and held out.

    A share of the data is held out by prompt. Where `eval_data` is a file, rows that ask one of its prompts are left
    out of training. Raises DataError when nothing is left to train on, or to find the best weights with.
    """
    cache = Cache.open(door.console.say)
    found = [_read(source, door, encoder, cache) for source in door.data]
    apart = [_read(source, door, encoder, cache) for source in door.held]
    parts = _parts(found, apart, config)
    _say(parts, apart, door)
    sets = [Weighted(items=part.chosen(~part.apart), weight=part.source.weight) for part in parts]
    _refuse_nothing(sets, parts, door.limit)
    held: Sequence[ItemT] = Joined(
        [tokens.items for _, tokens in apart] if apart else [part.chosen(part.apart) for part in parts]
    )
    if config.best not in (None, "auto") and not held:
        what = f"eval_data {config.eval_data}: no prompt falls into it, and best {config.best} is measured on it"
        raise DataError(f"{what}\n  fix: hold out more, give a file, or take best out")
    if config.eval_data is not None and not held:
        door.console.say(f"eval_data {config.eval_data}: no prompt falls into it, so nothing is held out")
    return Mixture(sets=sets, held=held, stores=[part.items for part in parts])


def sets_of(sources: Sequence[Source], door: Door, encoder: Encoder[ItemT]) -> list[Weighted[ItemT]]:
    """The rows of sources that are trained on beside the data, all of them, announced and counted in the same way."""
    cache = Cache.open(door.console.say)
    parts: list[_Part[ItemT]] = []
    for source in sources:
        tokens = _read(source, door, encoder, cache)[1]
        parts.append(_Part(source=source, tokens=tokens, apart=np.zeros(len(tokens.items), np.bool_), leaks=False))
    _say(parts, [], door)
    sets: list[Weighted[ItemT]] = [Weighted(items=part.items, weight=part.source.weight) for part in parts]
    _refuse_nothing(sets, parts, door.limit)
    return sets


def _read(source: Source, door: Door, encoder: Encoder[ItemT], cache: Cache) -> tuple[Source, Tokens[ItemT]]:
    """The source as tokens, announced; the door keeps what was wrong with its rows."""
    tokens = tokens_of(source.reading, encoder, cache, door.console.say, source.settings)
    report = tokens.report
    line = announced(source.name, report.rows, report.format, report.bad, report.duplicates)
    door.console.say(line + ("; tokens from cache" if tokens.cached else ""))
    if label := source.reading.unread_label:
        what = f"'{label}' is not read here, and bad answers are imitated like good ones"
        door.console.say(f"{source.name}: {what}; dpo --loss kto learns from it")
    door.problems.extend(report.problems)
    return source, tokens


def _parts(
    found: Sequence[tuple[Source, Tokens[ItemT]]], apart: Sequence[tuple[Source, Tokens[ItemT]]], config: Config
) -> list[_Part[ItemT]]:
    """What of each source is trained on: all but the prompts held out, or but those of the evaluation data."""
    asked = [tokens.items.prompts for _, tokens in apart]
    held = held_out_share(config.eval_data) or 0.0
    parts: list[_Part[ItemT]] = []
    for source, tokens in found:
        prompts = tokens.items.prompts
        mask = np.isin(prompts, np.concatenate(asked)) if asked else held_out(prompts, held, config.seed)
        parts.append(_Part(source=source, tokens=tokens, apart=mask, leaks=bool(asked)))
    return parts


def _say(parts: Sequence[_Part[ItemT]], apart: Sequence[tuple[Source, Tokens[ItemT]]], door: Door) -> None:
    """Says of every source how many rows are kept and why the others are not; the door keeps the numbers."""
    for part in parts:
        door.console.say(part.kept)
        door.counts[part.source.name] = part.counts
    for source, tokens in apart:
        door.console.say(_kept(source.name, len(tokens.items), tokens.report.losses))
        door.counts[source.name] = {"kept": len(tokens.items), **tokens.report.losses}
    _say_leaks(parts, apart, door.console)
    _say_shared(parts, door.console)


def _kept(name: str, kept: int, losses: Mapping[str, int]) -> str:
    lost = ", ".join(f"{count:,} {_one(loss) if count == 1 else loss}" for loss, count in losses.items() if count)
    return f"{name}: {kept:,} kept" + (f"; {lost}" if lost else "")


def _one(loss: str) -> str:
    """The name of a loss for one of them: `answer whose tokens decode to another text`."""
    return re.sub(r"\b(answer|ranking|turn)s\b", r"\1", loss, count=1)


def _say_shared(parts: Sequence[_Part[ItemT]], console: Console) -> None:
    """Says which rows stand in two sources: they are trained on by the weights of both."""
    for number, part in enumerate(parts):
        for other in parts[:number]:
            same = np.isin(part.items.contents, other.items.contents)
            if same.any():
                what = f"{counted(int(same.sum()), 'row', 'stand')} in {other.source.name} too"
                console.say(f"{part.source.name}: {what} ({_places(part.items, same)}); both stay")


def _say_leaks(parts: Sequence[_Part[ItemT]], apart: Sequence[tuple[Source, Tokens[ItemT]]], console: Console) -> None:
    """Says where the rows stand whose prompt the evaluation data ask too: what is measured must not be trained on."""
    name = ", ".join(source.name for source, _ in apart)
    for part in parts:
        if part.leaks and part.apart.any():
            rows = counted(int(part.apart.sum()), "row", "ask")
            prompts = counted(len(np.unique(part.items.prompts[part.apart])), "prompt")
            places = _places(part.items, part.apart)
            console.say(f"{part.source.name}: {rows} {prompts} that {name} asks too ({places}); left out of training")


def _places(items: Store[ItemT], mask: NDArray[np.bool_]) -> str:
    places = mask.nonzero()[0]
    shown = ", ".join(items.id_of(int(place)) for place in places[:2])
    return shown + (", …" if len(places) > 2 else "")


def _refuse_nothing(sets: Sequence[Weighted[ItemT]], parts: Sequence[_Part[ItemT]], limit: int) -> None:
    """Raises DataError, with the numbers of every source, when an epoch would be empty."""
    if examples_per_epoch(sets):
        return
    shortest = [part.tokens.report.shortest for part in parts if part.tokens.report.shortest is not None]
    lines = [part.kept for part in parts]
    fix = "give more rows, or a larger weight"
    if shortest:
        lines.append(
            f"the shortest row that is too long has {counted(min(shortest), 'token')}, and max_length is {limit:,}"
        )
        fix = "raise max_length, or set overlong to truncate"
    if any(part.leaks and part.apart.any() for part in parts):
        fix = "give eval_data other rows, or a share such as 2%"
    what = "\n  ".join(["no row is left to train on", *lines])
    raise DataError([Problem(place="", what=what, fix=fix)])
