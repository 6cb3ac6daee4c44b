"""What columns of unknown names probably are: by names that others use, by near spellings, and by their values."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posttrain.data.formats import FORMATS, TEXT, Format, Shape
from posttrain.data.json_rows import Row
from posttrain.data.messages import PROMPT_KEYS
from posttrain.records import JSON, Kind

_ASKS = (
    "query",
    "question",
    "prompt",
    "instruction",
    "input",
    "user",
    "human",
    "request",
    "problem",
    "source",
    "context",
)
_ANSWERS = (
    "reply",
    "response",
    "answer",
    "completion",
    "output",
    "assistant",
    "target",
    "solution",
    "summary",
    "label",
)
OTHER_NAMES: Mapping[str, Sequence[str]] = {
    "prompt": (*_ASKS, "q", "post", "title", "sentence", "input_text"),
    "response": (*_ANSWERS, "a", "bot", "gpt", "model", "generation", "output_text", "target_text"),
    "completion": _ANSWERS,
    "question": _ASKS,
    "answer": _ANSWERS,
    "chosen": ("preferred", "better", "winner", "accepted", "good", "positive", "best", "chosen_response", "win"),
    "rejected": ("dispreferred", "worse", "loser", "bad", "negative", "worst", "rejected_response", "lose"),
    "responses": ("answers", "completions", "candidates", "outputs", "generations", "replies", "options", "samples"),
    "ranks": ("rank", "ranking", "human_ranks"),
    "scores": ("ratings", "rewards", "score", "rating", "reward", "labels"),
    "text": ("content", "document", "body", "story", "article", "passage", "code"),
    "sentence": ("content", "review", "document", "body", "comment", "tweet", "input", "x"),
    "label": ("labels", "class", "category", "target", "score", "rating", "stars", "sentiment", "intent", "y"),
    "messages": ("conversation", "dialog", "dialogue", "turns", "chat", "history", "conversations"),
}
# the layouts that a mapping is offered for, the plainest of each kind first
_OFFERED = (
    "prompt/response", "messages", "text", "pairs (chosen, rejected)", "ranked (responses, ranks)",
    "text with label", "sentence with label", "ranked (responses, scores)", "alpaca (instruction, input, output)",
    "prompt", "question/answer",
)  # fmt: skip
_NEAR = 0.75
_SHOWN = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """A layout that would fit if `columns`, our names to the file's, were given; `row` is the first row."""

    layout: Format
    columns: Mapping[str, str]
    row: Row


def guess(rows: Sequence[Row], kinds: Sequence[Kind], *, exact: bool = False) -> Mapped | None:
    """The nearest layout of these kinds and the columns that would make it fit; None when nothing suggests itself.

    `exact` takes only names that others use for ours, neither near spellings nor mere types.
    """
    offered = [f for name in _OFFERED for f in FORMATS if f.name == name and f.kind in kinds]
    rest = [f for f in FORMATS if f.kind in kinds and f not in offered and f.needs]
    best: tuple[float, Mapped | None] = (0.0, None)
    for layout in [*offered, *rest]:
        columns, score = _columns(rows, layout, near=not exact)
        if columns and score > best[0]:
            best = score, Mapped(layout=layout, columns=columns, row=rows[0])
    return best[1] or (None if exact else _by_type(rows, offered))


def _columns(rows: Sequence[Row], layout: Format, *, near: bool) -> tuple[dict[str, str], float]:
    """A column for each that the layout needs, none where one is lacking, and how near their names are on average."""
    needs = dict(layout.needs)
    if layout.kind == "ranked" and not any(key in rows[0] for key in PROMPT_KEYS):
        needs = {"prompt": TEXT, **needs}
    found: dict[str, str] = {}
    score = 0.0
    for ours, shape in needs.items():
        theirs, nearness = _column(rows, ours, shape, taken=set(found.values()), near=near)
        if theirs is None:
            return {}, 0.0
        found[ours] = theirs
        score += nearness
    return found, score / len(needs)


def _column(rows: Sequence[Row], ours: str, shape: Shape, *, taken: set[str], near: bool) -> tuple[str | None, int]:
    """The column that is probably ours: 3 for our own name, 2 for a near spelling, 1 for a name that others use."""
    free = [key for key in dict.fromkeys(key for row in rows for key in row) if key not in taken]
    filled = [
        key
        for key in free
        if 2 * sum(_is_filled(row.get(key)) and shape.fits(row.get(key)) for row in rows) >= len(rows)
    ]
    by_name = {key.lower(): key for key in reversed(filled)}
    if ours in by_name:
        return by_name[ours], 3
    close = difflib.get_close_matches(ours, by_name, n=1, cutoff=_NEAR) if near else []
    if close:
        return by_name[close[0]], 2
    other = next((by_name[name] for name in OTHER_NAMES.get(ours, ()) if name in by_name), None)
    return other, 1


def _is_filled(value: JSON) -> bool:
    return value is not None and value not in ("", [], {})


def _by_type(rows: Sequence[Row], offered: Sequence[Format]) -> Mapped | None:
    """A question and an answer, or a text, where there are just as many columns of text."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    texts = [key for key in keys if key != "id" and all(TEXT.fits(row.get(key, "")) for row in rows)]
    for layout in offered:
        if len(layout.needs) == len(texts) <= 2 and all(shape.fits("") for shape in layout.needs.values()):
            if layout.kind == "ranked":
                continue
            return Mapped(layout=layout, columns=dict(zip(layout.needs, texts, strict=True)), row=rows[0])
    return None


def shown(value: JSON) -> str:
    """A value in quotes, shortened."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    short = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
    return json.dumps(short, ensure_ascii=False) if isinstance(value, str) else short
