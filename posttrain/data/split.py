"""Which rows ask the same, and which of them are held out: all rows of a prompt stand on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from posttrain.records import (
    ChatRecord,
    LabelledRecord,
    Message,
    PromptRecord,
    RankedRecord,
    Record,
    TargetRecord,
    TextRecord,
)

Item = TypeVar("Item")


def prompt_key(record: Record) -> int:
    """64 bits for what a record asks: the same for the same words, whatever their case and the spaces between.

    That is everything before the last message of a conversation, and the whole of a text.
    """
    match record:
        case ChatRecord():
            said = _contents(record.messages[:-1])
        case RankedRecord() | LabelledRecord():
            said = _contents(record.prompt)
        case TextRecord():
            said = record.text
        case TargetRecord():
            return prompt_key(record.asked)
        case PromptRecord():
            said = record.text or _contents(record.messages or ())
    return hash_of(" ".join(said.casefold().split()))


def _contents(messages: Iterable[Message]) -> str:
    return "\n".join(message.content for message in messages)


def hash_of(key: object) -> int:
    """64 bits that stand for a key, the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode("utf-8", "surrogatepass"), digest_size=8).digest())


def held_out(prompts: NDArray[np.uint64], share: float, seed: int) -> NDArray[np.bool_]:
    """True for the rows to hold out, bool [N]: `share` of the distinct prompts, given as hashes.

    Which ones depends on the prompt and the seed alone: all rows of a prompt stand on one side, in every file, and
    more data leaves the old split as it was. Hashes are mixed with the seed by splitmix64 (Steele et al. 2014).
    """
    mixed = prompts + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53 < share


def split(
    items: Sequence[Item], share: float, *, key: Callable[[Item], object], seed: int
) -> tuple[list[Item], list[Item]]:
    """Training and held-out items; `share` of the distinct keys (prompts) is held out, all items of a key together.

    Which ones depends on the key and the seed alone, so that more data leaves the old split as it was.
    """
    mask = held_out(np.array([hash_of(key(item)) for item in items], np.uint64), share, seed)
    train = [item for item, held in zip(items, mask, strict=True) if not held]
    return train, [item for item, held in zip(items, mask, strict=True) if held]
