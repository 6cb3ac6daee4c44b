"""What this machine multiplies at best: GFLOP/s of square matrices, with the threads of the run.

python -m benchmarks.frame.gemm cpu|cuda [fp32] [bf16]

A processor without instructions for bfloat16 takes a minute for a product of them, so that only what is used is asked.
"""

from __future__ import annotations

import sys
import time

from benchmarks.frame.marks import tell

WIDTH, SECONDS = {"cpu": 2048, "cuda": 8192}, 1.5


def peak(kind: str, device: str) -> float:
    """FLOP/s of the fastest product of two square matrices, 2,048 wide or on a GPU 8,192, in a second and a half."""
    import torch  # noqa: PLC0415 - only in the process that measures

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[kind]
    width = WIDTH[device]
    left, right = torch.randn(2, width, width).to(device, dtype)
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * width**3 / best


def main() -> None:
    """Tells the peak of each kind."""
    import torch  # noqa: PLC0415 - only in the process that measures

    device, *kinds = sys.argv[1:]
    tell({**{kind: peak(kind, device) for kind in kinds}, "threads": torch.get_num_threads()})


if __name__ == "__main__":
    main()
