"""Direct preference optimisation on pairs, with a reference: ours beside TRL's DPOTrainer.

TRL asks its reference in every step; ours asks it once before the first, which is counted by the share of the steps
that count, and told again without it, as when a later run reuses it.

    python -m benchmarks dpo [--size 15m] [--precision fp32] [--repeats 3] [--quick]
"""

from __future__ import annotations

from benchmarks.frame import compare, training


def main() -> int:
    """1 when the sides do not agree."""
    return compare.main("dpo", f"{__doc__}\n{training.__doc__}")
