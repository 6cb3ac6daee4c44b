"""The setting `reward`: what may stand there, how it is written down, and what is said when it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from posttrain.config import EvalConfig, PPOConfig, RewardItem, dump, load_config, make_config
from posttrain.config.rewards import SESSION, models_in, names_of, spec_of
from posttrain.errors import ConfigError

PPO: Mapping[str, Any] = {"model": "m", "prompts": "p.jsonl", "out": "o"}


def short(prompt: str, response: str) -> float:
    return -0.001 * len(response)


def rewards(given: object) -> tuple[RewardItem, ...]:
    return make_config(PPOConfig, {**PPO, "reward": given}).reward


def facts(given: object) -> list[dict[str, Any]]:
    return [item.model_dump(exclude_defaults=True) for item in rewards(given)]


def test_one_reward_stands_alone_and_several_in_a_list() -> None:
    assert facts("runs/rm") == facts(Path("runs/rm")) == facts(["runs/rm"]) == [{"reward": "runs/rm"}]
    mixture = ["runs/rm", {"reward": "r.py:short", "weight": -2}, {"ensemble": ["a", "b"], "combine": "min"}]
    assert facts(mixture) == [
        {"reward": "runs/rm"},
        {"reward": "r.py:short", "weight": -2.0},
        {"ensemble": ("a", "b"), "combine": "min"},
    ]
    assert models_in(rewards(mixture)) == ["runs/rm", "a", "b"]


def test_a_judge_is_written_alike() -> None:
    config = make_config(
        EvalConfig, {"model": "m", "data": "d", "judge": ["runs/rm", {"reward": "r.py:f", "weight": 2}]}
    )
    assert config.judge is not None
    assert [item.weight for item in config.judge] == [1.0, 2.0]
    assert make_config(EvalConfig, {"model": "m", "data": "d"}).judge is None


@pytest.mark.parametrize(
    "given",
    [
        "runs/rm",
        ["runs/rm", {"reward": "r.py:short", "weight": -2.5, "name": "length"}],
        {"ensemble": ["a", "b", "r.py:f"], "combine": "lower_bound", "deviations": 0.5},
    ],
)
def test_what_is_written_down_reads_as_the_same(given: object, tmp_path: Path) -> None:
    config = make_config(PPOConfig, {**PPO, "reward": given})
    (tmp_path / "config.yaml").write_text(dump(config), encoding="utf-8")
    assert load_config(PPOConfig, tmp_path / "config.yaml", {}).reward == config.reward


def test_flags_give_one_reward_or_several() -> None:
    flags = {"model": "m", "prompts": "p", "out": "o"}
    assert load_config(PPOConfig, None, {**flags, "reward": "runs/rm"}).reward == rewards("runs/rm")
    several = load_config(PPOConfig, None, {**flags, "reward": ["runs/rm", "{reward: r.py:f, weight: -1}"]})
    assert several.reward == rewards(["runs/rm", {"reward": "r.py:f", "weight": -1}])


def test_parts_are_named_after_their_run_or_function_and_never_alike() -> None:
    mixture = ["runs/rm", "other/rm", "r.py:short", {"ensemble": ["a", "b"]}, {"reward": "x", "name": "mine"}]
    assert names_of(rewards(mixture)) == ["rm", "rm-2", "short", "ensemble", "mine"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], "reward: names no reward"),
        (3, "reward: expected a reward or {reward, weight}, got 3"),
        ({"weight": 2}, "reward.reward: set either reward or ensemble"),
        ({"reward": "a", "ensemble": ["a", "b"]}, "set either reward or ensemble"),
        ({"ensemble": ["a"]}, "reward.ensemble: combines two or more; for one write reward"),
        ({"ensemble": ["a", "b", "a"]}, "reward.ensemble: names a twice, which would count once"),
        ({"reward": "a", "combine": "min"}, "reward.combine: combines the scores of an ensemble"),
        (
            {"ensemble": ["a", "b"], "deviations": 2},
            "reward.deviations: are taken off by combine: lower_bound, not by mean",
        ),
        ({"reward": "a", "weight": 0}, "reward.weight: a reward of weight 0 does nothing"),
        ({"reward": "a", "wieght": 2}, "unknown keyword 'reward.wieght'; did you mean reward.weight?"),
        ({"reward": "a", "weight": "two"}, "reward.weight: expected a number, got 'two'"),
    ],
)
def test_what_is_wrong_is_said_at_the_setting(given: object, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rewards(given)
    assert says in str(caught.value)


def test_what_is_wrong_in_a_file_has_its_line(tmp_path: Path) -> None:
    file = tmp_path / "ppo.yaml"
    file.write_text("model: m\nprompts: p\nout: o\nreward:\n- runs/rm\n- {reward: a, weight: 0}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"ppo\.yaml:6  reward\.weight: a reward of weight 0"):
        load_config(PPOConfig, file, {})


# --- Python functions ------------------------------------------------------------------------------------------------


def test_a_function_is_recorded_by_its_file_and_name_and_kept_to_be_called() -> None:
    [model, item] = rewards(["runs/rm", {"reward": short, "weight": -1}])
    assert item.reward is not None
    file, _, name = item.reward.rpartition(":")
    assert (Path(file).resolve(), name) == (Path(__file__).resolve(), "short")
    assert dict(item.functions) == {item.reward: short}
    assert dict(model.functions) == {}
    assert rewards({"ensemble": ["runs/rm", short]})[0].functions == item.functions


def test_a_path_beneath_the_working_folder_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    assert spec_of(short) == "test_config_rewards.py:short"


def test_a_function_of_a_session_has_no_file() -> None:
    names: dict[str, Any] = {}
    exec(compile("def mine(prompt, response): return 1.0", "<stdin>", "exec"), names)
    assert rewards(names["mine"])[0].reward == f"{SESSION}:mine"


class Judge:
    """Something that scores."""

    def score(self, prompt: str, response: str) -> float:
        return 1.0


def outer() -> Any:
    def inner(prompt: str, response: str) -> float:
        return 1.0

    return inner


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda prompt, response: 1.0, "a lambda has no name to record it by; write it with def at the top of a file"),
        (outer(), "stands inside something else and is not found again by a name"),
        (Judge().score, "is no Python function"),
        (partial(short, "a"), "is no Python function"),
        (len, "is no Python function"),
    ],
)
def test_what_no_name_finds_again_is_refused_with_the_reason(function: object, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        rewards(["runs/rm", function])
    assert says in str(caught.value)
