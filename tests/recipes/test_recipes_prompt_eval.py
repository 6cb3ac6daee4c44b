"""Evaluation on fixed prompts while PPO trains, and text mixed into its updates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stages import LORA, Stages, write_rows

import posttrain
from posttrain.errors import ConfigError, DataError
from posttrain.run import Run

pytestmark = pytest.mark.medium
Settings = Mapping[str, Any]
REWARD = """import random

def letters(prompt, response):
    random.random()  # what a reward draws is no affair of the training
    return float(response.count("e") - response.count("x"))
"""


@pytest.fixture
def given(stages: Stages, tmp_path: Path) -> Settings:
    """A policy, prompts, and a reward that counts letters and draws random numbers."""
    (tmp_path / "rewards.py").write_text(REWARD)
    return {
        "model": stages.sft_lora, "reward": f"{tmp_path}/rewards.py:letters", "prompts": stages.prompts, "lora": LORA,
        "steps": 2, "rollouts": 4, "max_new_tokens": 6, "ppo_epochs": 2, "critic": {"warmup": 0},
        "learning_rate": 0.02, "quiet": True, "rollouts_every": 1,
    }  # fmt: skip


def weights(run: Run) -> Mapping[str, torch.Tensor]:
    return load_file(run.path / "adapter_model.safetensors")


def same(first: Run, second: Run) -> bool:
    one, other = weights(first), weights(second)
    return all(torch.equal(one[name], other[name]) for name in one)


def test_an_evaluation_asks_the_same_prompts_each_time_and_changes_nothing(
    given: Settings, stages: Stages, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in stages.prompts.read_text().splitlines()]
    mine = write_rows(tmp_path / "train.jsonl", rows[:8])
    held = write_rows(tmp_path / "held.jsonl", [*rows[8:11], rows[7]])
    alone = tmp_path / "alone"
    alone.mkdir()
    runs = {
        "watched": {"prompts": mine, "eval_prompts": held, "eval_every": 1},
        "alone": {"prompts": write_rows(alone / "train.jsonl", rows[:7])},
    }
    found = {name: posttrain.ppo(**{**given, **more}, out=tmp_path / f"run-{name}") for name, more in runs.items()}
    watched = found["watched"]
    # the row that both files have is not trained on; the other file is the same without it
    shown = [[row["score"] for row in run.metrics if "score" in row] for run in found.values()]
    assert shown[0] == shown[1]
    assert same(watched, found["alone"])
    evaluated = [row for row in watched.metrics if "eval_score_greedy" in row]
    assert [row["step"] for row in evaluated] == [0, 2, 4]
    assert evaluated[0]["eval_kl_exact"] == pytest.approx(0.0, abs=1e-5)
    assert evaluated[-1]["eval_kl_exact"] > 1e-4
    samples = [row for row in watched.samples if "drawn" in row]
    for row in evaluated:
        for drawn in ("greedy", "sampled"):
            answered = [one for one in samples if one["step"] == row["step"] and one["drawn"] == drawn]
            assert [one["prompt"] for one in answered] == [one["prompt"] for one in [*rows[8:11], rows[7]]]
            scores = [one["answer"].count("e") - one["answer"].count("x") for one in answered]
            assert [one["score"] for one in answered] == scores
            assert row[f"eval_score_{drawn}"] == pytest.approx(sum(scores) / 4)
    assert "1 stand in eval_prompts too, and are left out" in (watched.path / "run" / "log.txt").read_text()


def test_a_share_of_the_prompts_is_held_out_and_the_best_is_by_their_score(given: Settings, tmp_path: Path) -> None:
    run = posttrain.ppo(**given, out=tmp_path / "ppo", eval_prompts="30%", eval_every=1)
    asked = {row["prompt"] for row in run.samples if "drawn" in row}
    trained = {row["prompt"] for row in run.samples if "drawn" not in row}
    assert asked
    assert trained
    assert not asked & trained
    best = max((row for row in run.metrics if "eval_score_sampled" in row), key=lambda row: row["eval_score_sampled"])
    assert run.results["best"] == {"step": best["step"], "eval_score_sampled": best["eval_score_sampled"]}


def test_the_same_weights_get_the_same_evaluation(given: Settings, tmp_path: Path) -> None:
    still = {**given, "critic": {"warmup": 99}}  # the policy stays
    run = posttrain.ppo(**still, out=tmp_path / "ppo", eval_prompts="30%", eval_every=1)
    evaluated = [
        {name: value for name, value in row.items() if name.startswith("eval_")}
        for row in run.metrics
        if "eval_length" in row
    ]
    assert len(evaluated) == 3
    assert evaluated[0] == evaluated[1] == evaluated[2]


def test_what_cannot_be_evaluated_is_refused(given: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="eval_score_greedy needs eval_prompts and eval_every"):
        posttrain.ppo(**given, out=tmp_path / "a", best="eval_score_greedy")
    with pytest.raises(DataError, match=r"of 12 prompts eval_prompts 100% leaves none to train on"):
        posttrain.ppo(**given, out=tmp_path / "b", eval_prompts="100%")
    with pytest.raises(ConfigError, match="expected a share up to 100%, got '130%'"):
        posttrain.ppo(**given, out=tmp_path / "c", eval_prompts="130%")
    assert [item.name for item in tmp_path.iterdir()] == ["rewards.py"]


def test_text_pulls_the_policy_and_its_loss_is_shown(given: Settings, stages: Stages, tmp_path: Path) -> None:
    plain = posttrain.ppo(**given, out=tmp_path / "plain")
    ptx = {"data": stages.chats, "coef": 5.0, "batch_size": 4}
    mixed = posttrain.ppo(**{**given, "steps": 6}, ptx=ptx, out=tmp_path / "mixed")
    course = [row["ptx_loss"] for row in mixed.metrics]
    assert course[-1] < course[0] - 0.05
    assert all("ptx_loss" not in row for row in plain.metrics)
    assert "chats.jsonl: 16 rows" in (mixed.path / "run" / "log.txt").read_text()
    assert mixed.record["chats.jsonl_rows"]["kept"] == 16


def test_text_that_is_not_there_is_said_before_anything_is_loaded(given: Settings, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.jsonl"):
        posttrain.ppo(**given, out=tmp_path / "ppo", ptx={"data": tmp_path / "nothing.jsonl"})
