"""Online DPO through its command: what holds at the first step, what is learnt, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stages import LORA, Stages

import posttrain
from posttrain.run import Run

pytestmark = pytest.mark.medium

LOG_2 = 0.6931471805599453
FEW: dict[str, Any] = {
    "steps": 2, "rollouts": 8, "group": 4, "max_new_tokens": 6, "learning_rate": 0.01, "quiet": True,
    "schedule": "constant", "warmup": 0.0,
}  # fmt: skip


@pytest.fixture
def digits(tmp_path: Path) -> str:
    """A reward: how many characters of an answer are digits."""
    file = tmp_path / "rewards.py"
    file.write_text("def digits(prompt, response):\n    return float(sum(map(str.isdigit, response)))\n")
    return f"{file}:digits"


def train(stages: Stages, reward: str | Path, out: Path, **settings: Any) -> Run:
    start = stages.sft_lora if "lora" in settings else stages.sft
    asked = {"model": start, "reward": reward, "prompts": stages.prompts, **FEW, **settings}
    return posttrain.online_dpo(out=out, **asked)


@pytest.mark.parametrize("how", ["weights", "lora"])
def test_the_first_round_is_at_the_reference(how: str, stages: Stages, tmp_path: Path) -> None:
    settings = {"lora": LORA} if how == "lora" else {}
    run = train(stages, stages.reward_lora if how == "lora" else stages.reward, tmp_path / "run", **settings)
    first, second = run.metrics
    assert first["paired"] == 1.0
    assert first["loss"] == pytest.approx(LOG_2, abs=1e-5)
    assert first["kl"] == pytest.approx(0.0, abs=1e-4)
    assert abs(first["margin"]) < 1e-4
    assert second["kl"] != 0.0
    assert run.results.keys() >= {"score", "score_margin", "paired", "kl", "length", "stopped"}


def test_an_answer_without_a_score_is_written_down_and_stands_in_no_pair(stages: Stages, tmp_path: Path) -> None:
    file = tmp_path / "flaky.py"
    file.write_text("def flaky(prompt, response):\n    return 1 / (len(response) % 3) if response else 0.0\n")
    bearing = {"functions": {"max_failures": "90%"}, "steps": 1, "rollouts": 16}
    run = train(stages, f"{file}:flaky", tmp_path / "run", **bearing)
    lines = [json.loads(line) for line in (run.path / "run" / "reward_failures.jsonl").read_text().splitlines()]
    assert lines
    assert all(line["step"] == 1 and line["error"].startswith("ZeroDivisionError") for line in lines)
    with pytest.raises(posttrain.ModelError, match="ZeroDivisionError"):
        train(stages, f"{file}:flaky", tmp_path / "none", functions={"max_failures": "1%"}, steps=1)
    assert (tmp_path / "none" / "run" / "reward_failures.jsonl").read_text()


def test_what_is_rewarded_becomes_frequent_in_fresh_samples(stages: Stages, digits: str, tmp_path: Path) -> None:
    many = {"steps": 20, "rollouts": 32, "group": 8, "missing_eos_penalty": 0.0}
    run = train(stages, digits, tmp_path / "run", **many)

    def count(model: Path) -> float:
        """Digits of an answer to prompts that are sampled anew."""
        out = tmp_path / f"{model.name}.jsonl"
        posttrain.sample(model, prompts=stages.prompts, out=out, k=8, max_new_tokens=6, seed=5, quiet=True)
        texts = [text for line in out.read_text().splitlines() for text in json.loads(line)["responses"]]
        return sum(sum(map(str.isdigit, text)) for text in texts) / len(texts)

    before, after = count(stages.sft), count(run.path)
    assert after > before + 1.0, (before, after)
    assert run.metrics[-1]["score"] > run.metrics[0]["score"] + 1.0


def test_pairs_of_all_answers_are_more_than_those_of_best_and_worst(
    stages: Stages, digits: str, tmp_path: Path
) -> None:
    one = train(stages, digits, tmp_path / "one", pairs="best_worst", rollouts=32, group=16, steps=1)
    every = train(stages, digits, tmp_path / "every", pairs="all", rollouts=32, group=16, steps=1)
    assert one.metrics[0]["score"] == every.metrics[0]["score"]
    assert one.metrics[0]["grad_norm"] != every.metrics[0]["grad_norm"]


def test_a_round_without_pairs_is_said_and_changes_nothing(stages: Stages, tmp_path: Path) -> None:
    file = tmp_path / "rewards.py"
    file.write_text("def same(prompt, response):\n    return 1.0\n")
    run = train(stages, f"{file}:same", tmp_path / "run", missing_eos_penalty=0.0)
    assert [row["paired"] for row in run.metrics] == [0.0, 0.0]
    assert [row["grad_norm"] for row in run.metrics] == [0.0, 0.0]
    assert "no prompt has two answers of different scores" in (run.path / "run" / "log.txt").read_text()
    before, after = (load_file(path / "model.safetensors") for path in (stages.sft, run.path))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_losses_without_a_reference_load_none(stages: Stages, digits: str, tmp_path: Path) -> None:
    run = train(stages, digits, tmp_path / "run", loss="orpo", lam=0.5)
    assert "kl" not in run.metrics[0]
    assert "nll" in run.metrics[0] or run.metrics[0]["paired"] == 0.0
    assert "reference none" in (run.path / "run" / "log.txt").read_text()


def test_wrong_settings_are_refused_with_the_fix(stages: Stages, digits: str, tmp_path: Path) -> None:
    for settings, said in (
        ({"group": 1}, "group"), ({"rollouts": 10}, "do not divide"), ({"loss": "kto"}, "loss"),
        ({"gamma": 1.0}, "use loss simpo"),
    ):  # fmt: skip
        with pytest.raises(posttrain.ConfigError, match=said):
            train(stages, digits, tmp_path / "out", **settings)
    with pytest.raises(posttrain.ModelError, match="no such"):
        train(stages, tmp_path / "nowhere.py:score", tmp_path / "out")
