"""Every method as words of the command line over the earlier stages, and short runs of finetuning."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from stages import QUICK, Stages

import posttrain
from posttrain.cli import main
from posttrain.config import CONFIGS
from posttrain.recipes import fitting
from posttrain.run import Run

PPO = "--steps 1 --rollouts 4 --max_new_tokens 4 --ppo_epochs 1 --critic.warmup 0"
ONLINE = "--steps 1 --rollouts 4 --group 2 --max_new_tokens 4"
FEW = "--steps 2 --batch_size 4 --eval_data null"
ADAPTER = "--lora.rank 4 --lora.alpha 8"


def commands(stages: Stages) -> Mapping[str, list[str]]:
    """Every method and every layout of PPO, without `--out`."""
    words = {
        "sft": f"--model {stages.base} --data {stages.chats} {FEW}",
        "sft-dropout": f"--model {stages.base} --data {stages.chats} {FEW} {ADAPTER} --lora.dropout 0.3",
        "reward": f"--model {stages.sft} --data {stages.rankings} {FEW}",
        "dpo": f"--model {stages.sft_lora} --data {stages.rankings} {FEW} {ADAPTER}",
        "dpo-kto": f"--model {stages.sft} --data {stages.rankings} {FEW} --loss kto",
        "online-dpo": f"--model {stages.sft} --reward {stages.reward} --prompts {stages.prompts} {ONLINE}",
        "ppo-separate": f"--model {stages.sft} --reward {stages.reward} --prompts {stages.prompts} {PPO}",
        "ppo-adapters": f"--model {stages.sft_lora} --reward {stages.reward_lora} --prompts {stages.prompts} {PPO} "
        f"{ADAPTER} --layout adapters",
        "ppo-trunk": f"--model {stages.sft_lora} --reward {stages.reward} --prompts {stages.prompts} {PPO} {ADAPTER} "
        "--layout trunk",
    }
    return {name: [_command(name), *line.split()] for name, line in words.items()}


def _command(name: str) -> str:
    return name if name in CONFIGS else name.partition("-")[0]


EVERY = ("sft", "sft-dropout", "reward", "dpo", "dpo-kto", "online-dpo", "ppo-separate", "ppo-adapters", "ppo-trunk")


def weights_in(folder: Path) -> int:
    return sum(tensor.numel() for tensor in load_file(folder / "model.safetensors").values())


def stopped_at_its_end(words: Sequence[str]) -> None:
    """Runs a command that is interrupted after its last step, with a checkpoint of it."""
    finish = fitting.fit

    def fit(*given: Any, **named: Any) -> None:
        finish(*given, **named)
        signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "fit", fit)
        assert main(words) == 130


def trained_on(rows: Path, model: Path, out: Path, **settings: Any) -> Run:
    """A run of finetuning without evaluation."""
    asked: dict[str, Any] = {**QUICK, "eval_data": None, **settings}
    return posttrain.sft(model=model, data=rows, out=out, **asked)
