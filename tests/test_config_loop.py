"""The loop's settings: stages take the words of their commands, minus what the loop fills in."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.config import (
    CONFIGS,
    ChatConfig,
    PPOConfig,
    RewardConfig,
    RLHFConfig,
    SimulatedAnnotator,
    dump,
    leaves,
    load_config,
    make_config,
)
from posttrain.errors import ConfigError

LEAST = "model: runs/sft\nprompts: p.jsonl\nout: runs/loop\n"
FILLED = {
    "sample": {"model", "prompts", "out", "seed"},
    "rank": {"pool", "db", "choose", "reward", "seed"},
    "reward": {"version", "model", "data", "eval_data", "out", "seed"},
    "ppo": {"version", "model", "reward", "functions", "prompts", "out", "seed"},
    "dpo": {"version", "model", "data", "eval_data", "out", "seed"},
    "eval": {"model", "against", "judge", "functions", "data", "out", "seed"},
}


def loaded(folder: Path, more: str = "") -> RLHFConfig:
    file = folder / "loop.yaml"
    file.write_text(LEAST + more, encoding="utf-8")
    return load_config(RLHFConfig, file, {})


def said(folder: Path, more: str) -> str:
    """What is said of the lines after the least settings, without the name of the file."""
    with pytest.raises(ConfigError) as caught:
        loaded(folder, more)
    return str(caught.value).replace(f"{folder / 'loop.yaml'}:", "")


@pytest.mark.parametrize("stage", FILLED)
def test_a_stage_has_every_setting_of_its_command_but_those_that_the_loop_fills_in(stage: str) -> None:
    here = {leaf.name.removeprefix(f"{stage}.") for leaf in leaves(RLHFConfig) if leaf.name.startswith(f"{stage}.")}
    there = {leaf.name for leaf in leaves(CONFIGS[stage])}
    assert here == {name for name in there if name.partition(".")[0] not in FILLED[stage]}


def test_what_is_set_in_a_stage_reaches_its_command_and_the_rest_is_its_default(tmp_path: Path) -> None:
    config = loaded(tmp_path, "reward: {steps: 5}\nppo: {beta: {coef: 0.2}, rollouts: 64}\n")
    reward = config.reward.complete(RewardConfig, model="m", data="d", out="o", eval_data=None, seed=3)
    assert (reward.steps, reward.epochs, reward.seed, reward.eval_data) == (5, None, 3, None)
    made = config.ppo.complete(PPOConfig, model="m", reward="r", prompts="p", out="o")
    assert made == make_config(
        PPOConfig,
        {"model": "m", "reward": "r", "prompts": "p", "out": "o", "beta": {"coef": 0.2}, "rollouts": 64},
    )


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("ppo: {gama: 1}", "4  unknown key 'ppo.gama'; did you mean 'ppo.gamma'?"),
        ("ppo:\n  gamma: 5", "5  ppo.gamma: expected a number above 0 and at most 1, got 5"),
        ("reward: {eval_data: 5%}", "4  unknown key 'reward.eval_data'; rlhf fills it in"),
        ("ppo: {model: runs/x}", "4  unknown key 'ppo.model'; rlhf fills it in"),
        (
            "ppo: {init_kl_coef: 0.2}",
            "4  unknown key 'ppo.init_kl_coef'; that is TRL's name, here: beta: {coef: 0.2}",
        ),
        ("ppo: {rollouts: 5, group: 2}", "4  ppo.rollouts: 5 answers do not divide into groups of 2"),
        ("dpo: {loss: ipo}", "4  dpo: method ppo runs no dpo; leave it out, or set method: dpo"),
        (
            "method: dpo\ndpo:\n  loss: orpo\n  beta: 0.2",
            "7  dpo.beta: loss orpo has no beta; set lam, the weight of its odds ratio",
        ),
        ("sample: {k: 1}", "4  sample.k: expected a whole number of at least 2 and at most 9, got 1"),
        ("sample: {k: 10}", "4  sample.k: expected a whole number of at least 2 and at most 9, got 10"),
        ("wait: {rankings: 5, share: 0.5}", "4  wait.rankings: set either rankings or share, the other null"),
        ("wait: {share: 0}", "4  wait.share: expected a number above 0 and at most 1 or null, got 0"),
        (
            "annotator: {score: runs/rm, functions: {timeout: 5}}",
            "4  annotator.functions: no Python function is in score; leave it out",
        ),
        (
            "annotator: {score: r.py:f, names: [ada, ada]}",
            "4  annotator.names: names somebody twice; an annotator ranks an item once",
        ),
        ("rank: {reward: runs/rm}", "4  unknown key 'rank.reward'; rlhf fills it in"),
        (
            "serve: true\nannotator: r.py:f",
            "4  serve: where the annotator is simulated nobody comes to a page; leave it out",
        ),
        ("round: 2", "4  unknown key 'round'; did you mean 'rounds'?"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(more: str, says: str, tmp_path: Path) -> None:
    assert said(tmp_path, more) == says


def test_an_annotator_may_be_a_reward_alone(tmp_path: Path) -> None:
    for given in ("rewards.py:gold", "{score: rewards.py:gold}", "[{reward: rewards.py:gold}]"):
        annotator = loaded(tmp_path, f"annotator: {given}\n").annotator
        assert annotator is not None
        assert annotator.score[0].reward == "rewards.py:gold"
    assert load_config(RLHFConfig, tmp_path / "loop.yaml", {"annotator": "runs/rm"}).annotator == make_config(
        SimulatedAnnotator, {"score": "runs/rm"}
    )


def test_rankings_alone_leave_no_share(tmp_path: Path) -> None:
    wait = loaded(tmp_path, "wait: {rankings: 200}\n").wait
    assert (wait.rankings, wait.share) == (200, None)


def test_what_is_written_of_the_settings_is_read_as_the_same(tmp_path: Path) -> None:
    stages = "reward: {steps: 5}\nmethod: dpo\ndpo: {loss: ipo, lora: {rank: 4}}\n"
    config = loaded(tmp_path, stages + "annotator: r.py:gold\nwait: {rankings: 9}\n")
    file = tmp_path / "again.yaml"
    file.write_text(dump(config), encoding="utf-8")
    assert load_config(RLHFConfig, file, {}) == config


@pytest.mark.parametrize(("name", "value"), [("db", "votes.db"), ("annotator", "ada")])
def test_where_votes_go_is_not_set_where_there_are_none(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: is of votes, which are between two models"):
        make_config(ChatConfig, {"model": "runs/sft", name: value})
    assert getattr(make_config(ChatConfig, {"model": "a", "against": "b", name: value}), name) == value
