"""Rewards that are Python functions: found, looked at, and called with what they ask for."""

from __future__ import annotations

import inspect
import math
import runpy
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from posttrain.config.automatic import share
from posttrain.config.rewards import SESSION, Function, Functions, RewardItem, is_function
from posttrain.counted import counted
from posttrain.errors import DataError, ModelError, Problem
from posttrain.recipes.calls import Failure, call_async, call_plain
from posttrain.recipes.setup import Telling
from posttrain.rollout.grading import Failed
from posttrain.types import Completion, Grades, PromptRecord, Ungraded

ASYNC_AT_ONCE = 16
"""Calls of an async function under way at a time, where nothing else is said."""
_LARGEST = torch.finfo(torch.float32).max
_ABOUT_ANSWER = ("messages", "tokens", "stopped")
Loaded: TypeAlias = Mapping[str, Function]


def functions_in(items: Sequence[RewardItem]) -> Loaded:
    """Every function among rewards, by `file.py:name`; each file is run once.

    The files are the user's own code and run as such. Raises ModelError for one that is not there, cannot be run, or
    asks for what there is not.
    """
    files: dict[str, Mapping[str, object]] = {}
    found: dict[str, Function] = {}
    for item in items:
        for spec in filter(is_function, item.specs):
            file = spec.rpartition(":")[0]
            if spec in item.functions:
                found[spec] = item.functions[spec]
                continue
            if file not in files:
                files[file] = _names_in(spec)
            found[spec] = _function(spec, files[file])
    for spec, function in found.items():
        Arguments.of(function, spec)
    return found


def _function(spec: str, names: Mapping[str, object]) -> Function:
    file, _, name = spec.rpartition(":")
    function = names.get(name)
    if function is None:
        raise ModelError(f"{file} has no function {name}\n  fix: define `def {name}(prompt, response): ...` there")
    if not callable(function):
        what = f"{spec} cannot be called with a prompt and a response: it is {function!r:.40}"
        raise ModelError(f"{what}\n  fix: define `def {name}(prompt, response): ...`")
    return function


