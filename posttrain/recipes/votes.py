"""Votes between two answers, kept in the ranking store: an item with both answers, and how a person ranked them."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path

from posttrain.data import feedback_db
from posttrain.data.feedback_db import STANDS, Answer, Event, Item
from posttrain.data.split import hash_of
from posttrain.records import JSON
from posttrain.run import check_file_out
from posttrain.types import Completion, Message

# The ranking of a person and item that stands.
_STANDING = f"SELECT 1 FROM events WHERE item = ? AND annotator = ? AND kind = 'rank' AND {STANDS}"
TIES, SKIPPED = "ties", "skipped"


class Votes:
    """The votes of one person. `told` counts those of this conversation, by model.

    A vote on the same answers to the same conversation is a ranking of the same item: of one person the newest counts,
    and where an earlier one stands it is kept as a repeat, which tells how far they agree with themselves.
    """

    def __init__(self, path: Path, annotator: str, seed: int) -> None:
        self._path = path
        self._annotator = annotator
        self._seed = seed
        self._counts: Counter[str] = Counter()
        self._names: dict[int, str] = {}

    @staticmethod
    def checked(path: Path, annotator: str, seed: int) -> Votes:
        """The votes in a store, which is made at the first one where there is none. `seed` is kept with them.

        Raises DataError for a file that is no ranking store, RunExists and FolderError where none can be made.
        """
        if path.is_file():
            feedback_db.connect(path).close()
        else:
            check_file_out(str(path), ())
        return Votes(path, annotator, seed)

    @property
    def told(self) -> dict[str, int]:
        """How often each model was voted better, and the ties and skipped ones; none that is 0."""
        return {name: count for name, count in sorted(self._counts.items()) if count}

    def add(
        self, prompt: Sequence[Message], shown: Sequence[tuple[str, Completion]], better: int | None, *, skipped: bool
    ) -> tuple[str, int]:
        """The item and the event of a vote once it is on disk; `better` is the place of the better answer, None a tie.

        `shown`: models with their answers, in the order in which they were shown.
        """
        rows = sorted(range(len(shown)), key=lambda place: (shown[place][0], shown[place][1].text))
        item = _item(prompt, [shown[place] for place in rows])
        told: dict[str, JSON] = {"order": [rows.index(place) for place in range(len(shown))], "seed": self._seed}
        if not skipped:
            told["ranks"] = [1 if better in (None, place) else 2 for place in rows]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        opened = feedback_db.connect if self._path.is_file() else feedback_db.create
        with closing(opened(self._path)) as connection:
            feedback_db.add_items(connection, [item])
            if not skipped and connection.execute(_STANDING, (item.id, self._annotator)).fetchone():
                told["repeat"] = True
            kind = "skip" if skipped else "rank"
            event = Event(item=item.id, annotator=self._annotator, kind=kind, payload=told)
            number = feedback_db.append(connection, event)
        name = SKIPPED if skipped else TIES if better is None else shown[better][0]
        self._counts[name] += 1
        self._names[number] = name
        return item.id, number

    def undo(self, item: str, number: int) -> None:
        """Takes a vote back; that it was there stays in the store."""
        event = Event(item=item, annotator=self._annotator, kind="undo", payload={"event": number})
        with closing(feedback_db.connect(self._path)) as connection:
            feedback_db.append(connection, event)
        self._counts[self._names.pop(number)] -= 1


def shown_order(seed: int, number: int) -> tuple[int, int]:
    """Which of two models is shown first in exchange `number`: a coin that falls the same way for the same seed."""
    return (0, 1) if random.Random(f"shown {seed} {number}").random() < 0.5 else (1, 0)


def _item(prompt: Sequence[Message], told: Sequence[tuple[str, Completion]]) -> Item:
    """The answers as an item; the same answers to the same conversation are the same item."""
    answers = [Answer(text=done.text, stopped=done.stopped, model=model) for model, done in told]
    said = [[message.role, message.content] for message in prompt]
    words = json.dumps([said, [[answer.text, answer.model] for answer in answers]])
    name = f"chat/{sha256(words.encode()).hexdigest()[:16]}"
    seed = hash_of(name) >> 1  # SQLite has no unsigned numbers
    return Item(id=name, prompt=tuple(prompt), responses=answers, seed=seed)
