"""What an annotator does: takes an item, ranks it or says something else of it, takes that back, holds it longer.

Each function is one action of one person inside a transaction of the ledger, and gives what the page is told. Nothing
tells which model wrote an answer, in which order the file had them, or that an item came back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from typing import TypeAlias

from posttrain.data.feedback_db import Event
from posttrain.data.json_rows import Row
from posttrain.feedback.asked import Asked
from posttrain.feedback.assigning import shown_order
from posttrain.feedback.ledger import Ledger, Undo
from posttrain.pages.refused import Refused
from posttrain.records import JSON

Told: TypeAlias = dict[str, JSON]


def next_item(ledger: Ledger, annotator: str) -> Told:
    """The next item for a person, held for them from now on; or none, and why."""
    found = ledger.assignment.offered(annotator, ledger.held)
    if found is None:
        ledger.release(annotator)
        why = "others hold the rest" if ledger.assignment.waits_for_others(annotator) else "all done"
        return {"item": None, "why": why, "progress": progress(ledger, annotator)}
    item, round = found
    ledger.show(item, annotator, round)
    return _held(ledger, annotator, _shown(ledger, item, annotator, round))


def own_item(ledger: Ledger, annotator: str, item: str) -> Told:
    """An item that a person has or had before them, with the tiers that they last gave it.

    It is held for them where they have not done it and others leave room. Raises Refused for an item of others.
    """
    round = ledger.round_of(item, annotator)
    if item not in ledger.standing.items or round is None:
        raise Refused(404, "there is no such item of yours")
    done = ledger.standing.done_by(item, annotator)
    if not done and ledger.assignment.has_room(item, annotator, ledger.held):
        ledger.show(item, annotator, round)
    shown = _shown(ledger, item, annotator, round)
    last = ledger.last_ranks(item, annotator)
    if last is not None:
        shown["tiers"] = tiers_of(last, _letters(_order(ledger, item, annotator, round)))
    return _held(ledger, annotator, shown)


def say(ledger: Ledger, annotator: str, asked: Asked) -> tuple[Told, bool]:
    """What an event of a person came to, and whether it is new; the same key again is the same event.

    Raises Refused with 404 for an unknown item, 409 for a ranking that others had room for meanwhile, 400 for keys of
    answers that there are not.
    """
    earlier = ledger.number_of(annotator, asked.key)
    if earlier is not None:
        if ledger.undo_of(annotator, asked.key) is not None:
            raise Refused(409, "this key is that of an undo")
        return {"event": earlier, "progress": progress(ledger, annotator)}, False
    if asked.item not in ledger.standing.items:
        raise Refused(404, "there is no such item")
    payload = _payload(ledger, annotator, asked)
    number, new = ledger.record(
        Event(
            item=asked.item,
            annotator=annotator,
            kind=asked.kind,
            payload=payload,
            key=asked.key,
            seconds=asked.seconds,
        )
    )
    if asked.kind not in ("flag", "note") and ledger.holds(asked.item, annotator):
        ledger.release(annotator)
    return {"event": number, "progress": progress(ledger, annotator)}, new


def take_back(ledger: Ledger, annotator: str, key: str, undoes: int | str | None) -> Told:
    """The undo of a person's newest event that stands; its item is held for them again where there is room.

    `undoes`: the number or the key of that event, as far as the page knows. Raises Refused with 409 where there is
    nothing to take back, and where another event is the newest: an undo that waited in one browser takes back nothing
    that was done in another one since.
    """
    again = ledger.undo_of(annotator, key)
    if again is not None:
        return _taken_back(ledger, annotator, again)
    if ledger.number_of(annotator, key) is not None:
        raise Refused(409, "this key is that of another event, which is no undo")
    last = ledger.standing.newest(annotator)
    if last is None:
        raise Refused(409, "there is nothing to undo")
    if last.event != (ledger.number_of(annotator, undoes) if isinstance(undoes, str) else undoes):
        raise Refused(409, "what it would take back is not the last thing that you did")
    event = Event(item=last.item, annotator=annotator, kind="undo", payload={"event": last.event}, key=key)
    number, _ = ledger.record(event)
    if last.kind not in ("flag", "note") and ledger.assignment.has_room(last.item, annotator, ledger.held):
        ledger.show(last.item, annotator, ledger.round_of(last.item, annotator) or 0)
    return _taken_back(ledger, annotator, Undo(number, last.event, last.item, last.kind))


def renew(ledger: Ledger, annotator: str, item: str) -> Told:
    """The seconds for which an item is held for a person from now on.

    Raises Refused with 409 where others hold or ranked it by now.
    """
    round = ledger.round_of(item, annotator)
    if round is None or item not in ledger.standing.items:
        raise Refused(404, "there is no such item of yours")
    if not ledger.holds(item, annotator) and not ledger.assignment.has_room(item, annotator, ledger.held):
        raise Refused(409, "someone else has this item by now; a ranking of yours is taken as long as they have none")
    ledger.show(item, annotator, round)
    return {"lock": {"seconds": ledger.rules.hold}}


def progress(ledger: Ledger, annotator: str) -> Told:
    """How far everyone and this person are, how far people agree, and which event of theirs an undo takes back."""
    standing = ledger.standing
    last = standing.newest(annotator)
    return {
        "done": standing.started,
        "of": len(standing.items),
        "mine": standing.ranked[annotator],
        "agreement": standing.agreeing / standing.compared if standing.compared else None,
        "last": None if last is None else last.event,
    }


# --- inside -----------------------------------------------------------------------------------------------------


def tiers_of(ranks: Sequence[int | None], letters: Mapping[int, str]) -> list[JSON]:
    """Keys of answers in tiers, best first."""
    given = sorted({rank for rank in ranks if rank is not None})
    return [[letters[row] for row in letters if ranks[row] == rank] for rank in given]


def _payload(ledger: Ledger, annotator: str, asked: Asked) -> dict[str, JSON]:
    """What is kept of an event besides whose it is."""
    if asked.kind == "note":
        return {"text": asked.text}
    order = _order_asked(ledger, annotator, asked)
    rows = {letter: row for row, letter in _letters(order).items()}
    if asked.kind == "flag":
        flagged = {} if asked.answer is None else {"answer": _row(rows, asked.answer)}
        return {"flags": list[JSON](asked.flags), **flagged}
    if asked.kind != "rank":
        return {}
    ranks: list[JSON] = [None] * len(order)
    for tier, keys in enumerate(asked.tiers, start=1):
        for key in keys:
            ranks[_row(rows, key)] = tier
    if asked.adjudicates:
        _refuse_undisputed(ledger, asked.item)
        return {"ranks": ranks, "adjudicates": True}
    _refuse_collision(ledger, annotator, asked.item)
    return {"ranks": ranks, "order": list[JSON](order), **_repeat(ledger, annotator, asked.item)}


def _repeat(ledger: Ledger, annotator: str, item: str) -> dict[str, JSON]:
    """The mark of a ranking of an item that had come back; one more ranking of it is a correction."""
    standing = ledger.standing
    again = bool(ledger.round_of(item, annotator)) and standing.ranking(item, annotator) is not None
    return {"repeat": True} if again and standing.twice(item, annotator) is None else {}


def _refuse_collision(ledger: Ledger, annotator: str, item: str) -> None:
    """Raises Refused for a ranking whose lock is gone, and whose place others took; else nothing done is lost."""
    own = ledger.standing.ranking(item, annotator)
    if own is None and not ledger.holds(item, annotator) and ledger.assignment.is_full(item, annotator):
        raise Refused(409, "your time for this item was over, and someone else ranked it meanwhile")


def _refuse_undisputed(ledger: Ledger, item: str) -> None:
    standing = ledger.standing
    if not standing.opposed(item) and standing.adjudication(item) is None:
        raise Refused(409, "nobody disputes this item: there is nothing to settle")


def _order_asked(ledger: Ledger, annotator: str, asked: Asked) -> list[int]:
    """The rows of the answers in the order of the keys that a page uses: as shown, or as stored to settle a dispute."""
    if asked.adjudicates:
        return list(range(ledger.standing.items[asked.item].answers))
    round = ledger.round_of(asked.item, annotator)
    if round is None:
        raise Refused(404, "there is no such item of yours")
    return _order(ledger, asked.item, annotator, round)


def _order(ledger: Ledger, item: str, annotator: str, round: int) -> list[int]:
    facts = ledger.standing.items[item]
    return shown_order(facts.seed, annotator, round, facts.answers)


def _letters(order: Sequence[int]) -> dict[int, str]:
    """The key of each row, in the order in which they are shown."""
    return dict(zip(order, ascii_lowercase, strict=False))


def _row(rows: Mapping[str, int], key: str) -> int:
    if key not in rows:
        raise Refused(400, f"there is no answer {key!r:.20} to this item; its answers are {', '.join(sorted(rows))}")
    return rows[key]


def _shown(ledger: Ledger, item: str, annotator: str, round: int) -> Told:
    """An item as a person sees it, blind."""
    return shown_answers(item, *ledger.texts(item), _letters(_order(ledger, item, annotator, round)))


def shown_answers(item: str, prompt: Sequence[Row], answers: Sequence[Row], letters: Mapping[int, str]) -> Told:
    """An item with its answers under the keys of their rows, in that order, and nothing of who wrote them."""
    shown: list[JSON] = [
        {"key": key, "text": answers[row].get("text"), "stopped": answers[row].get("stopped")}
        for row, key in letters.items()
    ]
    spoken: list[JSON] = [{"role": message.get("role"), "content": message.get("content")} for message in prompt]
    return {"id": item, "prompt": spoken, "answers": shown}


def _held(ledger: Ledger, annotator: str, shown: Told) -> Told:
    return {"item": shown, "lock": {"seconds": ledger.rules.hold}, "progress": progress(ledger, annotator)}


def _taken_back(ledger: Ledger, annotator: str, undo: Undo) -> Told:
    return {
        "event": undo.number,
        "undone": undo.undone,
        "item": undo.item,
        "kind": undo.kind,
        "progress": progress(ledger, annotator),
    }
