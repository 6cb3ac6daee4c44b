"""Answers to rank, from files to items of the store: none twice, and the same items whichever file brings them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from posttrain.data.feedback_db import Answer, Item
from posttrain.data.split import hash_of
from posttrain.feedback.assigning import chosen
from posttrain.records import Message, RankedRecord, Record


@dataclass(slots=True, kw_only=True)
class Pool:
    """Items made of records, and what of them is left out.

    `repeated`: answers whose text another answer to the same prompt has; of which the first is kept. `alone`: prompts
    that have one answer left.
    """

    items: list[Item] = field(default_factory=list[Item])
    repeated: int = 0
    alone: int = 0


def pool_of(records: Iterable[Record], *, seed: int, audit: float) -> Pool:
    """The items of records that a pool was read as. A share `audit` of the prompts is never trained on.

    Which ones depends on the prompt and the seed: every item of a prompt is, or none.
    """
    pool = Pool()
    for record in records:
        assert isinstance(record, RankedRecord)
        answers = _distinct(record)
        pool.repeated += len(record.responses) - len(answers)
        if len(answers) < 2:
            pool.alone += 1
            continue
        pool.items.append(item_of(record.prompt, answers, seed=seed, audit=audit))
    return pool


def item_of(prompt: Sequence[Message], answers: Sequence[Answer], *, seed: int, audit: float = 0.0) -> Item:
    """A prompt and its answers as an item, named by what they say."""
    name = item_id(prompt, answers)
    return Item(
        id=name,
        prompt=prompt,
        responses=answers,
        seed=hash_of((seed, name)) >> 1,  # SQLite has no unsigned numbers
        audit=is_audit(prompt, seed=seed, audit=audit),
    )


def is_audit(prompt: Sequence[Message], *, seed: int, audit: float) -> bool:
    """Whether a prompt is of the share that is never trained on."""
    return chosen(audit, seed, "audit", json.dumps([[message.role, message.content] for message in prompt]))


def item_id(prompt: Sequence[Message], answers: Sequence[Answer]) -> str:
    """20 digits that stand for a prompt and its answers, the same wherever they come from."""
    said = [[[message.role, message.content] for message in prompt], [answer.text for answer in answers]]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:20]


def _distinct(record: RankedRecord) -> list[Answer]:
    """The answers, each text once: two of one text cannot stand in two places of a ranking."""
    return list(_each_once(record))


def _each_once(record: RankedRecord) -> Iterator[Answer]:
    seen: set[str] = set()
    for place, text in enumerate(record.responses):
        if text not in seen:
            seen.add(text)
            yield Answer(text=text, stopped=None if record.stopped is None else record.stopped[place])
