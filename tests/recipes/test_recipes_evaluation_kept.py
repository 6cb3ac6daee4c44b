"""What `posttrain eval` leaves beside the run that it measured, and that nothing about it can fail an evaluation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from stages import Stages

import posttrain
from posttrain.ops.statistics import wilson
from posttrain.report.reading import read
from posttrain.report.sections.evaluation import evaluation
from posttrain.report.sections.verdict import verdict
from posttrain.run.evaluations import FOLDER

pytestmark = pytest.mark.medium


@pytest.fixture
def run(stages: Stages, tmp_path: Path) -> Path:
    """A finished run of sft that may be written to, and was not evaluated yet."""
    return unevaluated(stages.sft, tmp_path / "sft")


def unevaluated(run: Path, copy: Path) -> Path:
    """A copy of a run without what other tests measured of it."""
    return shutil.copytree(run, copy, ignore=shutil.ignore_patterns(FOLDER))


def kept(run: Path) -> list[Mapping[str, Any]]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in (run / "run" / FOLDER).glob("*.json")]


def test_answers_scores_and_wins_of_every_prompt_stay_with_the_run(run: Path, stages: Stages) -> None:
    given: Mapping[str, Any] = {
        "data": stages.chats, "against": stages.base, "judge": stages.reward, "max_new_tokens": 4, "quiet": True
    }  # fmt: skip
    found = posttrain.evaluate(run, **given)
    posttrain.evaluate(run, **given)
    [facts] = kept(run)
    assert (facts["by"], facts["against"], facts["judges"]) == ("eval", str(stages.base), [str(stages.reward)])
    assert facts["settings"]["max_new_tokens"] == 4
    numbers = facts["per_prompt"]
    assert facts["count"] == len(numbers["score"]) == len(facts["prompts"]) == found["answers"] == 16
    assert sum(numbers["score"]) / 16 == pytest.approx(found["judge_score"], abs=1e-6)
    assert facts["estimates"]["win_rate"] == found["win_rate"]
    assert facts["estimates"]["win_rate"]["interval"] == list(wilson(sum(numbers["win"]), 16))
    assert facts["estimates"]["exact_match"] == found["exact_match"]
    assert facts["measures"]["nll"] == found["nll"]
    first = facts["prompts"][0]
    assert (first["prompt"], first["reference"]) == ("0 + 0 =", "0")
    assert isinstance(first["answer"], str)
    assert isinstance(first["against_answer"], str)
    said = " ".join(str(line) for line in verdict(read(run)).facts["sentences"])  # pyright: ignore
    assert f"Against {stages.base} it wins " in said
    assert evaluation(read(run)) is not None


def test_a_reward_models_evaluation_keeps_its_card_with_texts(stages: Stages, tmp_path: Path) -> None:
    reward = unevaluated(stages.reward, tmp_path / "rm")
    posttrain.evaluate(reward, data=stages.rankings, quiet=True)
    [facts] = kept(reward)
    wrong = facts["measures"]["reward_card"]["disagreements"]
    card = json.loads((reward / "run" / "reward_card.json").read_text(encoding="utf-8"))["training"]
    assert wrong == card["disagreements"]
    assert all(each["prompt"].endswith(" =") for each in wrong)
    assert all({answer["rank"] for answer in each["answers"]} == {1, 2} for each in wrong)


def test_other_models_are_left_alone_and_what_cannot_be_written_is_said(
    run: Path, stages: Stages, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tiny_model.rglob("*"))
    posttrain.evaluate(tiny_model, data=stages.prompts, max_new_tokens=1, quiet=True)
    assert sorted(tiny_model.rglob("*")) == before
    (run / "run" / FOLDER).write_text("a file where the folder should be")
    found = posttrain.evaluate(run, data=stages.prompts, max_new_tokens=1)
    assert found["answers"] == 12
    assert f"what was found is not kept in {run}: " in capsys.readouterr().out