def _names_in(spec: str) -> Mapping[str, object]:
    """What the user's file defines. Raises ModelError, with the line, when it cannot be run."""
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if file == SESSION:
        what = f"{name} was given as a Python function that stands in no file, and only Python can give it again"
        raise ModelError(f"{what}\n  fix: call posttrain from there, or write the function into a file")
    if not path.is_file():
        raise ModelError(
            f"{spec}: no such reward model, and no such file as {file}\n  fix: give a run of `posttrain reward`"
        )
    try:
        return runpy.run_path(str(path))
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        place = file if line is None else f"{file}:{line}"
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ModelError(f"{place}  cannot be run: {type(error).__name__}: {reason}\n  fix: mend the file") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Arguments:
    """What a function wants to be called with, by its signature.

    Parameters named `prompt` and `response` get these; where there is neither, the first two do (`in_order`). All
    others are by name: `messages`, `tokens`, `stopped`, or a column of the prompt's row. Those in `needed` have no
    default; with `everything` (`**columns`) all columns come along.
    """

    in_order: bool
    needed: tuple[str, ...]
    optional: tuple[str, ...]
    everything: bool

    @staticmethod
    def of(function: Function, spec: str) -> Arguments:
        """The arguments of a function. Raises ModelError when it cannot take a prompt and a response."""
        name = spec.rpartition(":")[2]
        fix = f"define `def {name}(prompt, response): ...`"
        try:
            parameters = list(inspect.signature(function).parameters.values())
        except (TypeError, ValueError) as error:
            raise ModelError(f"{spec}: its parameters cannot be read: {error}\n  fix: {fix}") from error
        named = any(each.name in ("prompt", "response") and each.kind != each.POSITIONAL_ONLY for each in parameters)
        if not named:
            try:
                inspect.signature(function).bind_partial("prompt", "response")
            except TypeError as error:
                what = f"{spec} cannot be called with a prompt and a response: {error}"
                raise ModelError(f"{what}\n  fix: {fix}") from error
            parameters = [each for each in parameters if each.kind == each.VAR_KEYWORD or each not in parameters[:2]]
        others = [each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        odd = [each.name for each in parameters if each.kind == each.POSITIONAL_ONLY and each.default is each.empty]
        if odd:
            what = f"{spec} takes {odd[0]} by its place alone, and what it is cannot be told"
            raise ModelError(f"{what}\n  fix: name the column, without the / behind it")
        return Arguments(
            in_order=not named,
            needed=tuple(each.name for each in others if each.default is each.empty),
            optional=tuple(each.name for each in others if each.default is not each.empty),
            everything=any(each.kind == each.VAR_KEYWORD for each in parameters),
        )

    def columns(self) -> tuple[str, ...]:
        """The columns that every prompt's row must have."""
        return tuple(name for name in self.needed if name not in ("prompt", "response", *_ABOUT_ANSWER))

    def bound(self, function: Function, done: Completion) -> Callable[[], Any]:
        """The call for an answer."""
        record = done.prompt.record
        texts = (asked(record), done.text)
        known: dict[str, object] = {
            **record.columns,
            "messages": [{"role": each.role, "content": each.content} for each in record.messages or ()],
            "tokens": list(done.tokens),
            "stopped": done.stopped,
        }
        if not self.in_order:
            known |= {"prompt": texts[0], "response": texts[1]}
        wanted = [*self.needed, *(name for name in self.optional if name in known)]
        given = {name: known[name] for name in wanted}
        if self.everything:
            given = {**record.columns, **given}
        return partial(function, *(texts if self.in_order else ()), **given)


class FunctionScorer:
    """A `Grader` by a Python function: a number for each answer, and a failure where there is none."""

    def __init__(self, spec: str, function: Function, calls: Functions) -> None:
        self._name = spec.rpartition(":")[2]
        self._function = function
        self._arguments = Arguments.of(function, spec)
        self._async = inspect.iscoroutinefunction(inspect.unwrap(function))
        self._calls = calls

    def __call__(self, completions: Sequence[Completion]) -> Tensor:
        """Float [R]: the scores, NaN where the function failed."""
        return self.grade(completions).total

    def grade(self, completions: Sequence[Completion]) -> Grades:
        """The scores, and why some answers have none."""
        calls = [self._arguments.bound(self._function, done) for done in completions]
        auto = ASYNC_AT_ONCE if self._async else 1
        at_once = auto if self._calls.at_once == "auto" else self._calls.at_once
        run = call_async if self._async else call_plain
        outcomes = [_number(outcome) for outcome in run(calls, at_once=at_once, timeout=self._calls.timeout)]
        return Grades(
            total=torch.tensor([math.nan if isinstance(each, Failure) else each for each in outcomes]),
            failures=tuple(
                Ungraded(row=row, reward=self._name, reason=each.reason)
                for row, each in enumerate(outcomes)
                if isinstance(each, Failure)
            ),
        )


def _number(outcome: object) -> float | Failure:
    """What a function returned as a number, or why it is none."""
    if isinstance(outcome, Failure):
        return outcome
    if outcome is None or isinstance(outcome, str | bytes):
        return Failure(f"returned {outcome!r:.40}, expected a number")
    if inspect.iscoroutine(outcome):
        outcome.close()
        return Failure("returned a coroutine; write async def, so that it is awaited")
    try:
        value = float(cast("Any", outcome))
    except Exception as error:
        return Failure(f"returned a {type(outcome).__name__}, expected a number ({error})")
    return value if abs(value) <= _LARGEST else Failure(f"returned {value}")


def check_columns(loaded: Loaded, records: Sequence[PromptRecord]) -> None:
    """Raises DataError for prompts without a column that a function among the rewards must have."""
    problems: list[Problem] = []
    for spec, function in loaded.items():
        for name in Arguments.of(function, spec).columns():
            lacking = [record for record in records if name not in record.columns]
            if not lacking:
                continue
            there = ", ".join(dict.fromkeys(key for record in records for key in record.columns)) or "none"
            what = f"{spec} takes '{name}', which is no column of {counted(len(lacking), 'prompt')}; columns: {there}"
            fix = "add the column, give the parameter a default, or call it prompt, response, messages, tokens, stopped"
            problems.append(Problem(place=lacking[0].id, what=what, fix=fix))
    if problems:
        raise DataError(problems)


def refuse_failures(failures: Sequence[Failed], lost: int, asked_for: int, calls: Functions, least: int = 1) -> None:
    """Raises ModelError when more answers have no score than may, or fewer than `least` have one; with the first error.

    `lost` of `asked_for` answers have none.
    """
    most = share(calls.max_failures)
    if not failures or (lost <= most * asked_for and asked_for - lost >= least):
        return
    first = failures[0]
    why = f"more than max_failures {calls.max_failures}" if lost > most * asked_for else "too few are left"
    raise ModelError(
        f"{lost} of {counted(asked_for, 'answer')} have no score, {why}; the first: {first.reward} {first.reason}"
        f"\n  for prompt {first.prompt}, answer {first.answer!r:.80}"
        "\n  fix: the function, which must return a number for every answer in time; or --functions.max_failures"
    )


def note_failures(run: Telling, number: int, failures: Sequence[Failed], lost: int, asked_for: int) -> None:
    """Writes down and says which answers of step `number` have no score; nothing where all have one."""
    if failures:
        run.writer.reward_failures(number, [each.facts() for each in failures])
        run.console.say(f"step {number}: {told(failures, lost, asked_for)}; run/reward_failures.jsonl has all")


def told(failures: Sequence[Failed], lost: int, asked_for: int) -> str:
    """`2 of 64 answers have no score and take no part; the first: short KeyError: 'word'`."""
    first = failures[0]
    what = f"{lost} of {counted(asked_for, 'answer')} have no score and take no part"
    return f"{what}; the first: {first.reward} {first.reason}"


def asked(record: PromptRecord) -> str:
    """The text of a prompt: its last message, or the text to continue."""
    return record.messages[-1].content if record.messages else record.text or ""
