"""A reward model on pairs: ours beside TRL's RewardTrainer, both from the same head.

python -m benchmarks reward [--size 15m] [--precision fp32] [--repeats 3] [--quick]
"""

from __future__ import annotations

from benchmarks.frame import compare, training


def main() -> int:
    """1 when the sides do not agree."""
    return compare.main("reward", f"{__doc__}\n{training.__doc__}")
