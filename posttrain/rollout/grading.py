"""Answers to scores: several rewards as one, and what becomes of an answer that a reward failed on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.errors import Diverged
from posttrain.ops import ensemble
from posttrain.types import Completion, Grader, Grades, Scorer, Ungraded


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A reward in a sum: its name in the metrics, what scores, and what the score is multiplied with."""

    name: str
    scorer: Scorer
    weight: float


class Panel:
    """The weighted sum of several rewards. An answer that one of them fails on has no score.

    The parts of its grades are each reward's own scores, before its weight: `score/<name>`.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)

    def __call__(self, completions: Sequence[Completion]) -> Tensor:
        """Float [R]: the sums."""
        return self.grade(completions).total

    def grade(self, completions: Sequence[Completion]) -> Grades:
        """The sums with their parts."""
        total = torch.zeros(len(completions))
        parts: dict[str, Tensor] = {}
        failures: list[Ungraded] = []
        for part in self._parts:
            found = grades_of(part.scorer, completions, part.name)
            total = total + part.weight * found.total
            parts |= {f"score/{part.name}": found.total, **found.parts}
            failures += found.failures
        return Grades(total=total, parts=parts, failures=tuple(failures))


class Ensemble:
    """Several scorers of the same thing as one, by `combine` of their scores [M, R].

    How far they are apart is a part of its grades: `disagreement/<name>`.
    """

    def __init__(self, name: str, members: Mapping[str, Scorer], combine: Callable[[Tensor], Tensor]) -> None:
        self._name = name
        self._members = dict(members)
        self._combine = combine

    def __call__(self, completions: Sequence[Completion]) -> Tensor:
        """Float [R]: the combined scores."""
        return self.grade(completions).total

    def grade(self, completions: Sequence[Completion]) -> Grades:
        """The combined scores and the members' disagreement."""
        found = [grades_of(member, completions, name) for name, member in self._members.items()]
        scores = torch.stack([each.total for each in found])
        return Grades(
            total=self._combine(scores),
            parts={f"disagreement/{self._name}": ensemble.disagreement(scores)},
            failures=tuple(failure for each in found for failure in each.failures),
        )


def grades_of(scorer: Scorer, completions: Sequence[Completion], name: str = "") -> Grades:
    """The grades of answers in float32 on the CPU; NaN only where a failure says why.

    Raises ValueError for a wrong number of scores, and Diverged for one that is not finite and that nothing explains,
    which is a reward model's: it would score everything so.
    """
    graded = scorer.grade(completions) if isinstance(scorer, Grader) else Grades(total=scorer(completions))
    scores = graded.total.detach().float().cpu()
    if scores.shape != (len(completions),):
        raise ValueError(f"the reward gave {tuple(scores.shape)} scores for {len(completions)} answers")
    failed = {failure.row for failure in graded.failures}
    bad = [row for row in (~scores.isfinite()).nonzero().flatten().tolist() if row not in failed]
    if bad:
        what = f"the reward{f' {name}' if name else ''} of {len(bad)} answers is not finite"
        raise Diverged(
            f"{what}, first that for prompt {completions[bad[0]].prompt.id}"
            "\n  fix: look at the reward model, or at the function that scores"
        )
    parts = {key: values.detach().float().cpu() for key, values in graded.parts.items()}
    return Grades(total=scores, parts=parts, failures=graded.failures)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """An answer without a score, and why. It takes no part in anything that follows."""

    prompt: str
    sample: int
    answer: str
    reward: str
    reason: str

    def facts(self) -> dict[str, object]:
        """The same as plain values, for JSON."""
        names = {"prompt": self.prompt, "sample": self.sample, "reward": self.reward}
        return {**names, "error": self.reason, "answer": self.answer}


def failed(grades: Grades, completions: Sequence[Completion]) -> tuple[Failed, ...]:
    """The failures with the answers that they are of."""
    return tuple(
        Failed(
            prompt=completions[failure.row].prompt.id,
            sample=completions[failure.row].sample,
            answer=completions[failure.row].text,
            reward=failure.reward,
            reason=failure.reason,
        )
        for failure in grades.failures
    )


def graded(grades: Grades) -> list[int]:
    """The numbers of the answers that have a score."""
    lost = {failure.row for failure in grades.failures}
    return [row for row in range(len(grades.total)) if row not in lost]
