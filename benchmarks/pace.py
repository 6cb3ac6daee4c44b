"""The time left that a run shows after 20 of 100 steps, beside the time that it then takes.

    python -m benchmarks pace [--model FOLDER]

A small model is finetuned with evaluations, samples and checkpoints, and trained by PPO with 4 updates a round, of
which the first 10 are of the critic alone. Both are told twice: at a run's first start, and by a run that goes on. The
clock is that of the CPU, so that whatever else the machine does falls on neither.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.memory import SHARED, TEXT
from posttrain import start
from posttrain.config import CONFIGS, make_config
from posttrain.console import Console, Silent
from posttrain.console.progress import Progress
from posttrain.errors import Interrupted

GOAL = 0.3
LOOK = 20


class Watching(Silent):
    """Shows nothing; keeps what a run says of its time after some steps of its own, and how long it then takes."""

    def __init__(self, *, stop: int | None = None) -> None:
        self.told = self.looked = self.ended = 0.0
        self._stop = stop

    def step(self, progress: Progress) -> None:
        """Looks at the estimate once, and stops the run where it shall be stopped."""
        now = time.process_time()
        if progress.step - progress.earlier == LOOK:
            self.told, self.looked = progress.left, now
        self.ended = now
        if progress.step == self._stop:
            signal.raise_signal(signal.SIGINT)


def write_data(folder: Path) -> None:
    """Conversations and prompts of 10 to 60 words, no two the same."""
    draw = random.Random(0)
    rows: list[dict[str, str]] = []
    for number in range(400):
        asked = f"{number} " + " ".join(draw.choices(TEXT.split(), k=draw.randint(5, 20)))
        rows.append({"prompt": asked, "completion": " ".join(draw.choices(TEXT.split(), k=draw.randint(5, 40)))})
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "rewards.py").write_text("def short(prompt, response):\n    return -0.01 * len(response)\n")


def settings_of(method: str, folder: Path, model: Path) -> dict[str, Any]:
    """The settings of a run of 100 updates."""
    settings: dict[str, Any] = {"model": str(model), "out": str(folder / method), "max_length": 256, "save_every": 25}
    if method == "ppo":
        reward = f"{folder / 'rewards.py'}:short"
        settings |= {"prompts": str(folder / "chats.jsonl"), "reward": reward, "max_new_tokens": 64}
        return settings | {"steps": 25, "rollouts": 16, "ppo_epochs": 4, "critic": {"warmup": 10}}
    settings |= {"data": str(folder / "chats.jsonl"), "steps": 100, "batch_size": 48, "eval_data": "10%"}
    return settings | {"samples": ["once upon a time"]}


def tell(name: str, watch: Watching) -> float:
    """The part by which an estimate was off; printed."""
    took = watch.ended - watch.looked
    print(f"{name:16} told {watch.told:6.1f} s  took {took:6.1f} s  ratio {took / watch.told:.2f}", flush=True)
    return abs(took / watch.told - 1)


def main() -> int:
    """1 when an estimate is off by more than the goal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks pace", description=__doc__)
    parser.add_argument("--model", type=Path, default=SHARED)
    given = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        for method in ("sft", "ppo"):
            config: Any = make_config(CONFIGS[method], settings_of(method, folder, given.model))
            whole, stopped, goes_on = Watching(), Watching(stop=50), Watching()
            start(config, console=Console(whole, clock=time.process_time))
            worst = max(worst, tell(method, whole))
            with contextlib.suppress(Interrupted):
                start(config, console=Console(stopped, clock=time.process_time), fresh=True)
            start(config, console=Console(goes_on, clock=time.process_time))
            worst = max(worst, tell(f"{method}, going on", goes_on))
    print(f"worst {worst:.0%}, goal {GOAL:.0%}: {'reached' if worst <= GOAL else 'missed'}")
    return int(worst > GOAL)


if __name__ == "__main__":
    sys.exit(main())
