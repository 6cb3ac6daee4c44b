"""The layouts that rows may have: the keys that each needs, what may stand in them, and what a row of it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from posttrain.data import comparisons, convert, targets
from posttrain.data.json_rows import Row
from posttrain.records import JSON, Kind, RankedRecord, Record

Convert: TypeAlias = Callable[[Row, str], Sequence[Record]]
Rank: TypeAlias = Callable[[Row, str], Sequence[RankedRecord]]

COMMANDS: Mapping[Kind, str] = {
    "labelled": "dpo --loss kto",
    "chat": "sft",
    "text": "sft",
    "ranked": "reward or dpo",
    "target": "classify",
    "pool": "rank",
    "prompt": "ppo, online-dpo or sample",
}
EXAMPLES: Mapping[Kind, str] = {
    "chat": '{"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}',
    "text": '{"text": …}',
    "ranked": '{"prompt": …, "chosen": …, "rejected": …} or {"prompt": …, "responses": […], "ranks": […]}',
    "labelled": '{"prompt": …, "completion": …, "label": true}',
    "target": '{"text": …, "label": …}',
    "pool": '{"prompt": …, "responses": […]}',
    "prompt": '{"prompt": …}',
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What may stand in a column, in words and as a test."""

    name: str
    fits: Callable[[JSON], bool]


def _is_text(value: JSON) -> bool:
    return isinstance(value, str)


def _is_list(value: JSON) -> bool:
    return isinstance(value, list)


def _is_messages(value: JSON) -> bool:
    return isinstance(value, list) and (not value or isinstance(value[0], dict))


