"""Which layout a file has, told from the keys and the value types of its first rows."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from posttrain.data import comparisons, convert
from posttrain.data.rows import Placed, Row
from posttrain.errors import DataError, Problem
from posttrain.types import Kind, Record

Convert: TypeAlias = Callable[[Row, str], Sequence[Record]]

SNIFFED = 200
COMMANDS: Mapping[Kind, str] = {"chat": "sft", "text": "sft", "ranked": "reward or dpo", "prompt": "ppo or sample"}
EXAMPLES: Mapping[Kind, str] = {
    "chat": '{"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}',
    "text": '{"text": …}',
    "ranked": '{"prompt": …, "chosen": …, "rejected": …} or {"prompt": …, "responses": […], "ranks": […]}',
    "prompt": '{"prompt": …}',
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A layout: the keys that it needs, with the types of their values, and how a row of it becomes records."""

    name: str
    kind: Kind
    needs: Mapping[str, type | tuple[type, ...]]
    convert: Convert
    has: Callable[[Row], bool] | None = None

    def fits(self, row: Row) -> bool:
        """Whether `row` has this layout, as far as keys and types go."""
        if self.has is not None and not self.has(row):
            return False
        return all(isinstance(row.get(key), types) for key, types in self.needs.items())

    def __str__(self) -> str:
        return f"{self.name} → {self.kind}"


_ASKED = (str, list)


def _answered(question: str, answer: str, kind: Kind) -> Format:
    to_records = convert.answered if kind == "chat" else convert.prompt_with_answer
    return Format(
        name=f"{question}/{answer}",
        kind=kind,
        needs={question: _ASKED, answer: _ASKED},
        convert=partial(to_records, answer=answer),
    )


def _layouts(kind: Kind) -> list[Format]:
    """The layouts with an answer, read as conversations or as prompts."""
    chat = kind == "chat"
    talk: Convert = convert.conversation if chat else convert.prompt
    return [
        Format(
            name="messages", kind=kind, needs={"messages": list}, has=_without_responses if chat else None, convert=talk
        ),
        Format(name="sharegpt (conversations)", kind=kind, needs={"conversations": list}, convert=talk),
        *(
            Format(
                name=f"alpaca (instruction, input, {answer})",
                kind=kind,
                needs={"instruction": str, answer: str},
                convert=convert.alpaca if chat else partial(convert.prompt_with_answer, answer=answer),
            )
            for answer in ("output", "response")
        ),
        Format(
            name="self-instruct (instruction, instances)",
            kind=kind,
            needs={"instruction": str, "instances": list},
            convert=convert.instances if chat else convert.prompts_of_instances,
        ),
        *(
            _answered(*names, kind)
            for names in (("prompt", "completion"), ("prompt", "response"), ("question", "answer"))
        ),
    ]


def _without_responses(row: Row) -> bool:
    """Whether `messages` are all there is: beside ranked responses they are only the question."""
    return "responses" not in row


def _labelled(row: Row) -> bool:
    return sum(map(comparisons.is_solution, row.values())) >= 2


def _ranking(name: str, needs: Mapping[str, type | tuple[type, ...]], to_records: Convert) -> Format:
    return Format(name=name, kind="ranked", needs=needs, convert=to_records)


_PAIR = (str, list, dict)
FORMATS: tuple[Format, ...] = (
    *_layouts("chat"),
    Format(name="text", kind="text", needs={"text": str}, convert=convert.running_text),
    _ranking("pairs (chosen, rejected)", {"chosen": _PAIR, "rejected": _PAIR}, comparisons.pair),
    _ranking("ranked (responses, ranks)", {"responses": list, "ranks": list}, comparisons.with_ranks),
    _ranking("ranked (responses, order)", {"responses": list, "order": list}, comparisons.with_order),
    _ranking("ranked (responses, scores)", {"responses": list, "scores": list}, comparisons.with_scores),
    Format(name="labelled solutions", kind="ranked", needs={}, has=_labelled, convert=comparisons.solutions),
    *_layouts("prompt"),
    Format(
        name="pairs (chosen, rejected)",
        kind="prompt",
        needs={"chosen": _PAIR, "rejected": _PAIR},
        convert=comparisons.prompt,
    ),
    *(
        Format(name=key, kind="prompt", needs={key: _ASKED}, convert=convert.prompt)
        for key in ("prompt", "question", "instruction")
    ),
    Format(name="text", kind="prompt", needs={"text": str}, convert=convert.prompt),
)


