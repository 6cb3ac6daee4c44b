"""Loops on the tiny model that take seconds, and what they leave."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from killing import remains
from stages import Stages

from posttrain.data import feedback_db

GOLD = '''"""What the simulated annotator likes: a number that every answer has."""


def gold(prompt: str, response: str) -> float:
    return sum(map(ord, response)) % 97 / 97


def same(prompt: str, response: str) -> float:
    return 1.0
'''
SETTINGS = """
version: 1
model: {model}
prompts: {prompts}
out: {out}
rounds: 2
ask: 8
held_out: 30%
seed: 1
sample: {{k: 3, max_new_tokens: 6}}
reward: {{steps: 3, batch_size: 4, learning_rate: 0.01}}
eval: {{max_new_tokens: 4}}
"""
ANNOTATED = "annotator: {{score: '{gold}:gold', names: [ada, bo], temperature: 0.1}}\n"
PPO = "ppo: {steps: 2, rollouts: 4, max_new_tokens: 4, ppo_epochs: 1, learning_rate: 0.01, critic: {warmup: 0}}\n"
DPO = "method: dpo\npolicy_from: last\nchoose: uncertain\ndpo: {steps: 2, batch_size: 4, learning_rate: 0.01}\n"


def write_loop(folder: Path, stages: Stages, more: str = PPO, *, annotated: bool = True) -> Path:
    """The settings of a loop in `folder`, whose rounds go to `folder/loop`."""
    folder.mkdir(parents=True, exist_ok=True)
    gold = folder / "rewards.py"
    gold.write_text(GOLD, encoding="utf-8")
    file = folder / "loop.yaml"
    text = SETTINGS.format(model=stages.sft, prompts=stages.prompts, out=folder / "loop")
    file.write_text(text + (ANNOTATED.format(gold=gold) if annotated else "") + more, encoding="utf-8")
    return file


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def facts(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def left(out: Path) -> Mapping[str, Any]:
    """All that a loop learnt and measured: what each of its runs leaves, every other file, and the rankings."""
    runs = [run.parent for run in sorted(out.glob("round-*/*/run"))]
    found: dict[str, Any] = {}
    for run in runs:
        found |= {f"{run.relative_to(out)}/{name}": value for name, value in remains(run).items()}
    for file in sorted(item for item in out.rglob("*") if item.is_file()):
        name = str(file.relative_to(out))
        within = any(run in file.parents for run in runs)
        if not within and name not in ("loop.yaml", "run/lock", "report.html") and not name.startswith("feedback.db"):
            found[name] = file.read_bytes()
    found["rankings"] = sorted(str(row) for _, row in feedback_db.rankings(out / "feedback.db"))
    return found
