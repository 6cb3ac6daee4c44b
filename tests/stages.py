"""A few steps of every earlier stage on the tiny model: what the later stages start from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import posttrain

LORA: Mapping[str, object] = {"rank": 4, "alpha": 8.0}
QUICK: Mapping[str, object] = {"batch_size": 4, "learning_rate": 0.01, "quiet": True}


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Data files, and finished runs: `sft` and `reward` of all weights, `sft_lora` and `reward_lora` as adapters."""

    base: Path
    chats: Path
    prompts: Path
    rankings: Path
    sft: Path
    sft_lora: Path
    reward: Path
    reward_lora: Path


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def build(folder: Path, base: Path) -> Stages:
    """Writes the data and trains every stage before PPO and DPO."""
    chats = write_rows(
        folder / "chats.jsonl", [{"prompt": f"{n} + {n} =", "completion": str(2 * n)} for n in range(16)]
    )
    prompts = write_rows(folder / "prompts.jsonl", [{"prompt": f"{n} + {n} ="} for n in range(20, 32)])
    rankings = write_rows(
        folder / "rankings.jsonl",
        [
            {"prompt": f"{n} + {n} =", "responses": [str(2 * n), "no", f"{n} or so"], "ranks": [1, 2, 2]}
            for n in range(16)
        ],
    )
    names = ("sft", "sft_lora", "reward", "reward_lora")
    runs = {name: folder / name for name in names}
    plain = {"steps": 3, **QUICK}
    posttrain.sft(model=base, data=chats, out=runs["sft"], **plain)
    posttrain.sft(model=base, data=chats, out=runs["sft_lora"], lora=LORA, **plain)
    posttrain.reward(model=runs["sft"], data=rankings, out=runs["reward"], **plain)
    posttrain.reward(model=runs["sft_lora"], data=rankings, out=runs["reward_lora"], lora=LORA, **plain)
    return Stages(base=base, chats=chats, prompts=prompts, rankings=rankings, **runs)
