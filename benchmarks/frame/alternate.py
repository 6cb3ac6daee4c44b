"""Sides of a benchmark run in turns, each in a process of its own, and what their repeats say together.

A side is a command whose last line of output is JSON (`benchmarks.frame.marks.tell`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
Found = TypeVar("Found")


def peers_folder() -> Path:
    """Where the environments of peers are: `.peers`, or what POSTTRAIN_PEERS names."""
    return Path(os.environ.get("POSTTRAIN_PEERS", ROOT / ".peers"))


def peer_python(name: str) -> Path:
    """The interpreter of a peer's environment, which `python -m benchmarks peers` makes.

    Raises SystemExit with the command where it is missing.
    """
    python = peers_folder() / name / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"{python} is not there\n  fix: python -m benchmarks peers {name}")
    return python


def threads() -> int:
    """The cores that this process may use; so many threads has every side."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    words: Sequence[str | Path], *, python: str | Path = sys.executable, cache: Path | None = None
) -> dict[str, Any]:
    """What `python -m WORDS…` tells in its last line, a thread for each core and nothing from any network.

    Tokens that a side keeps for later runs go into `cache`.

    Raises RuntimeError with the end of its output when it fails.
    """
    many = {"OMP_NUM_THREADS": str(threads())}
    searched = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONPATH": searched}
    kept = {"POSTTRAIN_CACHE": str(cache), "HF_DATASETS_CACHE": str(cache)} if cache else {}
    done = subprocess.run(
        [str(python), "-m", *map(str, words)], capture_output=True, text=True, check=False, cwd=ROOT,
        env={**os.environ, **many, **offline, **kept},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peaks(device: str, kinds: Iterable[str], before: Mapping[str, float] | None = None) -> dict[str, float]:
    """What the machine multiplies at best now in fp32 and bf16, as far as the `kinds` ask.

    It is what it was `before` where that was more: others may share the machine.
    """
    now = run(["benchmarks.frame.gemm", device, *sorted(set(kinds))])
    return {name: max(value, (before or {}).get(name, 0.0)) for name, value in now.items()}


def kind_of(setting: str) -> str:
    """The precision of the products of a setting of TRL, whose default is bf16."""
    return "bf16" if "bf16" in setting or setting == "defaults" else "fp32"


def shown(peaks: Mapping[str, float]) -> str:
    """`fp32 143 GFLOP/s`, for each kind that was measured."""
    return ", ".join(f"{kind} {value / 1e9:.0f} GFLOP/s" for kind, value in peaks.items() if kind != "threads")


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option `--device`."""
    about = "of both sides; on a CPU no side sees a GPU"
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help=about)


def show_device(device: str) -> None:
    """The sides that are run from now on see a GPU only where it is asked for."""
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def suffix(device: str) -> str:
    """What the name of a finding says of the device: nothing for the CPU, which the goals are about."""
    return "" if device == "cpu" else f"-{device}"


def in_turns(sides: Mapping[str, Callable[[], Found]], repeats: int) -> dict[str, list[Found]]:
    """The results of each side, run A B A B …, so that whatever else the machine does falls on all alike."""
    found: dict[str, list[Found]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            found[name].append(side())
    return found


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A median with the least and the greatest beside it."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        """`1,234 (1,200–1,250)`."""
        digits = 0 if abs(self.median) >= 100 else 2 if abs(self.median) >= 1 else 3
        inner = f"{self.least:,.{digits}f}–{self.most:,.{digits}f}"
        return f"{self.median:,.{digits}f} ({inner})" if self.least != self.most else f"{self.median:,.{digits}f}"


def spread(values: Sequence[float]) -> Spread:
    """The median of some repeats, and how far they lie apart."""
    return Spread(median=statistics.median(values), least=min(values), most=max(values))
