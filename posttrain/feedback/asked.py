"""What a page sends, checked where it comes in: an event, with its key, its tiers, its flags or its note."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import orjson

from posttrain.data.feedback_db import EventKind
from posttrain.pages.refused import Refused
from posttrain.records import JSON

Flag: TypeAlias = Literal["wrong", "harmful", "off-topic", "broken"]
FLAGS: tuple[Flag, ...] = ("wrong", "harmful", "off-topic", "broken")
LONGEST_NOTE, LONGEST_KEY, LONGEST_NAME = 10_000, 100, 60
_KINDS: tuple[EventKind, ...] = ("rank", "skip", "cant_judge", "flag", "note")
_LONGEST_SECONDS = 7 * 24 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An event that a page sends. `tiers` hold keys of answers, best first; `answer` is the key of a flagged one."""

    item: str
    kind: EventKind
    key: str
    tiers: tuple[tuple[str, ...], ...] = ()
    adjudicates: bool = False
    flags: tuple[str, ...] = ()
    answer: str | None = None
    text: str = ""
    seconds: float | None = None


def body_of(data: bytes) -> dict[str, JSON]:
    """A body of JSON. Raises Refused for what is no object."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as reason:
        raise Refused(400, f"the body is no JSON: {reason}") from reason
    if not isinstance(body, dict):
        raise Refused(400, "the body is no JSON object")
    return cast("dict[str, JSON]", body)


def asked_of(body: dict[str, JSON]) -> Asked:
    """The event in a body. Raises Refused for what is none."""
    kind = body.get("kind")
    if kind not in _KINDS:
        raise Refused(400, f"kind is {_shown(kind)}, expected one of {', '.join(_KINDS)}")
    text = _note(body) if kind == "note" else ""
    answer = body.get("answer")
    if answer is not None and not isinstance(answer, str):
        raise Refused(400, f"answer is {_shown(answer)}, expected the key of an answer")
    return Asked(
        item=_text(body, "item"),
        kind=kind,
        key=key_of(body),
        tiers=_tiers(body.get("tiers")) if kind == "rank" else (),
        adjudicates=body.get("adjudicates") is True,
        flags=_flags(body.get("flags")) if kind == "flag" else (),
        answer=answer,
        text=text,
        seconds=_seconds(body.get("seconds")),
    )


def key_of(body: dict[str, JSON]) -> str:
    """The key that a page made for an event. Raises Refused where there is none."""
    key = _text(body, "key")
    if len(key) > LONGEST_KEY:
        raise Refused(400, f"key has {len(key)} characters, at most {LONGEST_KEY} are kept")
    return key


def item_of(body: dict[str, JSON]) -> str:
    """The item that a body names. Raises Refused where it names none."""
    return _text(body, "item")


def undoes_of(body: dict[str, JSON]) -> int | str | None:
    """The number or the key of the event that an undo takes back. Raises Refused where neither it nor null is there."""
    undoes = body.get("undoes", False)
    if undoes is None or (isinstance(undoes, int | str) and not isinstance(undoes, bool)):
        return undoes
    said = "missing" if undoes is False else _shown(undoes)
    raise Refused(400, f"undoes is {said}, expected the number or the key of an event")


def name_of(text: str) -> str:
    """A person's name as it is kept. Raises Refused for one that nobody could read or type."""
    name = " ".join(text.split())
    if not name:
        raise Refused(400, "give a name")
    if len(name) > LONGEST_NAME:
        raise Refused(400, f"the name has {len(name)} characters, give at most {LONGEST_NAME}")
    if not name.isprintable():
        raise Refused(400, "the name holds characters that cannot be seen")
    return name


def _text(body: dict[str, JSON], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise Refused(400, f"{name} is {_shown(value)}, expected text")
    return value


def _note(body: dict[str, JSON]) -> str:
    text = _text(body, "text").strip()
    if not text:
        raise Refused(400, "the note is empty")
    if len(text) > LONGEST_NOTE:
        raise Refused(400, f"the note has {len(text):,} characters, give at most {LONGEST_NOTE:,}")
    return text


def _tiers(value: JSON) -> tuple[tuple[str, ...], ...]:
    if not isinstance(value, list) or not all(isinstance(tier, list) for tier in value):
        raise Refused(400, f'tiers is {_shown(value)}, expected lists of keys, best first: [["b", "d"], ["a"]]')
    tiers = [cast("list[JSON]", tier) for tier in value if tier]
    keys = [key for tier in tiers for key in tier]
    if not all(isinstance(key, str) for key in keys):
        raise Refused(400, "tiers hold something other than keys of answers")
    if len(set(cast("list[str]", keys))) < len(keys):
        raise Refused(400, "tiers name an answer twice")
    if len(keys) < 2:
        raise Refused(400, "rank at least two answers, or skip the item")
    return tuple(tuple(cast("list[str]", tier)) for tier in tiers)


def _flags(value: JSON) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(flag in FLAGS for flag in value):
        raise Refused(400, f"flags is {_shown(value)}, expected some of {', '.join(FLAGS)}")
    return tuple(dict.fromkeys(cast("list[str]", value)))


def _seconds(value: JSON) -> float | None:
    """The seconds that were spent; a page that was left open for days tells nothing of them."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise Refused(400, f"seconds is {_shown(value)}, expected a number from 0")
    return float(value) if value <= _LONGEST_SECONDS else None


def _shown(value: JSON) -> str:
    """A value in an error, shortened."""
    return "missing" if value is None else f"{orjson.dumps(value).decode():.60}"
