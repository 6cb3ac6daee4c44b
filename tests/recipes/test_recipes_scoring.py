"""Rewards by functions of a file: numbers in order, and errors that name what they were given."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.errors import ModelError
from posttrain.recipes.scoring import function_scorer
from posttrain.types import Completion, Message, Prompt, PromptRecord

SOURCE = """
def length(prompt, response):
    return len(prompt) + len(response) / 10

def broken(prompt, response):
    raise KeyError("word")
"""


@pytest.fixture
def rewards(tmp_path: Path) -> Path:
    file = tmp_path / "rewards.py"
    file.write_text(SOURCE)
    return file


def answer(text: str) -> Completion:
    record = PromptRecord(id="p", messages=(Message(role="user", content="four"),))
    prompt = Prompt(id="p", tokens=(1,), record=record)
    return Completion(prompt=prompt, sample=0, tokens=(2,), text=text, logprobs=(0.0,), stopped=True)


def test_a_function_scores_prompt_and_answer_in_order(rewards: Path) -> None:
    scores = function_scorer(f"{rewards}:length")([answer("ab"), answer("abcd")])
    assert scores.tolist() == pytest.approx([4.2, 4.4])


def test_a_function_that_raises_is_named_with_what_it_was_given(rewards: Path) -> None:
    with pytest.raises(ModelError, match="raised KeyError: 'word'") as raised:
        function_scorer(f"{rewards}:broken")([answer("ab")])
    assert "prompt p, answer 'ab'" in str(raised.value)


@pytest.mark.parametrize(("spec", "says"), [("missing.py:f", "no such file"), ("{}:other", "has no function other")])
def test_what_is_not_there_is_said_before_anything_runs(rewards: Path, spec: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        function_scorer(spec.format(rewards))


def test_a_function_of_other_arguments_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("def score(text):\n    return 1.0\n\nnumber = 3\n", encoding="utf-8")
    for name in ("score", "number"):
        with pytest.raises(ModelError, match="cannot be called with a prompt and a response"):
            function_scorer(f"{tmp_path / 'other.py'}:{name}")
