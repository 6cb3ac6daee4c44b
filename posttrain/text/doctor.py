"""The doctor of masks: what a codec makes of real rows, with every turn, end and special token looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

from posttrain.errors import DataError
from posttrain.text.chat import Codec, Losses
from posttrain.text.diagnosis import Diagnosis, Fact
from posttrain.text.findings import Findings, row_facts
from posttrain.text.masks import LossOn, trained_turns
from posttrain.text.probes import template_facts, text_facts
from posttrain.types import (
    Answered,
    ChatRecord,
    LabelledRecord,
    Message,
    PrefixGroup,
    PromptRecord,
    RankedRecord,
    Record,
    Span,
    TargetRecord,
    TextRecord,
)

_CHUNK = 1024


def diagnose(
    codec: Codec,
    records: Sequence[Record],
    *,
    loss_on: LossOn = "assistant",
    cut: int | None = None,
    embedding: int | None = None,
) -> Diagnosis:
    """What `codec` makes of `records`, which may be of any kinds, and whether a run may start with it.

    `cut` is the number of tokens that a run keeps of a conversation, None when it cuts none. `embedding` is the number
    of rows of the model's embedding.
    """
    examination = Examination(codec, loss_on=loss_on, cut=cut, embedding=embedding)
    for start in range(0, len(records), _CHUNK):
        examination.see(records[start : start + _CHUNK])
    return examination.diagnosis()


class Examination:
    """A diagnosis in the making: `see` any number of rows in pieces, then ask for the `diagnosis`."""

    def __init__(
        self, codec: Codec, *, loss_on: LossOn = "assistant", cut: int | None = None, embedding: int | None = None
    ) -> None:
        self._codec = replace(codec, losses=Losses())
        self._loss_on: LossOn = loss_on
        self._cut = cut
        self._embedding = embedding
        self._found = Findings()
        words = codec.words
        spelt = sorted({words.spelling(token) for token in words.specials if token != words.unknown}, key=len)
        self._spelt = re.compile("|".join(map(re.escape, reversed(spelt))) or r"(?!)")
        self._bounds = words.bounds | {codec.end_of_turn}

    def see(self, records: Sequence[Record]) -> list[tuple[PrefixGroup, ...]]:
        """What each record becomes, in order; nothing where the template refuses it."""
        # Of a labelled row the sequence is read, and nothing of it is trained: so is a prompt.
        records = [record.asked if isinstance(record, TargetRecord) else record for record in records]
        found = self._tokens(records)
        for record, groups in zip(records, found, strict=True):
            self._found.counts["rows"] += 1
            kind = "texts" if isinstance(record, TextRecord) else "conversations"
            self._found.counts[kind] += not (isinstance(record, PromptRecord) and record.messages is None)
            if groups:
                self._look(record, groups)
        return found

    # --- tokens -------------------------------------------------------------------------------------------------

    def _tokens(self, records: Sequence[Record]) -> list[tuple[PrefixGroup, ...]]:
        before = replace(self._codec.losses)
        try:
            found = self._encoded(records)
        except DataError:
            return self._one_by_one(records)
        for name, count in _changes(before, self._codec.losses).items():
            self._first_of(records, name, count)
        return found

    def _one_by_one(self, records: Sequence[Record]) -> list[tuple[PrefixGroup, ...]]:
        """The rows apart, because the template refuses at least one of them."""
        found: list[tuple[PrefixGroup, ...]] = []
        for record in records:
            before = replace(self._codec.losses)
            try:
                found += self._encoded([record])
            except DataError as reason:
                self._found.why = self._found.why or reason.problems[0].what
                self._found.add("refused", record.id)
                found.append(())
                continue
            for name, count in _changes(before, self._codec.losses).items():
                self._found.add(name, record.id, count)
        return found

    def _first_of(self, records: Sequence[Record], name: str, count: int) -> None:
        """Counts what the codec counted, and finds the first row that it counted."""
        if count and name not in self._found.first:
            for record in records:
                alone = replace(self._codec, losses=Losses())
                _encode(alone, [record], self._loss_on)
                if _changes(Losses(), alone.losses)[name]:
                    self._found.first[name] = record.id
                    break
        self._found.counts[name] += count

    def _encoded(self, records: Sequence[Record]) -> list[tuple[PrefixGroup, ...]]:
        return _encode(self._codec, records, self._loss_on)

    # --- what is looked for in each row ---------------------------------------------------------------------------

    def _look(self, record: Record, groups: Sequence[PrefixGroup]) -> None:
        spans = [span for group in groups for span in (group.root, *group.branches)]
        self._look_at_tokens(record, spans)
        match record:
            case ChatRecord():
                self._look_at_turns(record, [_cut(span, self._cut) for span in spans])
                self._look_at_contents(record)
            case RankedRecord() | LabelledRecord():
                self._look_at_answers(record, groups[0].branches)
            case _:
                pass

    def _look_at_tokens(self, record: Record, spans: Sequence[Span]) -> None:
        words = self._codec.words
        self._found.counts["tokens"] += sum(len(span.tokens) for span in spans)
        if words.unknown is not None:
            unknown = sum(span.tokens.count(words.unknown) for span in spans)
            self._found.counts["unknown tokens"] += unknown
            self._found.add("unknown", record.id, min(unknown, 1))
        self._found.add("doubled", record.id, any(self._doubled(span.tokens) for span in spans))
        spelt = self._spelt.search("\n".join(_contents(record)))
        if spelt:
            self._found.spelling = self._found.spelling or spelt.group()
            self._found.add("spelt", record.id)

    def _doubled(self, tokens: Sequence[int]) -> bool:
        """Whether a token that begins or ends a text or a turn stands twice in a row."""
        several = {token for token in self._bounds if tokens.count(token) > 1}
        return bool(several) and any(a == b and a in several for a, b in pairwise(tokens))

    def _bare(self, span: Span, end: int) -> bool:
        """Whether the trained stretch that ends at `end` holds nothing else, or only a space of the template's own."""
        start = next((place for place in range(end, 0, -1) if not span.trained[place - 1]), 0)
        return end - start < 3 and not self._codec.words.decode_after(span.tokens[start:end]).strip()

    def _look_at_turns(self, record: ChatRecord, spans: Sequence[Span]) -> None:
        end = self._codec.end_of_turn
        turns = trained_turns(record, self._loss_on)
        places = [(span, place) for span in spans for place in _trained_places(span, end)]
        bare = any(self._bare(span, place) for span, place in places)
        self._found.counts["turns"] += len(turns)
        self._found.counts["prefixes"] += len(turns) if self._loss_on != "all" else 0
        self._found.counts["ended turns"] += min(len(places), len(turns))
        self._found.counts["extra samples"] += len(spans) - 1
        self._found.add("unended", record.id, max(len(turns) - len(places), 0))
        self._found.add("bare", record.id, bare)
        if any(any(span.trained) for span in spans):
            return
        why = "silent" if not turns else "cut away" if self._cut is not None else "untrained"
        self._found.add(why, record.id)

    def _look_at_contents(self, record: ChatRecord) -> None:
        """Whether what a template shows of a conversation, on the way to its last answer, is what was written."""
        seen = self._codec.template.render(record.messages, place=record.id)
        missing = [message for message in record.messages if message.content not in seen]
        if not missing:
            return
        last = max((place for place, message in enumerate(record.messages) if message.role == "assistant"), default=0)
        asked = self._codec.template.render(record.messages[:last], place=record.id, generation=True)
        dropped = [message for message in missing if message.content.strip() not in seen + asked]
        self._found.add("system dropped", record.id, any(message.role == "system" for message in dropped))
        self._found.add("rewritten texts", record.id, any(message.role != "system" for message in dropped))
        changed = [message for message in missing if message not in dropped and message.content not in asked]
        self._found.add("trimmed", record.id, bool(changed))

    def _look_at_answers(self, record: Answered, answers: Sequence[Span]) -> None:
        end = self._codec.end_of_turn
        stopped = record.stopped or (True,) * len(answers)
        ended = sum(answer.tokens[-1:] == (end,) for answer in answers)
        self._found.counts["rankings"] += 1
        self._found.counts["turns"] += sum(stopped)
        self._found.counts["ended turns"] += min(ended, sum(stopped))
        self._found.add("cut answers", record.id, len(stopped) - sum(stopped))
        self._found.add("bare", record.id, any(self._bare(answer, len(answer.tokens) - 1) for answer in answers))
        self._found.add("same answers", record.id, len({answer.tokens for answer in answers}) < len(answers))

    # --- the verdict ----------------------------------------------------------------------------------------------

    def diagnosis(self) -> Diagnosis:
        """What was found in the rows seen so far."""
        codec, counts = self._codec, self._found.counts
        facts: list[Fact] = []
        if counts["conversations"]:
            facts += template_facts(codec, embedding=self._embedding)
        if counts["texts"]:
            facts += text_facts(codec, embedding=self._embedding)
        known = {fact.name for fact in facts if fact.verdict == "refuse"}
        facts += (fact for fact in row_facts(self._found, codec, cut=self._cut) if fact.name not in known)
        return Diagnosis(rows=counts["rows"], template=codec.template_source, facts=tuple(facts))


