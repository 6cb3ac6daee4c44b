"""The row of PPO: that both sides do the same work, and how it is counted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import ppo
from benchmarks.frame import rounds, texts
from benchmarks.frame.sizes import Size
from posttrain.config import CONFIGS, PPOConfig, make_config

SMALL = Size(hidden=16, layers=2, heads=2, kv_heads=2, intermediate=32, vocabulary=400, tied=True)


def _ground(tmp_path: Path, **more: Any) -> rounds.Ground:
    asked = [list(range(count)) for count in range(10, 42)]
    given: dict[str, Any] = {"rounds": 2, "longest": 8, "group": 1, "ends": False, "prompts": asked, **more}
    return rounds.Ground(folder=tmp_path, size=SMALL, **given)


@pytest.mark.parametrize("layout", rounds.LAYOUTS)
def test_our_settings_are_settings(tmp_path: Path, layout: str) -> None:
    settings = rounds.our_settings(_ground(tmp_path), layout, "fp32", tmp_path / "out")
    config = make_config(CONFIGS["ppo"], settings)
    assert isinstance(config, PPOConfig)
    assert (config.layout, config.rollouts, config.steps) == (layout, 32, 2)


def test_trl_makes_as_many_updates_a_round_as_ours(tmp_path: Path) -> None:
    given = rounds.peer_arguments(_ground(tmp_path), "fp32")
    # PPOTrainer of TRL 1.11: a round is one batch; a minibatch is a share of it, cut into device batches, of which so
    # many as are accumulated make an update
    batch = given["per_device_train_batch_size"] * given["gradient_accumulation_steps"]
    mini = batch // given["num_mini_batches"]
    device_batches = len(range(0, mini, given["per_device_train_batch_size"])) * given["num_mini_batches"]
    updates = given["num_ppo_epochs"] * device_batches // given["gradient_accumulation_steps"]
    ours = rounds.our_settings(_ground(tmp_path), "separate", "fp32", tmp_path / "out")
    assert updates == ours["ppo_epochs"] * ours["minibatches"] == 16
    assert given["total_episodes"] // batch == ours["steps"] == 2
    assert batch == ours["rollouts"]


def test_flops_of_updates_are_those_counted_by_hand() -> None:
    # one prompt of 3 with an answer of 2; trunk of 16: four of 16 x 16 and three of 16 x 32, twice
    weights = 2 * (4 * 256 + 3 * 512)
    trunk = 2 * weights * 5 + 4 * 2 * 16 * 15
    head, values = 2 * 16 * 400 * 2, 2 * 16 * 2
    assert rounds.update_flops(SMALL, [3], [2], "separate") == 4 * 3 * (2 * trunk + head + values)
    assert rounds.update_flops(SMALL, [3], [2], "trunk") == 4 * 3 * (trunk + head + values)
    assert rounds.update_flops(SMALL, [3], [2], "adapters") == 4 * 2 * (2 * trunk + head + values)


def test_lengths_are_geometric_and_cut_where_answers_end(tmp_path: Path) -> None:
    draws = torch.rand(50_000, 128, generator=torch.Generator().manual_seed(0)) < rounds.ENDING
    lengths = torch.where(draws.any(1), draws.float().argmax(1) + 1, 128)
    expected = rounds.mean_length(_ground(tmp_path, ends=True, longest=128))
    assert float(lengths.double().mean()) == pytest.approx(expected, rel=0.01)
    assert rounds.mean_length(_ground(tmp_path)) == 8.0


def _facts(**more: Any) -> dict[str, Any]:
    measured = {"seconds": [9.0, 4.0], "cpu": [9.0, 8.0], "sample": [1.0, 1.0], "annotate": [1.0, 0.5], "growth": 100}
    told = {"peak": 300, "lengths": [[8] * 32] * 2, "prompt_tokens": 816, "kl": 1e-7, "ratio": 1.0, "score": 0.5}
    return {**measured, **told, **more}


def test_what_is_left_of_a_round_is_its_update(tmp_path: Path) -> None:
    ground = _ground(tmp_path)
    found = rounds.summary(ground, [_facts()], "separate", 1e6)
    assert (found["seconds"].median, found["update"].median, found["length"]) == (4.0, 2.5, 8.0)
    flops = rounds.update_flops(SMALL, [25] * 32, [8] * 32, "separate")  # 816 tokens of 32 prompts are 25.5 each
    assert found["share_of_gemm"].median == pytest.approx(flops / 2.5 / 1e6)
    assert not rounds.disagreements(ground, {"separate": found})


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"prompt_tokens": 815}, "prompt tokens"),
        ({"kl": 0.1}, "KL"),
        ({"lengths": [[7] * 32] * 2}, "answers with 7.0 tokens"),
        ({"score": 1.5}, "mean scores"),
    ],
)
def test_sides_that_did_not_do_the_same_are_told(tmp_path: Path, wrong: dict[str, Any], named: str) -> None:
    ground = _ground(tmp_path)
    sides = {"separate": _facts(), "TRL fp32": _facts(**wrong)}
    told = rounds.disagreements(
        ground, {name: rounds.summary(ground, [of], "separate", 1e6) for name, of in sides.items()}
    )
    assert len(told) == 1
    assert named in told[0]


def test_layouts_are_told_as_multiples_of_the_fastest_setting(tmp_path: Path) -> None:
    def side(seconds: float, growth: float) -> dict[str, Any]:
        facts = _facts(seconds=[9.0, seconds], growth=growth)
        return rounds.summary(_ground(tmp_path), [facts], "separate", 1e6)

    found = ppo.ratios({"separate": side(4, 50), "TRL fp32": side(12, 200), "TRL defaults": side(20, 100)})
    assert found["times"] == 3.0
    assert found["growth"] == 0.25
    assert math.isfinite(found["gemm"])


@pytest.mark.medium
@pytest.mark.parametrize("layout", rounds.LAYOUTS)
def test_a_round_of_ours_begins_at_the_start_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, layout: str
) -> None:
    if layout != "trunk":  # one side in a process of its own shows that it can be
        request.getfixturevalue("here")
    asked = [f"How much is {number} and {number + 1}?" for number in range(80)]
    monkeypatch.setattr(texts, "answers", lambda: [(question, "It is that.") for question in asked])
    monkeypatch.setattr(texts, "pairs", lambda: [(question, "It is that.", "It is not.") for question in asked])
    ground = rounds.make_ground(tmp_path, SMALL, rounds=2, longest=4, ends=False, adapters=layout == "adapters")
    facts = rounds.run_ours(ground, layout, "fp32")
    assert facts["ratio"] == pytest.approx(1.0, abs=1e-5)
    for part in ("seconds", "sample", "annotate", "lengths"):
        assert len(facts[part]) == 2
    assert not rounds.disagreements(ground, {layout: rounds.summary(ground, [facts], layout, 1e9)})
