"""Runs on a GPU: with `deterministic` one that is killed and started again ends with the bits of one that never was."""

from __future__ import annotations

from pathlib import Path

import pytest
from killing import Nursery, differing, hunt, lines_written, remains
from stages import Stages

pytestmark = [pytest.mark.gpu, pytest.mark.medium]

PASSES = "--steps 14 --batch_size 4 --learning_rate 0.01 --save_every 3"
ROUNDS = (
    "--steps 3 --rollouts 8 --group 2 --max_new_tokens 8 --ppo_epochs 2 --minibatches 2 --rollouts_every 2"
    " --learning_rate 0.01 --save_every 3"
)


def words_of(method: str, stages: Stages) -> list[str]:
    """The command of a method, without `--out`."""
    command, _, layout = method.partition("-")
    data = stages.chats if command == "sft" else stages.rankings
    start = stages.base if command == "sft" else stages.sft
    words = [command, "--model", str(start), "--deterministic", "true"]
    if command == "ppo":
        asked = ["--reward", str(stages.reward), "--prompts", str(stages.prompts), "--layout", layout]
        return [*words, *asked, *ROUNDS.split()]
    return [*words, "--data", str(data), "--eval_data", "20%", *PASSES.split()]


@pytest.mark.parametrize("method", ["sft", "reward", "dpo", "ppo-separate", "ppo-trunk"])
def test_a_killed_run_ends_with_the_same_bits(method: str, stages: Stages, nursery: Nursery, tmp_path: Path) -> None:
    words = words_of(method, stages)
    for name, moments in (("whole", []), ("killed", [lines_written(8)])):
        hunt(nursery, [*words, "--out", str(tmp_path / name)], tmp_path / name, moments)
    assert differing(remains(tmp_path / "whole"), remains(tmp_path / "killed")) == []