def _changes(before: Losses, after: Losses) -> dict[str, int]:
    """The findings in what the codec counted: a conversation of one trained answer is one sample, rewritten or not."""
    expanded = after.expanded - before.expanded
    alone = after.rewritten - before.rewritten - expanded
    return {"rewritten": expanded, "other prompt": alone, "breaks": after.breaks - before.breaks}


def _encode(codec: Codec, records: Sequence[Record], loss_on: LossOn) -> list[tuple[PrefixGroup, ...]]:
    """Each record as its groups, those of one kind encoded together."""
    found: dict[int, tuple[PrefixGroup, ...]] = {}
    chats = {place: record for place, record in enumerate(records) if isinstance(record, ChatRecord)}
    for place, spans in zip(chats, codec.conversations(list(chats.values()), loss_on=loss_on), strict=True):
        found[place] = tuple(PrefixGroup(id=records[place].id, root=span) for span in spans)
    ranked = {
        place: record for place, record in enumerate(records) if isinstance(record, RankedRecord | LabelledRecord)
    }
    for place, group in zip(ranked, codec.rankings(list(ranked.values())), strict=True):
        found[place] = (group,)
    texts = {place: record for place, record in enumerate(records) if isinstance(record, TextRecord)}
    for place, span in zip(texts, codec.texts(list(texts.values())), strict=True):
        found[place] = (PrefixGroup(id=records[place].id, root=span),)
    prompts = {place: record for place, record in enumerate(records) if isinstance(record, PromptRecord)}
    for place, prompt in zip(prompts, codec.prompts(list(prompts.values())), strict=True):
        found[place] = (PrefixGroup(id=prompt.id, root=Span.all(prompt.tokens, trained=False)),)
    return [found[place] for place in range(len(records))]


def _contents(record: Record) -> tuple[str, ...]:
    match record:
        case ChatRecord():
            return tuple(message.content for message in record.messages)
        case TextRecord():
            return (record.text,)
        case RankedRecord() | LabelledRecord():
            return (*_texts(record.prompt), *record.responses)
        case TargetRecord():
            return _contents(record.asked)
        case PromptRecord():
            return (record.text or "", *_texts(record.messages or ()))


def _texts(messages: Iterable[Message]) -> Iterable[str]:
    return (message.content for message in messages)


def _trained_places(span: Span, token: int) -> list[int]:
    return [
        place
        for place, (ours, trained) in enumerate(zip(span.tokens, span.trained, strict=True))
        if trained and ours == token
    ]


def _cut(span: Span, length: int | None) -> Span:
    return span if length is None else Span(tokens=span.tokens[:length], trained=span.trained[:length])
