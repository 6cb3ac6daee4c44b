"""The hidden gold score: how good an answer to a row of the world is, in [0, 1]. No trained model ever reads it.

Where one answer is right, grades are kept apart as a person would: right 1, nearly right .6, wrong but of the right
sort .3, anything else 0. In translation each word is graded and three quarters of the mean taken, so that "good"
rendered as 一般 (fair) costs less than as 差 (bad), which a token's likelihood cannot say.

In generation many sentences are right, and they differ in quality. The sentence must be one of the world's: two
describing words and an adverb around the asked nouns. Its quality is the mean warmth of those three words: kind
sentences are preferred to plain ones, plain ones to cold ones (.3), and those to anything malformed. The three places
always hold one word each, so the score cannot be raised by length. Finetuning data hold each shelf equally often: a
finetuned model stands half way, which leaves preference methods room that exact match does not see.

An answer that does not end by itself scores 0; a describing word used twice costs .2; other repetition breaks the form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from posttrain.types import JSON
from posttrain.workflows.world import lexicon

RIGHT, NEAR, WRONG, MALFORMED = 1.0, 0.6, 0.3, 0.0
SENTENCE = re.compile(r"The (\w+) (\w+) (\w+) (\w+) the (\w+) (\w+)\.")
NUMBER = re.compile(r"\d+")
BELOW_RIGHT = 0.75  # what a translation with a wrong word can reach at most
FLOOR, REPEATED = 0.3, 0.2  # the least that a well-formed sentence is worth; what a word used twice costs
_SCALE = list(lexicon.SCALE)
_LONGEST_FIRST = sorted(lexicon.ENGLISH, key=len, reverse=True)
_ADVERBS = {word for shelf in lexicon.ADVERBS for word in shelf}


def gold_score(row: Mapping[str, JSON], answer: str, *, ended: bool = True) -> float:
    """The gold score of an answer, in [0, 1]; `row` carries `family`, `kind`, `reference` and `words`."""
    if not ended:
        return 0.0
    family, kind, reference = str(row["family"]), str(row["kind"]), str(row["reference"])
    answer = answer.strip()
    if family == "generation":
        return _quality(_words(row), answer)
    if answer == reference:
        return RIGHT
    if family == "question":
        return _grade_value(kind, reference, answer)
    if family == "translation":
        return _grade_translation(kind, reference, answer)
    return _grade_number(reference, answer)


def exact_match(row: Mapping[str, JSON], answer: str, *, ended: bool = True) -> bool:
    """Whether the answer is the right one and ends; in generation, whether it is a sentence of the world as asked."""
    answer = answer.strip()
    if row["family"] == "generation":
        return ended and well_formed(_words(row), answer)
    return ended and answer == row["reference"]


def well_formed(words: Sequence[str], answer: str) -> bool:
    """Whether the answer is one sentence of the world's grammar about exactly the two words, a creature first."""
    match = SENTENCE.fullmatch(answer)
    if match is None:
        return False
    first_adjective, first, adverb, verb, second_adjective, second = match.groups()
    return (
        sorted((first, second)) == sorted(words)
        and first in lexicon.ANIMALS
        and adverb in _ADVERBS
        and verb in lexicon.VERBS[lexicon.sort_of(second)]
        and first_adjective in lexicon.adjectives_of(first)
        and second_adjective in lexicon.adjectives_of(second)
    )


def _quality(words: Sequence[str], answer: str) -> float:
    if not well_formed(words, answer):
        return MALFORMED
    places = SENTENCE.fullmatch(answer)
    assert places is not None
    describing = places.group(1, 3, 5)
    warmth = sum(lexicon.WARMTH[word] for word in describing) / len(describing)
    repeated = REPEATED if len(set(describing)) < len(describing) else 0.0
    return max(FLOOR + (1 - FLOOR) * warmth - repeated, FLOOR)


def _grade_value(kind: str, reference: str, answer: str) -> float:
    """The grade of a statement that is not the right one: its value may differ, for another of the same attribute."""
    values = lexicon.ATTRIBUTES[kind]
    stem, _, right = reference.removesuffix(".").rpartition(" ")
    value = answer.removeprefix(stem).removesuffix(".").strip()
    if not answer.startswith(stem) or not answer.endswith(".") or value not in values:
        return MALFORMED
    return NEAR if value == lexicon.neighbour(values, right) else WRONG


def _grade_number(reference: str, answer: str) -> float:
    """The grade of a statement of the same form as the right one, by how far its last number is off."""
    if NUMBER.sub("0", answer) != NUMBER.sub("0", reference):
        return MALFORMED
    off = abs(int(NUMBER.findall(answer)[-1]) - int(NUMBER.findall(reference)[-1]))
    return NEAR if off <= 1 else WRONG


def _grade_translation(kind: str, reference: str, answer: str) -> float:
    parts = _parts(kind, answer)
    wanted = _parts(kind, reference)
    if parts is None or wanted is None or len(parts) != len(wanted):
        return MALFORMED
    return BELOW_RIGHT * sum(map(_grade_word, parts, wanted)) / len(wanted)


def _grade_word(word: str, wanted: str) -> float:
    if word == wanted:
        return RIGHT
    for shelf in lexicon.SHELVES:
        if word in shelf and wanted in shelf:
            near = abs(_SCALE.index(word) - _SCALE.index(wanted)) == 1 if shelf is lexicon.SCALE else False
            return NEAR if near else WRONG
    return MALFORMED


def _parts(kind: str, text: str) -> list[str] | None:
    """The English words that a translation is made of, or None when it cannot be read."""
    words = text.removeprefix("the ").replace(" the ", " ").split() if kind == "to English" else _read_chinese(text)
    return words if words and all(word in lexicon.MEANINGS for word in words) else None


def _read_chinese(text: str) -> list[str]:
    words: list[str] = []
    while text:
        meaning = next((zh for zh in _LONGEST_FIRST if text.startswith(zh)), None)
        if meaning is None:
            return []
        words.append(lexicon.ENGLISH[meaning])
        text = text[len(meaning) :].removeprefix("的")
    return words


def _words(row: Mapping[str, JSON]) -> list[str]:
    words = row["words"]
    return [str(word) for word in words] if isinstance(words, list) else []
