"""Stories as instructions: "Write a story with the words …" and the beginning of a story that has them.

A story is cut at a sentence end, so that a model learns to end: the last one within a number of tokens drawn for each
story. Lengths differ on purpose: where all are of one length, a reward model learns nothing about length, and what is
trained on it makes stories shrink or grow.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

from transformers import PreTrainedTokenizerBase

SHORTEST, LONGEST = 64, 160
"""Tokens between which the limit of a story is drawn."""
ASKED = 3
_SENTENCE_END = re.compile(r"[.!?][\"”’']?(?=\s|$)")
_WORD = re.compile(r"\b[a-z]{4,}\b")
"""Lower case only: names and the beginnings of sentences are not asked for."""
_FEWEST, _LARGEST_SHARE = 2, 0.1
_LONGEST_TOKEN = 8
"""Characters: what stands behind the last token of a cut need not be encoded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One row: what is asked, and the story that answers it."""

    id: str
    prompt: str
    response: str

    def row(self) -> dict[str, str]:
        """The row as it is written: a conversation for `sft`, a prompt with a reference for all others."""
        return {"id": self.id, "prompt": self.prompt, "response": self.response}


def cut_stories(stories: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Each story up to a sentence end, at most `LONGEST` tokens; empty where its first sentence is too long.

    Where depends on the story alone.
    """
    texts = [story.strip()[: LONGEST * _LONGEST_TOKEN] for story in stories]
    encoded = tokenizer(
        texts, add_special_tokens=False, truncation=True, max_length=LONGEST, return_offsets_mapping=True
    )
    offsets = cast("list[list[tuple[int, int]]]", encoded["offset_mapping"])
    limits = [random.Random(story).randint(SHORTEST, LONGEST) for story in stories]
    ends = [row[:limit][-1][1] if row else 0 for row, limit in zip(offsets, limits, strict=True)]
    return [_whole_sentences(text, end) for text, end in zip(texts, ends, strict=True)]


def _whole_sentences(text: str, end: int) -> str:
    """`text` up to its last sentence end within `end` characters."""
    ends = [found.end() for found in _SENTENCE_END.finditer(text) if found.end() <= end]
    return text[: ends[-1]] if ends else ""


def askable_words(stories: Sequence[str]) -> set[str]:
    """The words of at least two stories and at most a tenth of them: they say what a story is about."""
    counts = Counter(word for story in stories for word in set(_WORD.findall(story)))
    most = max(_FEWEST, _LARGEST_SHARE * len(stories))
    return {word for word, count in counts.items() if _FEWEST <= count <= most}


def make_instructions(name: str, stories: Sequence[str], askable: Collection[str]) -> list[Instruction]:
    """An instruction for each cut story that has three askable words; which three depends on the story alone."""
    found: list[Instruction] = []
    for number, story in enumerate(stories):
        choice = sorted(set(_WORD.findall(story)) & set(askable))
        if len(choice) < ASKED:
            continue
        first, second, third = random.Random(story).sample(choice, ASKED)
        prompt = f"Write a story with the words {first}, {second} and {third}."
        found.append(Instruction(id=f"{name}-{number}", prompt=prompt, response=story))
    return found
