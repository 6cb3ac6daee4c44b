"""Rankings from files into a store: the same items whichever file brings them, and no ranking twice."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from posttrain.counted import counted
from posttrain.data import feedback_db
from posttrain.data.feedback_db import STANDS, Answer, Event, Item
from posttrain.feedback.pool import item_of
from posttrain.records import RankedRecord, Record

# The same ranks of an item by the same person, unless they were taken back.
_KNOWN = f"""
SELECT 1 FROM events
WHERE item = ? AND annotator = ? AND kind = 'rank' AND json_extract(payload, '$.ranks') = json(?)
    AND {STANDS}
"""


@dataclass(slots=True, kw_only=True)
class Imported:
    """What came into a store. `known` rankings were there; `weighed` had a weight or margin, which no store keeps.

    `audit` are of prompts that check people. `items` are new; `annotators` are those of all rankings of the file.
    """

    items: int = 0
    rankings: int = 0
    known: int = 0
    weighed: int = 0
    audit: int = 0
    annotators: int = 0

    def facts(self) -> dict[str, int]:
        """The same as plain values, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """What a person is told."""
        new = f"{counted(self.rankings, 'ranking')} by {counted(self.annotators, 'annotator')}"
        said = [f"{new}, {counted(self.items, 'item')} new"]
        if self.known:
            said.append(f"{counted(self.known, 'ranking')} left as they were: the store has them already")
        if self.weighed:
            said.append(f"{counted(self.weighed, 'ranking')} had a weight or a margin, which a store does not keep")
        if self.audit:
            said.append(f"{counted(self.audit, 'ranking')} of audit prompts: they check people, nothing trains on them")
        return said


def import_rankings(
    connection: sqlite3.Connection, records: Iterable[Record], *, annotator: str, seed: int, audit: float = 0.0
) -> Imported:
    """Takes ranked records in, all or none of them; those that name nobody are by `annotator`.

    `seed` and `audit` are those of the store: the prompts that it sets apart are set apart here too.
    """
    found = Imported()
    names: set[str] = set()
    ready: list[tuple[Item, Event]] = []
    for record in records:
        assert isinstance(record, RankedRecord)
        item = item_of(record.prompt, _answers(record), seed=seed, audit=audit)
        name = record.annotator or annotator
        names.add(name)
        found.weighed += record.weight != 1.0 or record.margin is not None
        ready.append((item, Event(item=item.id, annotator=name, kind="rank", payload={"ranks": [*record.ranks]})))
    found.annotators = len(names)
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        found.items = feedback_db.put_items(connection, [item for item, _ in ready])
        for _, event in ready:
            ranks = json.dumps(event.payload["ranks"])
            if connection.execute(_KNOWN, (event.item, event.annotator, ranks)).fetchone():
                found.known += 1
                continue
            feedback_db.record(connection, event)
            found.rankings += 1
        found.audit = sum(_checks(connection, event.item) for _, event in ready)
    return found


def _checks(connection: sqlite3.Connection, item: str) -> bool:
    """Whether the prompt of an item is one of those that check people."""
    query = "SELECT prompt IN (SELECT prompt FROM items WHERE audit) FROM items WHERE id = ?"
    return bool(connection.execute(query, (item,)).fetchone()[0])


def _answers(record: RankedRecord) -> list[Answer]:
    stopped = record.stopped or (None,) * len(record.responses)
    return [Answer(text=text, stopped=ended) for text, ended in zip(record.responses, stopped, strict=True)]
