"""What a run of PPO reads: the prompts that it trains on, those that it is evaluated on, and text to mix in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from posttrain.config import OnlineDPOConfig, PPOConfig
from posttrain.config.automatic import held_out_share
from posttrain.counted import counted
from posttrain.data.source import Weighted
from posttrain.data.split import held_out, prompt_key
from posttrain.data.tokenise import conversations
from posttrain.errors import DataError, Problem
from posttrain.recipes import setup
from posttrain.recipes.functions import Loaded, check_columns
from posttrain.recipes.mixture import sets_of
from posttrain.recipes.opening import Door, Reads
from posttrain.recipes.rows import Source, in_memory
from posttrain.types import PrefixGroup, Prompt, PromptRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Prompts to train on, `held` ones to evaluate with, and the `texts` of `ptx`."""

    prompts: list[Prompt]
    held: list[Prompt]
    texts: list[Weighted[PrefixGroup]]


def reads(config: PPOConfig) -> Reads:
    """The files of a run of PPO."""
    return Reads(
        data=config.prompts,
        kinds=("prompt",),
        held_out=config.eval_prompts,
        aside=None if config.ptx is None else config.ptx.data,
        aside_kinds=("chat", "text"),
    )


def read(config: PPOConfig, functions: Loaded, door: Door) -> Asked:
    """The prompts and texts as tokens.

    Raises DataError for prompts that leave no room for an answer, or lack a column that a reward asks for.
    """
    records, apart = _split(config, door, _records(door.data, door), _records(door.held, door))
    prompts = _tokens(config, functions, door, records)
    held = _tokens(config, functions, door, apart)
    encoder = conversations(door.codec, door.limit, "truncate", "assistant")
    texts = sets_of(door.aside, door, encoder) if config.ptx is not None else []
    return Asked(prompts=prompts, held=held, texts=texts)


def read_prompts(config: PPOConfig | OnlineDPOConfig, functions: Loaded, door: Door) -> list[Prompt]:
    """The prompts of `prompts` as tokens; raises as `read` does."""
    return _tokens(config, functions, door, _records(door.data, door))


def _tokens(
    config: PPOConfig | OnlineDPOConfig, functions: Loaded, door: Door, records: Sequence[PromptRecord]
) -> list[Prompt]:
    check_columns(functions, records)
    prompts = door.codec.prompts(records)
    setup.check_room(prompts, door.limit)
    setup.say_room(prompts, door.limit, config.max_new_tokens, door.console)
    return prompts


def _records(sources: Sequence[Source], door: Door) -> list[PromptRecord]:
    rows = in_memory(sources, door.console)
    door.problems.extend(problem for part in rows for problem in part.problems)
    return [record for part in rows for record in part.of(PromptRecord)]


def _split(
    config: PPOConfig, door: Door, records: list[PromptRecord], apart: list[PromptRecord]
) -> tuple[list[PromptRecord], list[PromptRecord]]:
    """What is trained on and what is held out: a share of the prompts, or all that a file of prompts asks."""
    if config.eval_prompts is None:
        return records, []
    keys = np.array([prompt_key(record) for record in records], np.uint64)
    share = held_out_share(config.eval_prompts)
    if share is None:
        mask = np.isin(keys, np.array([prompt_key(record) for record in apart], np.uint64))
        why = "stand in eval_prompts too, and are left out of training"
    else:
        mask = held_out(keys, share, config.seed)
        apart = [record for record, held in zip(records, mask, strict=True) if held]
        why = "held out"
    kept = [record for record, held in zip(records, mask, strict=True) if not held]
    door.console.say(f"prompts: {len(kept):,} to train on; {int(mask.sum()):,} {why}")
    _refuse_nothing(config, kept, apart)
    return kept, apart


def _refuse_nothing(config: PPOConfig, kept: Sequence[PromptRecord], apart: Sequence[PromptRecord]) -> None:
    """Raises DataError where nothing is left to train on or to evaluate with."""
    of = f"of {counted(len(kept) + len(apart), 'prompt')} eval_prompts {config.eval_prompts}"
    for found, what in ((kept, "leaves none to train on"), (apart, "holds none out")):
        if not found:
            fix = "another share, a file of other prompts, or null"
            raise DataError([Problem(place="--eval_prompts", what=f"{of} {what}", fix=fix)])
