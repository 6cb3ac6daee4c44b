"""The YAML example of every method runs as it stands, but for the model, the folders and the number of steps."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from posttrain.cli import main
from posttrain.config import CONFIGS, load_config
from posttrain.data.readers import read
from posttrain.types import RankedRecord

pytestmark = pytest.mark.medium


def run(repository: Path, command: str, **flags: object) -> None:
    """Runs the example of `command` with these flags on top of it."""
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    assert main([command, str(repository / "examples" / f"{command}.yaml"), "--quiet", *words]) == 0


@pytest.fixture(scope="module")
def runs(repository: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of `sft` and one of `reward`, from their examples."""
    folder = tmp_path_factory.mktemp("runs")
    data = repository / "examples" / "data"
    run(repository, "sft", model=tiny_model, data=data / "chat.jsonl", out=folder / "sft", epochs=1.0)
    run(repository, "reward", model=folder / "sft", data=data / "ranked.jsonl", out=folder / "reward", epochs=1.0)
    return folder


@pytest.mark.parametrize("command", sorted(CONFIGS))
def test_an_example_has_only_settings_of_its_command(repository: Path, command: str) -> None:
    settings = load_config(CONFIGS[command], repository / "examples" / f"{command}.yaml", {})
    assert settings.command == command


def test_sft_and_reward_write_adapters(runs: Path) -> None:
    assert (runs / "sft" / "adapter_model.safetensors").is_file()
    assert (runs / "reward" / "reward.json").is_file()


def test_sample_answers_each_prompt_twice(repository: Path, runs: Path) -> None:
    prompts = repository / "examples" / "data" / "prompts.jsonl"
    run(repository, "sample", model=runs / "sft", prompts=prompts, out=runs / "pool.jsonl", max_new_tokens=4)
    pool = [json.loads(line) for line in (runs / "pool.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [len(row["responses"]) for row in pool] == [2] * 8


def test_ppo_and_then_eval_against_its_start(repository: Path, runs: Path) -> None:
    prompts = repository / "examples" / "data" / "prompts.jsonl"
    few = {"steps": 2, "rollouts": 4, "max_new_tokens": 4}
    start = {"model": runs / "sft", "reward": runs / "reward"}
    run(repository, "ppo", **start, prompts=prompts, out=runs / "ppo", **few)
    against = {"against": runs / "sft", "judge": runs / "reward"}
    run(repository, "eval", model=runs / "ppo", **against, data=prompts, out=runs / "eval.json", max_new_tokens=4)
    found = json.loads((runs / "eval.json").read_text(encoding="utf-8"))
    assert found["answers"] == 8
    assert found["win_rate"]["count"] == 8


def test_the_loop_runs_its_rounds_with_a_simulated_annotator(repository: Path, runs: Path) -> None:
    few = {"ppo.steps": 1, "ppo.rollouts": 4, "ppo.max_new_tokens": 4, "sample.max_new_tokens": 4, "reward.epochs": 1.0}
    given = {"model": runs / "sft", "annotator": f"{repository}/examples/rewards.py:short", "out": runs / "rlhf"}
    prompts = repository / "examples" / "data" / "prompts.jsonl"
    run(repository, "rlhf", **given, prompts=prompts, **few, **{"eval.max_new_tokens": 4})
    for number in (1, 2):
        assert (runs / "rlhf" / f"round-{number}" / "policy" / "adapter_model.safetensors").is_file()


def test_chat_shows_two_models_and_keeps_the_vote(
    repository: Path, runs: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello.\n2\n/quit\n"))
    models = {"model": runs / "sft", "against": tiny_model, "db": runs / "votes.db"}
    run(repository, "chat", **models, max_new_tokens=12)
    [vote] = read(runs / "votes.db", "ranked").records
    assert isinstance(vote, RankedRecord)
    assert (vote.annotator, sorted(map(str, vote.ranks))) == ("chat", ["1", "2"])


def test_dpo_reads_the_same_rankings_as_reward(repository: Path, runs: Path) -> None:
    data = repository / "examples" / "data" / "ranked.jsonl"
    run(repository, "dpo", model=runs / "sft", data=data, out=runs / "dpo", epochs=1.0)
    assert (runs / "dpo" / "adapter_model.safetensors").is_file()
