"""What an evaluation found of each prompt, put together and kept beside the run whose model was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from posttrain.config import EvalConfig
from posttrain.console import Console
from posttrain.errors import PosttrainError
from posttrain.measures.answered import Answered, facts_of, finite
from posttrain.measures.texts import worth_of_each
from posttrain.recipes.functions import asked
from posttrain.recipes.measuring import Questions
from posttrain.run.evaluations import keep_evaluation
from posttrain.types import Completion

# What stands by itself in what is kept, or says where a copy of it goes.
_APART = {"version", "model", "against", "judge", "data", "out"}
_TOO_LONG = ("predictions", "judge_failures")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The measures of an evaluation by name, and what it found of each prompt."""

    facts: dict[str, object]
    answered: Sequence[Answered] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """A model's answers to all prompts, and their scores: float [N], NaN for those that the judge failed on."""

    answers: Sequence[Completion]
    scores: Tensor


def answered(
    config: EvalConfig,
    ours: Sequence[Completion],
    questions: Questions,
    scores: Tensor | None = None,
    theirs: Graded | None = None,
) -> list[Answered]:
    """What is known of each prompt, in order."""
    compared = [ours[place].text for place in questions.places]
    worth = worth_of_each(config.measures, compared, questions.references, questions.rules)
    asked_at = {place: number for number, place in enumerate(questions.places)}
    rows: list[Answered] = []
    for place, answer in enumerate(ours):
        number = asked_at.get(place)
        other = None if theirs is None else theirs.answers[place]
        rows.append(
            Answered(
                prompt=asked(answer.prompt.record),
                answer=answer.text,
                stopped=answer.stopped,
                tokens=len(answer.tokens),
                score=None if scores is None else finite(float(scores[place])),
                against=None if other is None else other.text,
                against_stopped=None if other is None else other.stopped,
                against_score=None if theirs is None else finite(float(theirs.scores[place])),
                reference=None if number is None else questions.references[number][0],
                worth={} if number is None else {name: values[number] for name, values in worth.items()},
            )
        )
    return rows


def keep(config: EvalConfig, found: Found, console: Console) -> None:
    """Keeps what was found in the folder of the run that was measured, and says so; other models are left alone.

    What cannot be written there is said: an evaluation never fails for it.
    """
    settings = {name: value for name, value in config.model_dump(mode="json").items() if name not in _APART}
    identity: dict[str, object] = {
        "by": "eval",
        "against": config.against,
        "judges": [spec for item in config.judge or () for spec in item.specs],
        "data": [item.path for item in config.data],
        "settings": settings,
    }
    measures = {name: value for name, value in found.facts.items() if name not in _TOO_LONG}
    try:
        file = keep_evaluation(config.model, identity, {"measures": measures, **facts_of(found.answered)})
    except (OSError, PosttrainError) as error:
        console.say(f"what was found is not kept in {config.model}: {error}")
        return
    if file is not None:
        console.say(f"kept in {file}; posttrain report {config.model} shows it")
