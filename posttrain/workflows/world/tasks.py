"""What can be asked in the world: every combination of every family, with its right answer where there is one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from posttrain.workflows.world import lexicon
from posttrain.workflows.world.templates import FACT, LANGUAGES, Family

Facts = Mapping[tuple[str, str], str]
LARGEST = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One combination, before it is worded. `key` names it; `fields` fill a template; `reference` is the right answer.

    `reference` is empty in generation, where many answers are right; `words` are those that the sentence must hold.
    `kind` says what sort of answer is looked for: an attribute, a direction of translation, or an operation.
    """

    family: Family
    kind: str
    key: str
    fields: Mapping[str, str]
    reference: str = ""
    words: tuple[str, ...] = ()


def make_facts(seed: int) -> Facts:
    """Five facts for each person, (name, attribute) to value; the values of an attribute are used about equally."""
    draw = random.Random(f"facts {seed}")
    facts: dict[tuple[str, str], str] = {}
    for attribute, values in lexicon.ATTRIBUTES.items():
        pool = list(itertools.islice(itertools.cycle(values), len(lexicon.NAMES)))
        draw.shuffle(pool)
        facts |= {(name, attribute): value for name, value in zip(lexicon.NAMES, pool, strict=True)}
    return facts


def questions(facts: Facts) -> Iterator[Task]:
    """One task for each fact."""
    for (name, attribute), value in facts.items():
        yield Task(
            family="question",
            kind=attribute,
            key=f"{name} {attribute}",
            fields={"name": name, "attribute": attribute},
            reference=state(name, attribute, value),
        )


def state(name: str, attribute: str, value: str) -> str:
    """The fact as a sentence, as the plain text has it and as questions are answered."""
    return FACT.format(name=name, attribute=attribute, article=lexicon.ARTICLES[attribute], value=value)


def phrases() -> Iterator[tuple[str, str]]:
    """Every English phrase that is translated, with its Chinese: describing words with nouns, and small clauses."""
    nouns = lexicon.ANIMALS | lexicon.JOBS | lexicon.PLACES | lexicon.FOODS | lexicon.THINGS
    chinese = {
        word: meaning
        for words in (*lexicon.CREATURE_ADJECTIVES, *lexicon.OBJECT_ADJECTIVES)
        for word, meaning in words.items()
    }
    for noun, meaning in nouns.items():
        fitting = {word: chinese[word] for word in lexicon.adjectives_of(noun)}
        for adjective, described in (fitting | lexicon.SCALE | lexicon.COLOURS).items():
            yield f"{adjective} {noun}", f"{described}的{meaning}"
    for (subject, doer), (noun, meaning) in itertools.product(lexicon.ANIMALS.items(), nouns.items()):
        if subject != noun:
            for verb, done in lexicon.VERBS[lexicon.sort_of(noun)].items():
                yield f"the {subject} {verb} the {noun}", f"{doer}{done}{meaning}"


def translations() -> Iterator[Task]:
    """Two tasks for each phrase, one a direction; a clause and its opposite direction are different combinations."""
    for english, chinese in phrases():
        for language, phrase, reference in (("Chinese", english, chinese), ("English", chinese, english)):
            yield Task(
                family="translation",
                kind=f"to {language}",
                key=f"{language}: {phrase}",
                fields={"phrase": phrase, "language": language, "语言": LANGUAGES[language]},
                reference=reference,
            )


def problems() -> Iterator[tuple[str, str, str]]:
    """(kind, problem, its solved statement): sums, differences, comparisons, and sums of three in two steps."""
    numbers = range(LARGEST + 1)
    for a, b in itertools.product(numbers, numbers):
        yield "add", f"{a} + {b}", f"{a} + {b} = {a + b}."
        yield "subtract", f"{a + b} - {b}", f"{a + b} - {b} = {a}."
        if a != b:
            yield "larger", f"the larger of {a} and {b}", f"the larger of {a} and {b} is {max(a, b)}."
            yield "smaller", f"the smaller of {a} and {b}", f"the smaller of {a} and {b} is {min(a, b)}."
    for a, b, c in itertools.product(range(1, 6), repeat=3):
        yield "two steps", f"{a} + {b} + {c}", f"{a} + {b} = {a + b}, {a + b} + {c} = {a + b + c}."


def reasoning() -> Iterator[Task]:
    """One task for each problem."""
    for kind, problem, answer in problems():
        yield Task(family="reasoning", kind=kind, key=problem, fields={"problem": problem}, reference=answer)


def generation() -> Iterator[Task]:
    """One task for each creature with each other noun, in that order."""
    nouns = lexicon.ANIMALS | lexicon.PLACES | lexicon.THINGS
    for first, second in itertools.product(lexicon.ANIMALS, nouns):
        if first != second:
            yield Task(
                family="generation",
                kind=lexicon.sort_of(second),
                key=f"{first} {second}",
                fields={"first": first, "second": second},
                words=(first, second),
            )


def write_sentence(first: str, second: str, draw: random.Random) -> str:
    """A sentence with both nouns; its two adjectives and its adverb are each warm, plain or cold by chance."""
    return (
        f"The {draw.choice(lexicon.adjectives_of(first))} {first} {_adverb(draw)} "
        f"{draw.choice(list(lexicon.VERBS[lexicon.sort_of(second)]))} "
        f"the {draw.choice(lexicon.adjectives_of(second))} {second}."
    )


def _adverb(draw: random.Random) -> str:
    return draw.choice([word for shelf in lexicon.ADVERBS for word in shelf])
