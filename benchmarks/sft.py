"""Finetuning on questions and answers, loss on the answers: ours beside TRL's SFTTrainer.

python -m benchmarks sft [--size 15m] [--precision fp32] [--repeats 3] [--quick]
"""

from __future__ import annotations

from benchmarks.frame import compare, training


def main() -> int:
    """1 when the sides do not agree."""
    return compare.main("sft", f"{__doc__}\n{training.__doc__}")
