"""What can be said of a tokenizer and its template before any row is seen, found by rendering probes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from posttrain.errors import DataError
from posttrain.text.chat import Codec
from posttrain.text.diagnosis import Fact
from posttrain.text.tokenizer import Tokenizer
from posttrain.types import Message, PromptRecord

_QUESTION, _ANSWER = "question", "probe"


def template_facts(codec: Codec, *, embedding: int | None) -> Iterator[Fact]:
    """Whether conversations end, stop and begin as they should."""
    words, dress = codec.words, codec.dress
    if not words.tokenizer.chat_template:
        yield Fact(name="template", verdict="ok", what="the tokenizer has no template of its own")
    yield from _learnable(words, codec.end_of_turn, "end-of-turn", embedding)
    if not dress.written:
        what = f"the template ends no turn: {dress.ending} is put after answers, and generation stops on it"
        fix = "nothing to mend; a template that ends turns keeps conversations in one piece"
        yield Fact(name="end written", verdict="note", what=what, fix=fix)
    stops = " ".join(words.spelling(token) for token in sorted(codec.stop_ids) if token < words.size)
    yield Fact(name="stops", verdict="ok", what=f"generation stops on {stops}")
    ordinary = [repr(words.spelling(token)) for token in sorted(codec.stop_ids - words.controls) if token < words.size]
    if ordinary:
        what = f"generation also stops on {', '.join(ordinary)}: ordinary text, where answers would break off"
        fix = "correct eos_token_id in generation_config.json, or in config.json"
        yield Fact(name="ordinary stops", verdict="note", what=what, fix=fix)
    if words.tokenizer.pad_token_id == codec.end_of_turn:
        what = f"{dress.ending} also pads, which changes nothing: masks go by place"
        yield Fact(name="padding", verdict="ok", what=what)
    yield from _of_answers(codec)
    yield from _of_beginnings(codec)


def text_facts(codec: Codec, *, embedding: int | None) -> Iterator[Fact]:
    """Whether running text begins and ends as it should."""
    words = codec.words
    yield from _learnable(words, codec.eos, "end-of-text", embedding)
    begin = "nothing" if codec.bos is None else words.spelling(codec.bos)
    what = f"texts begin with {begin} · end-of-text {words.spelling(codec.eos)} is trained"
    yield Fact(name="text ends", verdict="ok", what=what)


def _learnable(words: Tokenizer, end: int, name: str, embedding: int | None) -> Iterator[Fact]:
    """A fact when an end could never be learnt: it is no token of its own, or the model has no row for it."""
    if end == words.unknown:
        what = f"the {name} token is not in the vocabulary: its id {end} is that of unknown text"
        fix = "set eos_token in tokenizer_config.json to a token that exists"
        yield Fact(name="end learnable", verdict="refuse", what=what, fix=fix)
    if embedding is not None and end >= embedding:
        what = f"{name} {words.spelling(end)} has id {end}, but the model's embedding has {embedding} rows"
        fix = "use the tokenizer that belongs to the model, or resize its embedding"
        yield Fact(name="end learnable", verdict="refuse", what=what, fix=fix)


def _of_answers(codec: Codec) -> Iterator[Fact]:
    """Whether the answer stands in what is trained, and what else does."""
    asked = PromptRecord(id="the chat template", messages=(Message(role="user", content=_QUESTION),))
    tokens = codec.answer(asked, _ANSWER)
    if _ANSWER not in codec.decode(tokens):
        what = "the template hides answers behind an end of turn: what is trained would not hold them"
        yield Fact(name="answers", verdict="refuse", what=what, fix="take another template (template: plain)")
    lead = codec.dress.lead.strip()
    if not lead:
        return
    head = any(token in codec.words.specials for token in codec.words.encode(lead))
    what = f"the template writes {lead!r} before answers that do not begin so; it is trained with them"
    fix = "nothing to mend where the model was made with it"
    if head:
        what = f"the template has no generation prompt: the model has to write {lead!r} itself before every answer"
        fix = "let the template write it where add_generation_prompt is true"
    yield Fact(name="lead", verdict="note", what=what, fix=fix)


def _of_beginnings(codec: Codec) -> Iterator[Fact]:
    """Whether conversations begin with the token that begins a text, and with one of it."""
    words = codec.words
    asked = PromptRecord(id="the chat template", messages=(Message(role="user", content=_QUESTION),))
    try:
        tokens = codec.prompt(asked).tokens
    except DataError:
        return
    twice = next((a for a, b in pairwise(tokens) if a == b and a in words.bounds), None)
    if twice is not None:
        what = f"conversations begin with {words.spelling(twice)} twice: the template and the tokenizer both write it"
        fix = "take bos_token out of the chat template, or let the tokenizer add none"
        yield Fact(name="doubled", verdict="refuse", what=what, fix=fix)
    elif codec.bos is not None and codec.bos not in tokens[:1]:
        what = (
            f"conversations do not begin with {words.spelling(codec.bos)}, although the tokenizer begins texts with it"
        )
        yield Fact(name="beginning", verdict="note", what=what, fix="write {{ bos_token }} first in the template")
    elif codec.bos is not None:
        yield Fact(name="beginning", verdict="ok", what=f"one {words.spelling(codec.bos)} at the beginning")
