"""When an answer ends, and what its text is."""

from __future__ import annotations

import random
from collections.abc import Sequence

from posttrain.rollout.answer import Stopping, answers_to
from posttrain.types import Prompt, PromptRecord, SamplingSpec

BYTES = Stopping(ids=frozenset(), strings=("né!", "ab"), decode=lambda tokens: bytes(tokens).decode(errors="replace"))


def prompt(name: str, length: int) -> Prompt:
    return Prompt(id=name, tokens=(5,) * length, record=PromptRecord(id=name, text=""))


def test_the_earliest_stop_string_cuts_the_text() -> None:
    assert BYTES.text_before("xxné! ab".encode()) == "xx"
    assert BYTES.text_before(b"xab") == "x"
    assert BYTES.text_before(b"xa b") is None


def test_a_stop_string_split_over_tokens_is_found_when_its_last_token_comes() -> None:
    text = "a long enough start, so that only the end is decoded né!".encode()
    found = [BYTES.text_before(text[:length]) is not None for length in range(1, len(text) + 1)]
    assert found == [False] * (len(text) - 1) + [True]


def test_looking_at_the_end_finds_what_a_search_of_the_whole_text_finds() -> None:
    chance = random.Random(0)
    for _ in range(50):
        tokens: list[int] = []
        while True:
            tokens.append(chance.choice(b"abcdefghij"))
            found = BYTES.text_before(tokens)
            assert (found is not None) == ("ab" in bytes(tokens).decode())
            if found is not None:
                break


def test_a_tokenizer_that_drops_the_first_space_hides_no_stop_string() -> None:
    words = ["one", "\u2581", "h", "i"]

    def decode(tokens: Sequence[int]) -> str:
        return "".join(words[token] for token in tokens).replace("\u2581", " ").removeprefix(" ")

    stopping = Stopping(ids=frozenset(), strings=(" hi",), decode=decode)
    assert stopping.text_before([0] * 20 + [1, 2, 3]) == "one" * 20


def test_room_is_the_smaller_of_the_limit_and_what_the_context_leaves() -> None:
    spec = SamplingSpec(max_new_tokens=6, samples=2)
    answers = answers_to([prompt("a", 3), prompt("b", 8)], spec, context=10)
    assert [(answer.prompt.id, answer.number, answer.sample, answer.room) for answer in answers] == [
        ("a", 0, 0, 6),
        ("a", 0, 1, 6),
        ("b", 1, 0, 2),
        ("b", 1, 1, 2),
    ]
