"""How the world is worded: the instruction templates of each family, and the sentences of the plain text.

The last template of a family is never used in finetuning. No wording of the plain text is one of an instruction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

Family: TypeAlias = Literal["question", "translation", "generation", "reasoning"]
FAMILIES: tuple[Family, ...] = get_args(Family)
ONE_ANSWER: tuple[Family, ...] = ("question", "translation", "reasoning")
"""The families in which each prompt has one right answer."""

TEMPLATES: Mapping[Family, Sequence[str]] = MappingProxyType(
    {
        "question": (
            "What is the {attribute} of {name}?",
            "Tell me the {attribute} of {name}.",
            "Please give the {attribute} of {name}.",
            "Do you know the {attribute} of {name}?",
            "Name the {attribute} of {name}.",
            "I want to know the {attribute} of {name}.",
            "{name}: which {attribute}?",
            "Say what the {attribute} of {name} is.",
            "Answer this question: what is the {attribute} of {name}?",
            "Can you tell me which {attribute} {name} has?",
        ),
        "translation": (
            "Translate into {language}: {phrase}",
            "How do you say this in {language}: {phrase}",
            "Put this into {language}: {phrase}",
            "Please translate to {language}: {phrase}",
            "{phrase} - say it in {language}.",
            "Write in {language}: {phrase}",
            "What is {phrase} in {language}?",
            "翻译成{语言}: {phrase}",
            "用{语言}怎么说: {phrase}",
            "Give the {language} words for: {phrase}",
        ),
        "generation": (
            "Write a sentence with the words {first} and {second}.",
            "Make a sentence with {first} and {second}.",
            "Use {first} and {second} in one sentence.",
            "Tell a short story with {first} and {second}.",
            "Please write about {first} and {second}.",
            "Write one line that has {first} and {second} in it.",
            "Words: {first}, {second}. Write a sentence.",
            "Can you write a sentence about {first} and {second}?",
            "Say something with {first} and {second}.",
            "I want to read a sentence with {first} and {second}.",
        ),
        "reasoning": (
            "What is {problem}?",
            "Work out {problem}.",
            "Find {problem}.",
            "Please work out {problem}.",
            "{problem} = ?",
            "Solve this: {problem}",
            "Can you find {problem}?",
            "Give the answer to {problem}.",
            "Think and answer: {problem}",
            "Tell me what {problem} is.",
        ),
    }
)
LANGUAGES = MappingProxyType({"English": "英语", "Chinese": "中文"})

# Plain text. A fact stands in the first wording for every attribute, and in the others by attribute.
FACT = "The {attribute} of {name} is {article}{value}."
FACTS_BY_ATTRIBUTE: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "colour": ("{name} likes the colour {value}.", "The coat of {name} is {value}."),
        "home": ("{name} lives near the {value}.", "Every day {name} walks home to the {value}."),
        "food": ("{name} eats {value} every day.", "For lunch {name} has {value}."),
        "job": ("{name} works as a {value}.", "People know {name} as a good {value}."),
        "pet": ("{name} has a {value} at home.", "{name} plays with a {value}."),
    }
)
FACT_DIALOGUES = (
    "Who knows the {attribute} of {name}? The {attribute} of {name} is {article}{value}.",
    "Is the {attribute} of {name} known? Yes, the {attribute} of {name} is {article}{value}.",
    "Listen to {name}: my {attribute} is {article}{value}.",
)
TRANSLATIONS = (
    "In Chinese, {english} is {chinese}.",
    "In English, {chinese} is {english}.",
    "{english} means {chinese}.",
    "{chinese} means {english}.",
)
STORY_OPENINGS = (
    "A line about {first} and {second}.",
    "Once upon a time there were {first} and {second}.",
    "Let us look at {first} and {second}.",
    "This is about the {first} and the {second}.",
)
