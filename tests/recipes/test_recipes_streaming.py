"""An answer is told as it comes: nothing is told that the tokens after it could change, and all of it in the end."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from posttrain.recipes.streaming import Streaming

END = 256


def decode(tokens: Sequence[int]) -> str:
    """The text of single bytes, as a tokenizer of bytes decodes it."""
    return bytes(token for token in tokens if token != END).decode("utf-8", "replace")


def pieces(text: str, *, stop: Sequence[str] = (), ended: str | None = None) -> list[str]:
    """What is told of an answer of these bytes, one more at a time; at the end its text is `ended`."""
    codec: Any = SimpleNamespace(decode=decode, stop_ids=frozenset({END}))
    told: list[str] = []
    streaming = Streaming(codec, stop, told.append)
    tokens = [*text.encode(), END]
    for length in range(1, len(tokens) + 1):
        answer: Any = SimpleNamespace(tokens=tokens[:length])
        streaming.hear([answer])
    streaming.end(text if ended is None else ended)
    return told


def test_every_character_is_told_when_it_is_there() -> None:
    assert pieces("abc") == ["a", "b", "c"]


def test_half_a_character_waits_for_its_other_half() -> None:
    assert pieces("né天!") == ["n", "é", "天", "!"]


def test_spaces_wait_for_what_follows_them() -> None:
    assert pieces("a  b \n") == ["a", "  b", " \n"]
    assert pieces("a  b \n", ended="a  b") == ["a", "  b"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("do END", ["d", "o", " "]),  # the text ends before it
        ("EN route", ["EN ", "r", "o", "u", "t", "e"]),
        ("EEND", ["E"]),
    ],
)
def test_the_beginning_of_a_stop_string_waits(text: str, told: list[str]) -> None:
    found = pieces(text, stop=("END",), ended=text.partition("END")[0])
    assert [piece.strip() for piece in found if piece.strip()] == [piece.strip() for piece in told if piece.strip()]
    assert "".join(found) == text.partition("END")[0]


def test_what_a_tokenizer_takes_back_is_told_anew() -> None:
    assert pieces("ab", ended="aB") == ["a", "b", "\naB"]


def test_the_next_answer_begins_at_its_own_beginning() -> None:
    codec: Any = SimpleNamespace(decode=decode, stop_ids=frozenset({END}))
    told: list[str] = []
    streaming = Streaming(codec, (), told.append)
    for text in ("same", "same"):
        answer: Any = SimpleNamespace(tokens=[*text.encode()])
        streaming.hear([answer])
        streaming.end(text)
    assert told == ["same", "same"]
