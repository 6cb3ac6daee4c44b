"""What a side notes of itself while it works: times of its steps, and memory. The standard library alone on a CPU.

Both sides of a benchmark use it, each in a process and an environment of its own.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory(field: str) -> int:
    """Bytes of a field of `/proc/self/status`: VmRSS, VmHWM or RssFile."""
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


class Marks:
    """Notes of one process. `loaded` when all models are there, `step` after each step, then `facts`.

    Growth is the highest resident memory between `loaded` and the last `step`, less that at `loaded`; pages of
    libraries, which are read from their files as they are first needed, are no part of it. Linux alone tells it. On
    `cuda` memory is what tensors take on the device, and a step ends when the device has done its work.
    """

    def __init__(self, device: str = "cpu") -> None:
        self._on_gpu = device == "cuda"
        self._walls: list[float] = []
        self._cpus: list[float] = []
        self._resident: list[int] = []
        self._loaded = self._file = self._peak = 0

    def loaded(self) -> None:
        """Sets the baseline of memory and forgets the peak so far; the first call counts."""
        if self._on_gpu:
            import torch  # noqa: PLC0415 - only where a GPU is measured

            self._loaded = self._loaded or torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        elif not self._loaded:
            self._loaded, self._file = memory("VmRSS"), memory("RssFile")
            CLEAR.write_text("5", encoding="ascii")

    def step(self) -> None:
        """Notes that a step has begun or ended: the first call is the beginning of the first step."""
        if self._on_gpu:
            import torch  # noqa: PLC0415 - only where a GPU is measured

            torch.cuda.synchronize()
            self._peak = torch.cuda.max_memory_allocated()
        else:
            self._peak = memory("VmHWM") - (memory("RssFile") - self._file)
        self._walls.append(time.perf_counter())
        self._cpus.append(time.process_time())
        self._resident.append(memory("VmRSS"))

    def facts(self, **more: Any) -> dict[str, Any]:
        """All that was noted, and `more`: seconds and CPU seconds of each step, bytes of memory."""
        return {
            "seconds": [after - before for before, after in zip(self._walls, self._walls[1:], strict=False)],
            "cpu": [after - before for before, after in zip(self._cpus, self._cpus[1:], strict=False)],
            "growth": self._peak - self._loaded,
            "peak": self._peak,
            "resident": self._resident,
            **more,
        }


def tell(facts: dict[str, Any]) -> None:
    """Prints the facts as the last line of a side's output, where the frame reads them."""
    print(json.dumps(facts), flush=True)