TEXT = Shape(name="text", fits=_is_text)
LIST = Shape(name="a list", fits=_is_list)
MESSAGES = Shape(name="a list of messages", fits=_is_messages)
ASKED = Shape(name="text or messages", fits=lambda value: _is_text(value) or _is_messages(value))
ANSWER = Shape(
    name="text or messages", fits=lambda value: _is_text(value) or isinstance(value, dict) or _is_messages(value)
)
LABEL = Shape(
    name="true or false, 1 or 0, or a word such as good or bad",
    fits=comparisons.is_label,
)
TARGET = Shape(name="text or a number", fits=targets.is_label)
RATED = Shape(
    name="a list of objects with response and overall_score",
    fits=lambda value: (
        isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "response" in value[0]
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """A layout: the columns that it needs, with what may stand in them, and how a row of it becomes records."""

    name: str
    kind: Kind
    needs: Mapping[str, Shape]
    convert: Convert
    has: Callable[[Row], bool] | None = None

    def fits(self, row: Row) -> bool:
        """Whether `row` has this layout, as far as keys and types go."""
        if self.has is not None and not self.has(row):
            return False
        return all(shape.fits(row.get(key)) for key, shape in self.needs.items())

    def __str__(self) -> str:
        return f"{self.name} → {self.kind}"


def _layouts(kind: Kind) -> list[Format]:
    """The layouts with an answer, read as conversations or as prompts."""
    chat = kind == "chat"
    layouts = [
        Format(
            name=name,
            kind=kind,
            needs={key: MESSAGES},
            has=partial(_is_whole, key=key) if chat else None,
            convert=partial(convert.conversation, key=key) if chat else convert.prompt,
        )
        for name, key in (("messages", "messages"), ("sharegpt (conversations)", "conversations"))
    ]
    layouts += [
        Format(
            name=f"alpaca (instruction, input, {answer})",
            kind=kind,
            needs={"instruction": TEXT, answer: TEXT},
            convert=partial(convert.alpaca if chat else convert.prompt_with_answer, answer=answer),
        )
        for answer in ("output", "response")
    ]
    layouts.append(
        Format(
            name="self-instruct (instruction, instances)",
            kind=kind,
            needs={"instruction": TEXT, "instances": LIST},
            convert=convert.instances if chat else convert.prompts_of_instances,
        )
    )
    layouts += [
        Format(
            name=f"{question}/{answer}",
            kind=kind,
            needs={question: ASKED, answer: ASKED},
            convert=partial(convert.answered if chat else convert.prompt_with_answer, answer=answer),
        )
        for question, answer in (("prompt", "completion"), ("prompt", "response"), ("question", "answer"))
    ]
    return layouts


def _is_whole(row: Row, *, key: str) -> bool:
    """Whether a conversation is all there is: beside ranked answers it may be only the question."""
    if "responses" in row:
        return False
    if "chosen" not in row or "rejected" not in row:
        return True
    talk = row.get(key)
    last = talk[-1] if isinstance(talk, list) and talk else None
    return isinstance(last, dict) and (last.get("role") or last.get("from")) in ("assistant", "gpt")


def _labelled(row: Row) -> bool:
    return sum(map(comparisons.is_solution, row.values())) >= 2


def _ranking(name: str, needs: Mapping[str, Shape], to_records: Convert) -> Format:
    return Format(name=name, kind="ranked", needs=needs, convert=to_records)


def _to_rank(
    name: str, needs: Mapping[str, Shape], to_records: Rank, has: Callable[[Row], bool] | None = None
) -> Format:
    """A layout of answers to be ranked; the ranks that some have are left aside."""
    return Format(
        name=name, kind="pool", needs=needs, has=has, convert=partial(comparisons.unranked, ranked=to_records)
    )


def _labelled_answers() -> list[Format]:
    """Every layout of a conversation, with a column that says whether its last answer was good."""
    chats = [layout for layout in _layouts("chat") if layout.name != "self-instruct (instruction, instances)"]
    return [
        Format(
            name=f"{layout.name.removesuffix(')')}, {key})" if "(" in layout.name else f"{layout.name} with {key}",
            kind="labelled",
            needs={**layout.needs, key: LABEL},
            has=layout.has,
            convert=partial(comparisons.labelled, conversation=layout.convert, key=key),
        )
        for layout in chats
        for key in comparisons.LABELS
    ]


_ANSWERED = frozenset(("completion", "response", "responses", "answer", "output", "chosen", "rejected"))


def _without_answer(row: Row) -> bool:
    """Whether a row has a label and nothing that would be an answer: else the label is of the answer."""
    return "label" in row and not _ANSWERED & row.keys()


def _targets() -> list[Format]:
    """The layouts of a text, or of two that are read one after the other, with a label."""
    texts = (("text",), ("sentence",), ("sentence1", "sentence2"), ("premise", "hypothesis"))
    layouts = [
        Format(
            name=f"{', '.join(keys)} with label",
            kind="target",
            needs={**dict.fromkeys(keys, TEXT), "label": TARGET},
            has=_without_answer,
            convert=partial(targets.text_with_label, texts=keys),
        )
        for keys in texts
    ]
    layouts += [
        Format(
            name=f"{key} with label",
            kind="target",
            needs={key: ASKED, "label": TARGET},
            has=_without_answer,
            convert=targets.talk_with_label,
        )
        for key in ("prompt", "messages")
    ]
    return layouts


_PAIR = {"chosen": ANSWER, "rejected": ANSWER}
FORMATS: tuple[Format, ...] = (
    *_layouts("chat"),
    Format(name="text", kind="text", needs={"text": TEXT}, convert=convert.running_text),
    _ranking("pairs (chosen, rejected)", _PAIR, comparisons.pair),
    _ranking("ranked (responses, ranks)", {"responses": LIST, "ranks": LIST}, comparisons.with_ranks),
    _ranking("ranked (responses, order)", {"responses": LIST, "order": LIST}, comparisons.with_order),
    _ranking("ranked (responses, scores)", {"responses": LIST, "scores": LIST}, comparisons.with_scores),
    _ranking("UltraFeedback (instruction, completions)", {"completions": RATED}, comparisons.rated),
    Format(name="labelled solutions", kind="ranked", needs={}, has=_labelled, convert=comparisons.solutions),
    *_labelled_answers(),
    *_targets(),
    _to_rank("responses", {"responses": LIST}, comparisons.tied),
    _to_rank("pairs (chosen, rejected)", _PAIR, comparisons.pair),
    _to_rank("UltraFeedback (instruction, completions)", {"completions": RATED}, comparisons.tied_completions),
    _to_rank("labelled solutions", {}, comparisons.solutions, has=_labelled),
    *_layouts("prompt"),
    Format(name="pairs (chosen, rejected)", kind="prompt", needs=_PAIR, convert=comparisons.prompt),
    *(
        Format(name=key, kind="prompt", needs={key: ASKED}, convert=convert.prompt)
        for key in ("prompt", "question", "instruction")
    ),
    Format(name="text", kind="prompt", needs={"text": TEXT}, convert=convert.prompt),
)
