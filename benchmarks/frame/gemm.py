"""What this machine multiplies at best: GFLOP/s of square matrices in fp32 and bf16, with the threads of the run.

python -m benchmarks.frame.gemm
"""

from __future__ import annotations

import time

from benchmarks.frame.marks import tell

WIDTH, SECONDS = 2048, 1.5


def peak(kind: str) -> float:
    """FLOP/s of the fastest product of two [2048, 2048] within a second and a half."""
    import torch  # noqa: PLC0415 - only in the process that measures

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[kind]
    left, right = torch.randn(2, WIDTH, WIDTH).to(dtype)
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return 2 * WIDTH**3 / best


def main() -> None:
    """Tells both peaks."""
    import torch  # noqa: PLC0415 - only in the process that measures

    tell({"fp32": peak("fp32"), "bf16": peak("bf16"), "threads": torch.get_num_threads()})


if __name__ == "__main__":
    main()
