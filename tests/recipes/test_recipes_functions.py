"""Rewards by functions: what they are called with, what they may return, and what is said when they cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from posttrain.config import Functions, PPOConfig, RewardItem, make_config
from posttrain.errors import DataError, ModelError
from posttrain.recipes.functions import FunctionScorer, check_columns, functions_in, refuse_failures
from posttrain.rollout.grading import Failed
from posttrain.types import JSON, Completion, Grades, Message, Prompt, PromptRecord

SOURCE = """
seen = []

def length(prompt, response):
    return len(prompt) + len(response) / 10

def question_first(question, reply):
    return len(question) * 100 + len(reply)

def swapped(response, prompt):
    return len(prompt) + len(response) / 10

def alone(response):
    return len(response)

def matches(prompt, response, answer, *, strict=False):
    return float(response == answer) + 10 * strict

def everything(prompt, response, **columns):
    return len(columns)

def about(response, messages, tokens, stopped):
    assert messages == [{"role": "user", "content": "four"}]
    return sum(tokens) + 100 * stopped

async def later(prompt, response):
    return len(response)

def forgot(prompt, response):
    return later(prompt, response)

def returns(prompt, response):
    return {"none": None, "text": "3", "nan": float("nan"), "list": [1], "inf": float("-inf")}.get(response, True)

def broken(prompt, response):
    raise KeyError("word")

def wordy(prompt, response):
    raise ValueError("two\\nlines")
