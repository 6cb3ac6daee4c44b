"""Python files of reward functions: their names and parameters, and calls that fail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from posttrain.config import Functions, RewardItem
from posttrain.recipes.functions import Arguments, FunctionScorer, check_columns, functions_in
from posttrain.types import Completion, Prompt, PromptRecord

from .doors import Kind, Told, law
from .mutators import Files

FILE = "rewards.py"
NAMES = ("short", "keyed", "everything", "later", "Scored", "number", "odd")
_SOURCE = b'''"""Rewards."""


def short(prompt, response):
    return -len(response)


def keyed(response, *, reference="4", stopped, tokens):
    return 1.0 if response == reference else len(tokens)


def everything(question, answer, /, **columns):
    return columns.get("level", 0)


async def later(prompt, response, messages=()):
    return len(messages)


class Scored:
    def __init__(self, prompt, response):
        self.value = 1

    def __float__(self):
        return float(self.value)


number = 5


def odd(prompt, response, *more):
    return {"a": None, "b": float("nan")}.get(prompt[:1], response)
'''


@cache
def seeds() -> Sequence[Files]:
    """A file with functions of every form."""
    return [{FILE: _SOURCE}]


def door(folder: Path, told: Told) -> bool:
    """Every function is looked up, looked at, and called; a call that fails is a failure of that answer alone."""
    record = PromptRecord(id="row 1", text="2+2?", columns={"reference": "4", "level": 1, "text": "x"})
    asked = Prompt(id="row 1", tokens=(1, 2), record=record)
    answers = [
        Completion(prompt=asked, sample=number, tokens=(3,), text=text, logprobs=(-1.0,), stopped=True)
        for number, text in enumerate(("4", "", "5"))
    ]
    used = False
    for name in NAMES:
        spec = f"{FILE}:{name}"
        loaded = told.attempt(lambda spec=spec: functions_in([RewardItem(reward=spec)]))
        if not loaded:
            continue
        told.attempt(lambda loaded=loaded, spec=spec: Arguments.of(loaded[spec], spec))
        if told.attempt(lambda loaded=loaded: (check_columns(loaded, [record]), True)) is None:
            continue
        scorer = FunctionScorer(spec, loaded[spec], Functions(timeout=None))
        grades = scorer.grade(answers)
        failed = {each.row for each in grades.failures}
        law(len(grades.total) == len(answers), "an answer is lost")
        law(
            all((row in failed) != math.isfinite(score) for row, score in enumerate(grades.total.tolist())),
            "a score is none",
        )
        used = True
    return used


REWARDS = Kind(name="rewards", seeds=seeds, door=door, share=0.6)