def recognise(path: Path, rows: Sequence[Placed], kinds: Sequence[Kind]) -> Format:
    """The layout of `rows` for the first of `kinds` that any layout fits.

    A layout fits when at least half of the first 200 rows have its keys and types. Raises DataError when none or more
    than one does, with what the file looks like instead.
    """
    sample = [placed.row for placed in rows[:SNIFFED]]
    if "ranked" in kinds:
        _refuse_ambiguous_ranking(path, rows[0])
    for kind in kinds:
        found = _candidates(sample, kind)
        # A prompt is read the same way from any layout that has one, so the fullest layout that fits will do.
        if len(found) == 1 or (found and kind == "prompt"):
            return found[0]
        if found:
            raise DataError([_ambiguous(path, found)])
    raise DataError([_unrecognised(path, sample, kinds)])


def _candidates(sample: Sequence[Row], kind: Kind) -> list[Format]:
    return [f for f in FORMATS if f.kind == kind and 2 * sum(map(f.fits, sample)) >= len(sample)]


def _ambiguous(path: Path, found: Sequence[Format]) -> Problem:
    what = f"the rows can be read in {len(found)} ways: {'; '.join(layout.name for layout in found)}"
    return Problem(place=str(path), what=what, fix="rename or remove the columns of the ones that are not meant")


def _unrecognised(path: Path, sample: Sequence[Row], kinds: Sequence[Kind]) -> Problem:
    wanted = " or ".join(kinds)
    example = " or ".join(EXAMPLES[kind] for kind in kinds)
    other = [layout for kind in COMMANDS for layout in _candidates(sample, kind) if layout.kind not in kinds]
    if other:
        what = f"this looks like {other[0].kind} data ({other[0].name}), expected {wanted} data"
        fix = f"{COMMANDS[other[0].kind]} takes this file; here give {example}"
        return Problem(place=str(path), what=what, fix=fix)
    keys = list(dict.fromkeys(key for row in sample for key in row))
    what = f"no layout of {wanted} data fits its columns: {_listed(keys)}"
    return Problem(place=str(path), what=what, fix=_typo(keys, kinds) or f"rename the columns: {example}")


def _typo(keys: Sequence[str], kinds: Sequence[Kind]) -> str:
    """The name that an unknown key was probably meant to have, or nothing."""
    known = sorted({key for layout in FORMATS if layout.kind in kinds for key in layout.needs})
    for key in keys:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
        if key not in known and near:
            return f"did you mean {near[0]!r} by {key!r}?"
    return ""


def _listed(keys: Sequence[str], limit: int = 12) -> str:
    return ", ".join(keys[:limit]) + (f" and {len(keys) - limit} more" if len(keys) > limit else "")


def _refuse_ambiguous_ranking(path: Path, first: Placed) -> None:
    """Raises DataError for a bare `ranking` column, which is read as ranks by some and as an order by others."""
    row = first.row
    ranking = row.get("ranking")
    if not isinstance(ranking, list) or {"ranks", "order", "scores"} & row.keys():
        return
    as_ranks = ", ".join(f"response {place} has rank {json.dumps(rank)}" for place, rank in enumerate(ranking))
    as_order = ", then ".join(f"response {json.dumps(place)}" for place in ranking)
    what = (
        f"'ranking': {json.dumps(ranking)} can mean two things\n"
        f"  as ranks (lowest is best): {as_ranks}\n"
        f"  as order (best first): {as_order}"
    )
    raise DataError([Problem(place=first.place, what=what, fix="rename the column to 'ranks' or to 'order'")])
