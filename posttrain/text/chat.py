"""Conversations, texts, rankings and prompts as tokens, and which of them are trained.

A conversation is rendered once, and its trained spans are found by rendering what generation would see before each
answer; templates need no `{% generation %}` markers. Where the two disagree, because a template rewrites history or a
token spans the border, the conversation becomes one span for each trained turn.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import cast

from transformers import PreTrainedTokenizerBase

from posttrain.text.masks import LossOn, all_but_first, joined, shared, trained_turns, trimmed
from posttrain.text.templates import FROZEN_DATE, Dress, Template, choose_template, dress, freeze_dates
from posttrain.text.tokenizer import Tokenizer, load_tokenizer, stop_ids_of
from posttrain.types import (
    JSON,
    Answered,
    ChatRecord,
    Message,
    PrefixGroup,
    Prompt,
    PromptRecord,
    Span,
    TextRecord,
)

_CHUNK = 1024


@dataclass(slots=True)
class Losses:
    """What the way to tokens and back changed. `breaks`: answers whose tokens decode to another text than was given.

    `rewritten`: conversations whose rendering does not begin with what generation would see. `expanded`: those of them
    that became one span for each of several trained turns.
    """

    breaks: int = 0
    rewritten: int = 0
    expanded: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """An answer in place: `prompt` is what generation would see before it, `full` the rendering that ends with it."""

    index: int
    prompt: str
    full: str


@dataclass(frozen=True, kw_only=True)
class Codec:
    """Messages to tokens and back, for one tokenizer and one chat template.

    `stop_ids` are what ends an answer: the template's end of turn and the model's own end ids. The spelling of a
    control token inside a message becomes that token, as it would when the model is served: an answer that holds the
    end of turn is trained up to it, and counted in `losses.breaks`.
    """

    template: Template
    stop_ids: frozenset[int]
    losses: Losses = field(default_factory=Losses)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop_ids", self.stop_ids | {self.end_of_turn})

    @staticmethod
    def load(
        path: str | Path,
        *,
        template: str | None = None,
        eos_ids: Iterable[int] | None = None,
        template_kwargs: Mapping[str, JSON] | None = None,
        date: datetime.date = FROZEN_DATE,
        add: Sequence[str] = (),
    ) -> Codec:
        """The codec of a model folder or hub id; `add` are special tokens that its vocabulary gets.

        `template` is None for the tokenizer's own (the built-in plain one where it has none), `plain`, `notes`, or the
        path of a jinja file. `eos_ids` are the model's own end ids, read from its generation settings when None. Dates
        in the template are fixed at `date`. Raises ModelError when there is no tokenizer or no end of turn.
        """
        words = load_tokenizer(path, add=add)
        source, jinja = choose_template(words, template)
        options = dict(template_kwargs or {})
        return Codec(
            template=Template(words=words, jinja=freeze_dates(jinja, date), source=source, options=options),
            stop_ids=stop_ids_of(path) | words.ends if eos_ids is None else frozenset(eos_ids),
        )

    @property
    def words(self) -> Tokenizer:
        """The tokenizer, as this package uses it."""
        return self.template.words

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the `transformers` library."""
        return self.template.words.tokenizer

    @property
    def template_source(self) -> str:
        """`tokenizer`, `built-in plain`, `built-in notes`, or the path of a template file."""
        return self.template.source

    @property
    def bos(self) -> int | None:
        """The id that begins a text, or None when the tokenizer adds none."""
        return self.words.bos

    @property
    def eos(self) -> int:
        """The id that ends a running text."""
        return self.words.eos

    @property
    def end_of_turn(self) -> int:
        """The id that ends an assistant turn; it is trained, and the sampler stops on it."""
        return self.dress.end

    @property
    def vocab_size(self) -> int:
        """The number of ids of the tokenizer; a model's embedding may have more rows."""
        return self.words.size

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits that change with whatever the tokens of a text depend on: vocabulary, rules, template."""
        special = self.tokenizer.special_tokens_map
        parts = [self.words.content, self.template.jinja, dict(self.template.options), special]
        ids = [self.bos, self.end_of_turn, sorted(self.words.ends)]
        return sha256(json.dumps([*parts, ids], sort_keys=True, default=str).encode()).hexdigest()

    def save(self, folder: str | Path, *, pad: int | None = None) -> None:
        """Writes the tokenizer and `chat_template.jinja`; `apply_chat_template` renders the same from there.

        The written tokenizer pads with `pad` where it is given, which a sequence classifier needs.
        """
        before = self.tokenizer.chat_template
        own_pad = cast("str | None", self.tokenizer.pad_token)
        try:
            self.tokenizer.chat_template = self.template.jinja
            if pad is not None:
                self.tokenizer.pad_token = self.words.spelling(pad)
            self.tokenizer.save_pretrained(folder)
        finally:
            self.tokenizer.chat_template, self.tokenizer.pad_token = before, own_pad

    # --- records to tokens ------------------------------------------------------------------------------------

    def prompt(self, record: PromptRecord) -> Prompt:
        """`record` as the sampler sees it: the generation prompt of a conversation, or BOS and a text to continue."""
        return self.prompts([record])[0]

    def prompts(self, records: Sequence[PromptRecord]) -> list[Prompt]:
        """`prompt` for many records, encoded together."""
        texts = [self.prompt_text(record) for record in records]
        encoded = self.words.encode_all(texts)
        return [
            Prompt(id=record.id, tokens=(*(self._bos() if record.messages is None else ()), *ids), record=record)
            for record, ids in zip(records, encoded, strict=True)
        ]

    def prompt_text(self, record: PromptRecord) -> str:
        """The text that generation continues: the rendered conversation, or the record's own text."""
        if record.messages is None:
            return record.text or ""
        return self.template.render(record.messages, place=record.id, generation=not record.whole)

    def text(self, record: TextRecord) -> Span:
        """BOS, the text, and the end of text; every token is trained but the first, which nothing predicts."""
        return self.texts([record])[0]

    def texts(self, records: Sequence[TextRecord]) -> list[Span]:
        """`text` for many records, encoded together."""
        encoded = self.words.encode_all([record.text for record in records])
        return [all_but_first((*self._bos(), *ids, self.eos)) for ids in encoded]

    def conversation(self, record: ChatRecord, *, loss_on: LossOn = "assistant") -> tuple[Span, ...]:
        """A conversation as one span, or as one span for each trained turn where its prefix differs from generation's.

        `loss_on`: `assistant` trains every assistant turn, `completion` the last one, `all` every token but the first;
        a message's own `train` overrides it. The end-of-turn token of a trained turn is trained. Tokens after the last
        trained one are left out. A conversation that trains nothing comes back whole, untrained.
        """
        return self.conversations([record], loss_on=loss_on)[0]

    def conversations(self, records: Sequence[ChatRecord], *, loss_on: LossOn = "assistant") -> list[tuple[Span, ...]]:
        """`conversation` for many records, encoded together."""
        spans: list[tuple[Span, ...]] = []
        for start in range(0, len(records), _CHUNK):
            chunk = records[start : start + _CHUNK]
            wholes = [self.template.render(record.messages, place=record.id) for record in chunk]
            turns = [self._turns(record, whole, loss_on) for record, whole in zip(chunk, wholes, strict=True)]
            pieces = [text for row in turns for turn in row for text in (turn.prompt, turn.full)]
            ids = self._encode_once([*wholes, *pieces])
            for record, whole, row in zip(chunk, wholes, turns, strict=True):
                spans.append(self._assemble(record, whole, row, loss_on, ids))
        return spans

    def ranked(self, record: Answered) -> PrefixGroup:
        """The prompt as an untrained root, and each response as a fully trained branch, its end of turn included.

        A response that did not end by itself (`stopped`) has no end of turn.
        """
        return self.rankings([record])[0]

    def rankings(self, records: Sequence[Answered]) -> list[PrefixGroup]:
        """`ranked` for many records, encoded together."""
        groups: list[PrefixGroup] = []
        for start in range(0, len(records), _CHUNK):
            chunk = records[start : start + _CHUNK]
            prompts = [self.template.render(record.prompt, place=record.id, generation=True) for record in chunk]
            fulls = [
                [self.template.answered(record.prompt, text, place=record.id) for text in record.responses]
                for record in chunk
            ]
            ids = self._encode_once([*prompts, *(full for row in fulls for full in row)])
            for record, prompt, row in zip(chunk, prompts, fulls, strict=True):
                answers = [
                    self._answer_ids(prompt, full, text, ids) for full, text in zip(row, record.responses, strict=True)
                ]
                stopped = record.stopped or (True,) * len(answers)
                kept = [answer if ended else answer[:-1] for answer, ended in zip(answers, stopped, strict=True)]
                branches = (Span.all(answer, trained=True) for answer in kept)
                root = Span.all(ids[prompt], trained=False)
                groups.append(PrefixGroup(id=record.id, root=root, branches=tuple(branches)))
        return groups

    def answer(self, record: PromptRecord, text: str, *, ended: bool = True) -> tuple[int, ...]:
        """The ids of `text` as the answer to `record`, with the end token when `ended`.

        They are the encoding of prompt and answer minus the prompt where that is a prefix, else that of the answer
        alone without a leading dummy space. A prompt of running text is ended by the end of text.
        """
        prompt = self.prompt_text(record)
        if record.messages is None:
            body = self._continue(prompt, text, self._encode_once([prompt, prompt + text]))
            return (*body, self.eos) if ended else body
        full = self.template.answered(record.messages, text, place=record.id)
        tokens = self._answer_ids(prompt, full, text, self._encode_once([prompt, full]))
        return tokens if ended else tokens[:-1]

    def decode(self, tokens: Sequence[int], prompt: Prompt | None = None) -> str:
        """The text of an answer, special tokens dropped.

        After a conversation (or when `prompt` is None) what the template puts around an answer is dropped too, so that
        rendering the text again gives the tokens; after running text every space is kept.
        """
        text = self.words.decode_after(tokens)
        if prompt is not None and prompt.record.messages is None:
            return text
        text = text.removeprefix(self._decoded_lead)
        ended = bool(tokens) and tokens[-1] in self.stop_ids
        return text.removesuffix(self.dress.trail) if ended else text

    # --- inside -----------------------------------------------------------------------------------------------

    def _bos(self) -> tuple[int, ...]:
        return () if self.bos is None else (self.bos,)

    @cached_property
    def dress(self) -> Dress:
        """What the template puts around an answer."""
        return dress(self.template)

    @cached_property
    def _decoded_lead(self) -> str:
        """What stands before an answer once it is decoded; some tokenizers put a space of their own there."""
        question = PromptRecord(id="probe", messages=(Message(role="user", content="question"),))
        return self.words.decode_after(self.answer(question, "probe", ended=False)).rpartition("probe")[0]

    def _encode_once(self, texts: Sequence[str]) -> dict[str, list[int]]:
        unique = list(dict.fromkeys(texts))
        return dict(zip(unique, self.words.encode_all(unique), strict=True))

    def _turns(self, record: ChatRecord, whole: str, loss_on: LossOn) -> list[_Turn]:
        """The assistant turns that are trained; none under `all`, where the whole rendering is."""
        if loss_on == "all":
            return []
        messages = record.messages
        turns: list[_Turn] = []
        for index in trained_turns(record, loss_on):
            prompt = self.template.render(messages[:index], place=record.id, generation=True)
            ends = index + 1 == len(messages)
            full = whole if ends else self.template.render(messages[: index + 1], place=record.id)
            turns.append(_Turn(index=index, prompt=prompt, full=full))
        return turns

    def _assemble(
        self, record: ChatRecord, whole: str, turns: Sequence[_Turn], loss_on: LossOn, ids: Mapping[str, list[int]]
    ) -> tuple[Span, ...]:
        tokens = ids[whole]
        if loss_on == "all":
            return (self._overridden(record, all_but_first(tokens), loss_on),)
        spans: list[Span] = []
        trained = [False] * len(tokens)
        for turn in turns:
            prompt = ids[turn.prompt]
            answer = self._answer_ids(turn.prompt, turn.full, record.messages[turn.index].content, ids)
            end = len(prompt) + len(answer)
            spans.append(joined(prompt, answer))
            trained[len(prompt) : end] = [True] * len(answer)
        if turns and not self.dress.written and turns[-1].full == whole:  # the rendering lacks the last end of turn
            tokens = list(spans[-1].tokens)
        marked = Span(tokens=tuple(tokens), trained=tuple(trained[: len(tokens)]))
        if all(marked.tokens[: len(span.tokens)] == span.tokens for span in spans):
            return (trimmed(self._overridden(record, marked, loss_on)),)
        self.losses.rewritten += 1
        self.losses.expanded += len(spans) > 1
        users = self._overridden(record, Span.all(tokens, trained=False), loss_on)
        return (*spans, trimmed(users)) if any(users.trained) else tuple(spans)

    def _overridden(self, record: ChatRecord, span: Span, loss_on: LossOn) -> Span:
        """`span` with what messages say of `train` themselves: any of them under `all`, else those of users."""
        trained = list(span.trained)
        for index, message in enumerate(record.messages):
            if message.train is not None and (loss_on == "all" or (message.role != "assistant" and message.train)):
                start, end = self._region(record, index, span.tokens)
                trained[start:end] = [message.train] * (end - start)
        return replace(span, trained=(False, *trained[1:]) if trained else ())

    def _region(self, record: ChatRecord, index: int, tokens: Sequence[int]) -> tuple[int, int]:
        """Where the content of a message, with what ends it, stands in `tokens`: from its start to its end.

        It starts where the rendering changes with the content, and ends with the rendering of the messages up to it;
        where a template rewrites those as history grows, it ends where the next message's content starts.
        """
        start = self._start(record, index, tokens)
        prefix = self.words.encode(self.template.render(record.messages[: index + 1], place=record.id))
        end = shared(prefix, tokens)
        # Some templates close every rendering with one more token, which a longer rendering does not have.
        if end >= len(prefix) - 1:
            return start, end
        last = index + 1 == len(record.messages)
        return start, len(tokens) if last else self._start(record, index + 1, tokens)

    def _start(self, record: ChatRecord, index: int, tokens: Sequence[int]) -> int:
        message = record.messages[index]
        other = replace(message, content="y" if message.content.strip().startswith("x") else "x")
        changed = self.template.render((*record.messages[:index], other), place=record.id)
        return shared(self.words.encode(changed), tokens)

    def _answer_ids(self, prompt: str, full: str, content: str, ids: Mapping[str, list[int]]) -> tuple[int, ...]:
        """The ids of an answer with its end of turn; `full` is the rendering that ends with it."""
        end = self.dress.end
        if full.startswith(prompt):
            tail = full[len(prompt) :]
            body = self._body(prompt, full, tail, ids)
            if end in body:
                body = body[: body.index(end)]
                # Some tokenizers put a space of their own after a control token, in training and in sampling alike.
                decoded = self.words.decode_after(body, keep_special=True).lstrip(" ")
                self._count(decoded, tail.partition(self.dress.ending)[0].lstrip(" "), content)
                return (*body, end)
        text = self.dress.lead + content
        return (*self._continue(prompt, text, self._encode_once([prompt, prompt + text])), end)

    def _continue(self, prompt: str, text: str, ids: Mapping[str, list[int]]) -> tuple[int, ...]:
        body = self._body(prompt, prompt + text, text, ids)
        self._count(self.words.decode_after(body, keep_special=True), text, text)
        return tuple(body)

    def _body(self, prompt: str, full: str, tail: str, ids: Mapping[str, list[int]]) -> list[int]:
        start = ids[prompt]
        return ids[full][len(start) :] if ids[full][: len(start)] == start else self.words.encode_after(tail)

    def _count(self, decoded: str, text: str, content: str) -> None:
        self.losses.breaks += decoded != text or self.dress.ending in content