"""


@pytest.fixture
def rewards(tmp_path: Path) -> Path:
    file = tmp_path / "rewards.py"
    file.write_text(SOURCE, encoding="utf-8")
    return file


def answer(text: str, **columns: JSON) -> Completion:
    record = PromptRecord(id="p", messages=(Message(role="user", content="four"),), columns=columns)
    prompt = Prompt(id="p", tokens=(1,), record=record)
    return Completion(prompt=prompt, sample=0, tokens=(2, 5), text=text, logprobs=(0.0, 0.0), stopped=True)


def items(*specs: str | Mapping[str, object]) -> tuple[RewardItem, ...]:
    config = make_config(PPOConfig, {"model": "m", "reward": list(specs), "prompts": "p", "out": "o"})
    return config.reward


def graded(rewards: Path, name: str, *done: Completion, **calls: object) -> Grades:
    spec = f"{rewards}:{name}"
    function = functions_in(items(spec))[spec]
    return FunctionScorer(spec, function, Functions.model_validate(calls)).grade(done)


# --- what a function is called with -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("length", [4.2, 4.4]),
        ("question_first", [402.0, 404.0]),  # other names: by their place
        ("swapped", [4.2, 4.4]),  # these names: by name, wherever they stand
        ("alone", [2.0, 4.0]),
        ("about", [107.0, 107.0]),
        ("later", [2.0, 4.0]),
    ],
)
def test_a_function_is_called_by_its_signature(name: str, expected: list[float], rewards: Path) -> None:
    found = graded(rewards, name, answer("ab"), answer("abcd"))
    assert found.total.tolist() == pytest.approx(expected)
    assert found.failures == ()


def test_columns_of_the_row_are_given_by_name_and_a_default_stands_where_there_is_none(rewards: Path) -> None:
    done = (answer("ab", answer="ab"), answer("ab", answer="c"), answer("ab", answer="ab", strict=True, more=1))
    assert graded(rewards, "matches", *done).total.tolist() == [1.0, 0.0, 11.0]
    assert graded(rewards, "everything", *done).total.tolist() == [1.0, 1.0, 3.0]


def test_a_column_that_a_function_must_have_is_missed_before_anything_is_sampled(rewards: Path) -> None:
    loaded = functions_in(items(f"{rewards}:matches"))
    records = [answer("", topic="a").prompt.record, answer("", answer="4").prompt.record]
    with pytest.raises(DataError) as caught:
        check_columns(loaded, records)
    assert "rewards.py:matches takes 'answer', which is no column of 1 prompt; columns: topic, answer" in str(
        caught.value
    )
    check_columns(loaded, records[1:])


# --- what it may return -----------------------------------------------------------------------------------------------


def test_what_is_no_number_is_a_failure_of_that_answer_alone(rewards: Path) -> None:
    found = graded(rewards, "returns", *(answer(text) for text in ("x", "none", "text", "nan", "list", "inf", "y")))
    assert found.total.isnan().tolist() == [False, True, True, True, True, True, False]
    assert found.total[0] == 1.0
    reasons = {failure.row: failure.reason for failure in found.failures}
    assert reasons[1] == "returned None, expected a number"
    assert reasons[2] == "returned '3', expected a number"
    assert reasons[3] == "returned nan"
    assert reasons[4].startswith("returned a list, expected a number")
    assert reasons[5] == "returned -inf"


def test_an_error_is_a_failure_with_its_name(rewards: Path) -> None:
    [failure] = graded(rewards, "broken", answer("ab")).failures
    assert (failure.row, failure.reward, failure.reason) == (0, "broken", "KeyError: 'word'")
    [failure] = graded(rewards, "wordy", answer("ab")).failures
    assert failure.reason == "ValueError: two lines"


@pytest.mark.filterwarnings("error")
def test_a_coroutine_that_nobody_awaits_is_told(rewards: Path) -> None:
    [failure] = graded(rewards, "forgot", answer("ab")).failures
    assert failure.reason == "returned a coroutine; write async def, so that it is awaited"


# --- what cannot be used ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("missing.py:f", "no such file"),
        ("{}:other", "has no function other"),
        ("<session>:short", "stands in no file, and only Python can give it again"),
    ],
)
def test_what_is_not_there_is_said_before_anything_runs(rewards: Path, spec: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        functions_in(items(spec.format(rewards)))


@pytest.mark.parametrize("name", ["score", "number", "nothing"])
def test_a_function_of_other_arguments_is_refused_before_anything_runs(name: str, tmp_path: Path) -> None:
    file = tmp_path / "other.py"
    file.write_text(
        "def score(text):\n    return 1.0\n\ndef nothing():\n    return 1\n\nnumber = 3\n", encoding="utf-8"
    )
    with pytest.raises(ModelError, match="cannot be called with a prompt and a response"):
        functions_in(items(f"{file}:{name}"))


def test_a_file_that_cannot_be_run_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("x = 1\ny = x / 0\n", encoding="utf-8")
    with pytest.raises(ModelError, match=r"wrong\.py:2  cannot be run: ZeroDivisionError"):
        functions_in(items(f"{file}:f"))


def test_a_file_is_run_once_for_all_of_its_functions(tmp_path: Path) -> None:
    file = tmp_path / "counted.py"
    runs = tmp_path / "runs"
    text = f"with open({str(runs)!r}, 'a') as file:\n    file.write('x')\n"
    text += "def a(prompt, response):\n    return 1\ndef b(prompt, response):\n    return 2\n"
    file.write_text(text, encoding="utf-8")
    functions_in(items(f"{file}:a", {"reward": f"{file}:b", "weight": -1}))
    assert runs.read_text() == "x"


# --- how many may fail ------------------------------------------------------------------------------------------------


FIRST = Failed(prompt="p.jsonl:3", sample=0, answer="no", reward="f", reason="KeyError: 'word'")


def test_more_failures_than_their_share_end_the_run_with_the_first_error() -> None:
    calls = Functions(max_failures="10%")
    refuse_failures([], 0, 20, calls)
    refuse_failures([FIRST], 2, 20, calls)
    with pytest.raises(ModelError) as caught:
        refuse_failures([FIRST], 3, 20, calls)
    said = "3 of 20 answers have no score, more than max_failures 10%; the first: f KeyError: 'word'"
    assert str(caught.value).startswith(f"{said}\n  for prompt p.jsonl:3, answer 'no'")


def test_too_few_answers_for_the_minibatches_end_the_run_whatever_the_share() -> None:
    calls = Functions(max_failures="100%")
    refuse_failures([FIRST], 16, 20, calls, least=4)
    with pytest.raises(ModelError, match="17 of 20 answers have no score, too few are left"):
        refuse_failures([FIRST], 17, 20, calls, least=4)


def test_scores_are_float32_in_the_order_of_the_answers_however_many_run_at_once(rewards: Path) -> None:
    done = [answer("a" * n) for n in range(40)]
    for at_once in (1, 7):
        found = graded(rewards, "alone", *done, at_once=at_once, timeout=10.0)
        assert torch.equal(found.total, torch.arange(40.0))
