"""Any conversation under any family of templates: exactly its answers are trained, and they say what was said."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from text_families import FAMILIES
from text_tokenizers import codec_of, gpt2, marked

from posttrain.errors import DataError
from posttrain.text.chat import Codec
from posttrain.text.masks import LossOn, trained_turns
from posttrain.text.pieces import pieces
from posttrain.types import ChatRecord, Message, PromptRecord, Role, Span, TextRecord

TEMPLATES = {**{name: family.make for name, family in FAMILIES.items()}, "built-in plain": gpt2}
TRIMS = {name for name, family in FAMILIES.items() if family.trims}
FEW = settings(max_examples=30, deadline=None, derandomize=True)

# whole words of several scripts, combining and invisible characters, and whitespace of all kinds; and anything at all
SCRIPTS = [
    "Hello",
    "fine.",
    "我们",
    "שלום",
    "مرحبا",
    "🙂",
    "👩\u200d👩\u200d👧",
    "e\u0301",
    "naïve",
    "don't",
    "assistant",
]
SIGNS = ["\u200b", "\u202e", "  ", "\n", "\t", " ", "[", "<"]
WORDS = st.sampled_from([*SCRIPTS, *SIGNS])
ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
CONTENTS = st.one_of(st.lists(WORDS, min_size=1, max_size=8).map("".join), ANY).filter(lambda text: bool(text.strip()))
ROLES = st.one_of(
    st.integers(0, 2).map(lambda turns: ["assistant", "user"] * turns),
    st.lists(st.sampled_from(["user", "assistant"]), max_size=4),
)


@cache
def codec_for(name: str) -> Codec:
    return codec_of(TEMPLATES[name](), Path(mkdtemp()))


@st.composite
def conversations(draw: st.DrawFn) -> ChatRecord:
    """Turns in any order after a question, with or without a system text, that end with an answer."""
    system: list[Role] = ["system"] if draw(st.booleans()) else []
    middle: list[Role] = draw(ROLES)
    roles: list[Role] = [*system, "user", *middle, "assistant"]
    return ChatRecord(id="row:1", messages=tuple(Message(role=role, content=draw(CONTENTS)) for role in roles))


def answers_in(span: Span, end: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every trained stretch up to an end of turn, each after all tokens before it."""
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    start = 0
    for place, (token, trained) in enumerate(zip(span.tokens, span.trained, strict=True)):
        if not trained:
            start = place + 1
        elif token == end:
            found.append((span.tokens[:start], span.tokens[start : place + 1]))
            start = place + 1
    return found


def as_written(name: str, said: str) -> set[str]:
    """What a family's template may make of a text: nothing, or it takes off spaces or the line ends at its start."""
    return {said, said.strip() if name in TRIMS else said.lstrip("\n")}


@pytest.mark.parametrize("name", TEMPLATES)
@given(record=conversations(), loss_on=st.sampled_from(["assistant", "completion"]))
@FEW
def test_exactly_the_answers_that_generation_would_give_are_trained(
    name: str, record: ChatRecord, loss_on: LossOn
) -> None:
    codec = codec_for(name)
    try:
        spans = codec.conversation(record, loss_on=loss_on)
    except DataError:
        reject()  # the template refuses this order of roles, which is its right
    expected: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for index in trained_turns(record, loss_on):
        asked = PromptRecord(id="p", messages=record.messages[:index])
        prompt, said = codec.prompt(asked), record.messages[index].content
        answer = codec.answer(asked, said)
        assert answer.count(codec.end_of_turn) == 1
        assert answer[-1] == codec.end_of_turn
        assert codec.decode(answer, prompt) in as_written(name, said)
        expected.append((prompt.tokens, answer))
    assert [found for span in spans for found in answers_in(span, codec.end_of_turn)] == expected
    assert sum(sum(span.trained) for span in spans) == sum(len(answer) for _, answer in expected)
    assert codec.losses.breaks == 0


@pytest.mark.parametrize("name", TEMPLATES)
@given(text=CONTENTS)
@FEW
def test_running_text_decodes_to_itself_between_one_beginning_and_one_end(name: str, text: str) -> None:
    codec = codec_for(name)
    span = codec.text(TextRecord(id="t", text=text))
    body = span.tokens[:-1] if codec.bos is None else span.tokens[1:-1]
    assert span.tokens[-1] == codec.eos
    assert codec.eos not in body
    assert codec.words.decode_after(body).removeprefix(" ") == text.removeprefix(" ")


@pytest.mark.parametrize("name", TEMPLATES)
@given(record=conversations())
@FEW
def test_what_is_shown_of_a_conversation_is_all_of_it(name: str, record: ChatRecord) -> None:
    codec = codec_for(name)
    try:
        spans = codec.conversation(record)
    except DataError:
        reject()
    for span in spans:
        shown = list(pieces(codec.words, span))
        assert tuple(token for piece in shown for token in piece.tokens) == span.tokens
        assert tuple(piece.trained for piece in shown for _ in piece.tokens) == span.trained
        whole = codec.words.decode_after(span.tokens, keep_special=True)
        assert "".join(piece.text for piece in shown) == whole == marked(codec, span).replace("⟦", "").replace("⟧", "")
