"""Whether memory stays flat: resident memory and living tensors early and late in runs of 1,000 updates.

    python -m benchmarks flat [--steps 1000] [--methods sft dpo reward ppo] [--precision fp32 bf16]

A small random Llama is trained by each method in each precision on generated rows of many lengths, each run in a
process of its own with one thread and a fixed `micro_batch_tokens`. After each update the resident memory is noted;
told is the highest of the hundred updates after the first hundred beside that of the last hundred, since lengths differ
from step to step. Living tensors are counted after update 100 and after the last one. Memory is flat when the first
grew by no more than the noise, 8 MB, and the second not at all. Metrics that a run keeps in memory for its panel
are numbers, not tensors: they are part of the resident memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.frame.marks import memory, tell
from benchmarks.frame.report import keep, print_table
from benchmarks.frame.sizes import Size, write_model
from benchmarks.frame.texts import answers, pairs, write_tokenizer

SMALL = Size(hidden=64, layers=2, heads=4, kv_heads=4, intermediate=128, vocabulary=2_000, tied=True)
METHODS = ("sft", "dpo", "reward", "ppo")
PRECISIONS = ("fp32", "bf16")
EARLY, WINDOW = 100, 100
BYTES = 8_000_000


def write_rows(folder: Path) -> None:
    """Questions with answers, pairs, and prompts, none longer than 400 characters; and a reward."""
    draw = random.Random(0)
    asked = [row for row in answers() if len(row[0]) + len(row[1]) < 400]
    ranked = [row for row in pairs() if sum(map(len, row)) < 600]
    draw.shuffle(asked)
    rows: dict[str, list[dict[str, str]]] = {
        "sft": [{"prompt": question, "completion": answer} for question, answer in asked],
        "dpo": [{"prompt": question, "chosen": good, "rejected": bad} for question, good, bad in ranked],
        "ppo": [{"prompt": question} for question, _ in asked if len(question) < 200],
    }
    for name, found in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    (folder / "rewards.py").write_text("def short(prompt, response):\n    return -0.01 * len(response)\n")


def settings_of(method: str, precision: str, folder: Path, steps: int) -> dict[str, Any]:
    """The settings of a run of so many updates."""
    settings: dict[str, Any] = {"model": str(folder / "model"), "out": str(folder / method), "steps": steps}
    settings |= {"precision": precision}
    settings |= {"micro_batch_tokens": 1024, "save_every": None, "learning_rate": 1e-4}
    if method == "ppo":
        settings |= {"prompts": str(folder / "ppo.jsonl"), "reward": f"{folder / 'rewards.py'}:short"}
        settings |= {"rollouts": 8, "max_new_tokens": 16, "ppo_epochs": 1, "eval_prompts": None, "rollouts_every": None}
        return settings | {"critic": {"warmup": 0}, "best": None}
    data = folder / ("sft.jsonl" if method == "sft" else "dpo.jsonl")
    return settings | {"data": str(data), "batch_size": 4, "eval_data": None}


def measure(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Resident bytes after each update, and living tensors after update 100 and the last."""
    from posttrain import start  # noqa: PLC0415 - only in the process that measures
    from posttrain.config import CONFIGS, make_config  # noqa: PLC0415
    from posttrain.console import Console, Silent  # noqa: PLC0415
    from posttrain.console.progress import Progress  # noqa: PLC0415

    resident: list[int] = []
    tensors: dict[int, int] = {}

    class Watching(Silent):
        def step(self, progress: Progress) -> None:
            resident.append(memory("VmRSS"))
            if progress.step in (EARLY, progress.steps):
                tensors[progress.step] = living()

    config: Any = make_config(CONFIGS[method], settings)
    start(config, console=Console(Watching()), fresh=True)
    return {"resident": resident, "tensors": list(tensors.values())}


def living() -> int:
    """The number of tensors that the interpreter knows of."""
    import torch  # noqa: PLC0415 - only in the process that measures

    gc.collect()
    return sum(1 for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))


def told(found: Mapping[str, Any]) -> dict[str, Any]:
    """The highest resident memory early and late, the tensors, and whether that is flat."""
    resident: list[int] = found["resident"]
    early, late = max(resident[EARLY : EARLY + WINDOW]), max(resident[-WINDOW:])
    before, after = found["tensors"]
    flat = late - early <= BYTES and after <= before
    return {"early": early, "late": late, "tensors": [before, after], "updates": len(resident), "flat": flat}


def apart(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`measure` in a process of its own, with one thread."""
    asked = json.dumps({"method": method, "settings": settings})
    words = [sys.executable, "-m", "benchmarks", "flat", "--measure", asked]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "POSTTRAIN_CACHE": f"{settings['out']}-cache"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=variables)
    if done.returncode:
        raise RuntimeError(f"{method}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """1 when the memory of a method grew."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks flat", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--precision", nargs="+", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        asked = json.loads(given.measure)
        tell(measure(asked["method"], asked["settings"]))
        return 0
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder)
        write_tokenizer(folder / "words", vocabulary=SMALL.vocabulary)
        write_model(folder / "model", SMALL, folder / "words")
        for method, precision in product(given.methods, given.precision):
            settings = settings_of(method, precision, folder, given.steps)
            found[f"{method} {precision}"] = told(apart(method, settings))
    print_table([_row(method, facts) for method, facts in found.items()])
    worst = max((facts["late"] - facts["early"]) / 1e6 for facts in found.values())
    keep("flat", {"methods": found, "measured": {"growth_mb": worst}})
    return int(not all(facts["flat"] for facts in found.values()))


def _row(method: str, facts: Mapping[str, Any]) -> dict[str, object]:
    before, after = facts["tensors"]
    return {
        "method": method,
        "updates": facts["updates"],
        f"MB, updates {EARLY}-{EARLY + WINDOW}": f"{facts['early'] / 1e6:.1f}",
        f"MB, last {WINDOW}": f"{facts['late'] / 1e6:.1f}",
        "tensors": f"{before} → {after}",
        "flat": "yes" if facts["flat"] else "no",
    }
