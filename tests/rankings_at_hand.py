"""Ranking stores for tests: items with answers named by letters, and people who rank them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

from posttrain.data import feedback_db
from posttrain.data.feedback_db import Answer, Item
from posttrain.feedback import actions
from posttrain.feedback.asked import Asked
from posttrain.feedback.assigning import Rules
from posttrain.feedback.ledger import Ledger
from posttrain.records import Message

EVERYTHING_ONCE = Rules(overlap=0.0, repeat=0.0)
_KEYS = count()


def item(name: str, *texts: str, audit: bool = False, prompt: str = "") -> Item:
    """An item whose prompt is its name unless one is given."""
    answers = [Answer(text=text, stopped=True, model="sft") for text in texts or ("one", "two")]
    asked = (Message(role="user", content=prompt or f"Say {name}."),)
    return Item(id=name, prompt=asked, responses=answers, audit=audit)


def store(path: Path, *items: Item) -> Path:
    """A store with these items."""
    with closing(feedback_db.create(path)) as connection:
        feedback_db.add_items(connection, items)
    return path


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class People:
    """Whoever acts on a store, each action a transaction of its own."""

    def __init__(self, path: Path, rules: Rules = EVERYTHING_ONCE, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.connection = feedback_db.connect(path)
        self.ledger = Ledger(self.connection, rules, clock=self.clock)

    def close(self) -> None:
        self.connection.close()

    def next(self, who: str) -> str | None:
        """The id of the next item of a person."""
        told = self.shown(who)
        return None if told["item"] is None else told["item"]["id"]

    def shown(self, who: str) -> dict[str, Any]:
        with self.ledger.transaction():
            return actions.next_item(self.ledger, who)

    def say(self, who: str, name: str, kind: Any, *, key: str = "", **parts: Any) -> tuple[dict[str, Any], bool]:
        asked = Asked(item=name, kind=kind, key=key or f"key-{next(_KEYS)}", **parts)
        with self.ledger.transaction(), self.ledger.part():
            return actions.say(self.ledger, who, asked)

    def rank(self, who: str, name: str, ranks: Sequence[int | None], **parts: Any) -> int:
        """Ranks the answers of an item that is before a person, in the order of the store."""
        return self.say(who, name, "rank", tiers=self.tiers(who, name, ranks), **parts)[0]["event"]

    def tiers(self, who: str, name: str, ranks: Sequence[int | None]) -> tuple[tuple[str, ...], ...]:
        with self.ledger.transaction():
            shown = actions.own_item(self.ledger, who, name)["item"]
            _, answers = self.ledger.texts(name)
        assert isinstance(shown, dict)
        return tiers_of_ranks(shown, [str(answer["text"]) for answer in answers], ranks)

    def take_back(self, who: str, key: str = "", *, undoes: int | str | None = None) -> dict[str, Any]:
        """Takes back the newest event of a person, or the one that they name."""
        with self.ledger.transaction(), self.ledger.part():
            named = undoes or actions.progress(self.ledger, who)["last"]
            assert named is None or isinstance(named, int | str)
            return actions.take_back(self.ledger, who, key or f"key-{next(_KEYS)}", named)


def tiers_of_ranks(
    shown: Mapping[str, Any], texts: Sequence[str], ranks: Sequence[int | None]
) -> tuple[tuple[str, ...], ...]:
    """The keys of an item's answers in tiers, from ranks in the order of the texts."""
    key_of = {answer["text"]: answer["key"] for answer in shown["answers"]}
    given = sorted({rank for rank in ranks if rank is not None})
    return tuple(tuple(key_of[text] for text, rank in zip(texts, ranks, strict=True) if rank == tier) for tier in given)
