"""What a GPU makes of us: tests that need one, then finetuning with attention by rows, in one kernel, and compiled.

    python -m benchmarks gpu [--size 60m] [--tokens 16384] [--steps 20] [--tokenizer FOLDER]

Prints an entry for dev/LOG.md. Every run is a process of its own; tokens per second are those of its second half, so
that compiling is no part of them, and the seconds until the first update are told apart. Exit code 1 when a test fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.memory import SHARED, SIZES, write_data, write_model


def measure(asked: dict[str, Any]) -> dict[str, float]:
    """One run of finetuning: tokens per second, seconds until its first update, and the memory of its device."""
    import torch  # noqa: PLC0415 - only in the process that measures

    from posttrain import start  # noqa: PLC0415
    from posttrain.config import CONFIGS, make_config  # noqa: PLC0415
    from posttrain.console import open_console  # noqa: PLC0415
    from posttrain.models import blocks_gate  # noqa: PLC0415
    from posttrain.recipes import fitting  # noqa: PLC0415

    if asked["rows"]:
        blocks_gate.KERNELS = ()
    times: list[float] = []
    kept = fitting.fit
    began = time.perf_counter()

    def fit(*given: Any, **named: Any) -> int:
        def noted(number: int, metrics: dict[str, float]) -> None:
            times.append(time.perf_counter())

        return kept(*given, **{**named, "hooks": [*named["hooks"], noted]})

    fitting.fit = fit
    run = start(make_config(CONFIGS["sft"], asked["settings"]), console=open_console(quiet=True), fresh=True)
    half = len(times) // 2
    tokens = sum(row["tokens"] for row in run.metrics[half + 1 :])
    return {
        "tokens_per_second": tokens / (times[-1] - times[half]),
        "first": times[0] - began,
        "peak": float(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0.0,
        "loss": run.metrics[-1]["loss"],
    }


def apart(settings: dict[str, Any], *, rows: bool) -> dict[str, float]:
    """`measure` in a process of its own."""
    asked = json.dumps({"settings": settings, "rows": rows})
    words = [sys.executable, "-m", "benchmarks", "gpu", "--measure", asked]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """1 when a test fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--size", default="60m", choices=list(SIZES))
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tokenizer", type=Path, default=SHARED)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(json.loads(given.measure))))
        return 0
    import torch  # noqa: PLC0415

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: the CPU"
    seen = {**os.environ, "POSTTRAIN_TEST_GPU": "1"}
    code = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu"], check=False, env=seen).returncode
    print(f"## {date.today()} · What do the kernels of a GPU do?")
    asked = f"python -m benchmarks gpu --size {given.size} --tokens {given.tokens} --steps {given.steps}"
    print(f"Setting   `{asked}`, {device}, torch {torch.__version__}")
    print(f"Result    tests {'passed' if code == 0 else 'FAILED'}")
    with tempfile.TemporaryDirectory() as name:
        _compare(Path(name), given)
    return int(code != 0)


def _compare(folder: Path, given: argparse.Namespace) -> None:
    write_data(folder)
    write_model(folder / "model", SIZES[given.size], given.tokenizer)
    settings = {
        "model": str(folder / "model"), "data": str(folder / "chats.jsonl"), "out": str(folder / "out"),
        "steps": given.steps, "batch_size": given.tokens // 24, "micro_batch_tokens": given.tokens,
        "eval_data": None, "save_every": None, "learning_rate": 1e-5,
    }  # fmt: skip
    for precision in ("fp32", "bf16"):
        for name, rows, compiled in (("rows", True, False), ("one kernel", False, False), ("compiled", False, True)):
            found = apart({**settings, "precision": precision, "compile": compiled}, rows=rows)
            print(
                f"          {precision} {name:10}"
                f" {found['tokens_per_second']:9,.0f} tokens/s   first update after {found['first']:.1f} s"
                f"   {found['peak'] / 1e6:7,.0f} MB   loss {found['loss']:.5f}",
                flush=True,
            )
