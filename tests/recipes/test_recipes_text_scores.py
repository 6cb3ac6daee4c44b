"""Answers that stand as text get the scores that a judge gives them where they were sampled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from stages import Stages
from transformers import AutoModelForSequenceClassification

from posttrain.config import EvalConfig, make_config
from posttrain.console import Console, Silent
from posttrain.errors import DataError, ModelError
from posttrain.recipes.text_scores import Answered, scores_of
from posttrain.text.chat import Codec
from posttrain.types import Message, PromptRecord

pytestmark = pytest.mark.medium

GRADES = '''"""Grades that need a column, and one that fails."""


def long_enough(prompt: str, response: str, least: int, stopped: bool) -> float:
    return float(len(response) >= least) + 0.25 * stopped + 10 * len(prompt)


def picky(response: str) -> float:
    if response == "no":
        raise ValueError("not that")
    return 1.0
'''


def asked(question: str, texts: Sequence[str], stopped: Sequence[bool], **columns: int) -> Answered:
    record = PromptRecord(id=question, messages=(Message(role="user", content=question),), columns=columns)
    return Answered(prompt=record, texts=texts, stopped=stopped)


def judged(model: Path, judge: object, answers: Sequence[Answered], **settings: object) -> list[list[float]]:
    config = make_config(EvalConfig, {"model": model, "data": "pool.jsonl", "judge": judge, **settings})
    return [scores.tolist() for scores in scores_of(config, answers, console=Console(Silent()))]


def test_a_function_is_given_prompt_answer_columns_and_how_it_ended(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "grades.py").write_text(GRADES)
    answers = [
        asked("Hi", ["abc", "a", "abcd"], [True, True, False], least=3),
        asked("Hi!!", ["abc", ""], [False, True], least=1),
    ]
    assert judged(tiny_model, f"{tmp_path}/grades.py:long_enough", answers) == [[21.25, 20.25, 21.0], [41.0, 40.25]]
    with pytest.raises(DataError, match="takes 'least', which is no column of 1 prompt"):
        judged(tiny_model, f"{tmp_path}/grades.py:long_enough", [asked("Hi", ["a", "b"], [True, True])])


def test_an_answer_that_a_function_fails_on_has_no_score(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "grades.py").write_text(GRADES)
    answers = [asked("Hi", ["yes", "no"], [True, True])]
    functions = {"max_failures": "50%"}
    [[first, second]] = judged(tiny_model, f"{tmp_path}/grades.py:picky", answers, functions=functions)
    assert first == 1.0
    assert second != second
    with pytest.raises(ModelError, match="not that"):
        judged(tiny_model, f"{tmp_path}/grades.py:picky", answers)


def test_a_reward_model_gives_the_scores_that_the_library_computes(stages: Stages) -> None:
    texts, stopped = ["2", "no", "1 or so"], [True, False, True]
    answers = [asked("1 + 1 =", texts, stopped), asked("2 + 2 =", ["4", "5"], [True, True])]
    found = judged(stages.sft, stages.reward, answers)
    codec = Codec.load(str(stages.reward))
    model = AutoModelForSequenceClassification.from_pretrained(stages.reward).eval()
    card = json.loads((stages.reward / "reward.json").read_text())

    def score(record: PromptRecord, text: str, ended: bool) -> float:
        tokens = [*codec.prompt(record).tokens, *codec.answer(record, text, ended=ended)]
        with torch.no_grad():
            raw = float(model(torch.tensor([tokens])).logits[0, 0])
        return (raw - card["shift"]) / card["scale"]

    for each, scores in zip(answers, found, strict=True):
        expected = [score(each.prompt, text, ended) for text, ended in zip(each.texts, each.stopped, strict=True)]
        assert scores == pytest.approx(expected, abs=1e-4)
