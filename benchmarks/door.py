"""Seconds until the help stands on the screen, over those of an interpreter that does nothing.

    python -m benchmarks door

The two are run in turns, so that whatever else the machine does falls on both alike; what is told is the median of
the differences.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

ROUNDS = 10
LIMIT = 0.3
COMMANDS = ("", "sft", "reward", "ppo", "dpo", "sample", "eval", "check", "demo", "init")


def seconds(words: Sequence[str]) -> float:
    """Wall-clock seconds of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def over_bare_python(words: Sequence[str]) -> float:
    """The median over the rounds of a process's seconds less those of a bare interpreter just before it."""
    differences: list[float] = []
    for _ in range(ROUNDS):
        bare = seconds(["-c", "pass"])
        differences.append(seconds(words) - bare)
    return statistics.median(differences)


def main() -> int:
    """1 when a help takes longer than the limit."""
    slowest = 0.0
    for command in COMMANDS:
        words = ["-m", "posttrain", *([command] if command else []), "--help"]
        seconds(words)  # the first one writes byte code
        taken = over_bare_python(words)
        slowest = max(slowest, taken)
        print(f"posttrain {command:7}--help   {taken:.3f} s over bare Python")
    print(f"slowest {slowest:.3f} s, limit {LIMIT} s: {'kept' if slowest < LIMIT else 'missed'}")
    return int(slowest >= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
