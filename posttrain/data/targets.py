"""Rows with a label: what may stand as one, and what a text with its label becomes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from posttrain.data.json_rows import Row
from posttrain.data.messages import BadRow, kind_of, prompt_of, text_of
from posttrain.records import JSON, PromptRecord, TargetRecord

_LONGEST = 200
"""Characters of a label; what is longer is a text."""
_FILL = "fill it, or delete the row"


def text_with_label(row: Row, id: str, *, texts: Sequence[str]) -> list[TargetRecord]:
    """A text, or two in lines of their own, with the row's `label`. `texts` name their columns."""
    text = "\n".join(text_of(row.get(key), key) for key in texts)
    return [_record(row, id, PromptRecord(id=id, text=text))]


def talk_with_label(row: Row, id: str) -> list[TargetRecord]:
    """What is asked in `prompt` or `messages`, which may end with an answer, with the row's `label`."""
    asked, _ = prompt_of(row)
    answered = asked[-1].role == "assistant"
    return [_record(row, id, PromptRecord(id=id, messages=asked, whole=answered))]


def is_label(value: JSON) -> bool:
    """Whether a value may be a label, as far as its type goes."""
    return value is None or isinstance(value, str | int | float)


def _record(row: Row, id: str, asked: PromptRecord) -> TargetRecord:
    name, number = label_of(row.get("label"))
    return TargetRecord(id=id, asked=asked, label=name, number=number)


def label_of(value: JSON) -> tuple[str, bool]:
    """A label as text, and whether it is a number or text that spells one, since tables hold nothing else.

    `1`, `1.0` and `"1"` are the same label. Raises BadRow for what is missing, no label, or no finite number.
    """
    if value is None:
        raise BadRow("label is null", _FILL)
    if isinstance(value, bool):
        return str(value).lower(), False
    if isinstance(value, str):
        name = value.strip()
        if not name:
            raise BadRow("label is empty", _FILL)
        if len(name) > _LONGEST:
            raise BadRow(f"label has {len(name):,} characters, more than {_LONGEST}", "give the name of a class")
        number = _number(name)
        return (name, False) if number is None else (_spelled(number), True)
    if not isinstance(value, int | float):
        raise BadRow(f"label is {kind_of(value)}, expected text or a number", "give one label a row")
    number = _number(value)
    if number is None:
        raise BadRow(
            "label is a number of more digits than can be read", "give the name of a class, or a smaller number"
        )
    return _spelled(number), True


def _number(value: str | int | float) -> float | None:
    """The number that a label is or spells, or None. Raises BadRow for one that is not finite."""
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if isinstance(value, str) and "_" in value:  # Python reads 1_000 as a number, and people do not
        return None
    if not math.isfinite(number):
        raise BadRow(f"label is {json.dumps(value)}, which is no label", _FILL)
    return number


def _spelled(number: float) -> str:
    """`1` for 1.0, `0.25` for a quarter; reading it gives the number again."""
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)
