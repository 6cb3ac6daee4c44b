"""What a run will take of its machine, in bytes and seconds, and the words for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from posttrain.counted import counted

CACHE = "cache of the sampler"
MASTERS = "weights in float32 of the optimizer"
LENT = "models that wait in CPU memory"
"""Those are on the device while they annotate."""
COPY, COPY_APART = "copy of a checkpoint", "copy of a checkpoint, in CPU memory"
"""From which it is written while training goes on: on the device that trains, or beside a GPU."""
BETTER = "weights that replace the best"
"""On a CPU, where the best ones lie: those before stay until the step is whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run takes beyond what was there when its models were loaded.

    `memory`: bytes by part; `weights`, and those of the optimizer, are there already and not part of the `growth`.
    `available`: bytes that were free when the models were loaded. `disk`: bytes by part, `disk_free` those of the disk
    of `out`. `tokens`: of the largest micro-batch. `seconds`: of all steps, evaluations and saving aside; None where
    they were not measured, and with `at_most` where answers may end sooner.
    """

    command: str
    steps: int
    tokens: int
    memory: Mapping[str, int]
    available: int
    disk: Mapping[str, int]
    disk_free: int
    seconds: float | None
    at_most: bool = False

    @property
    def growth(self) -> int:
        """Bytes that the run adds to the loaded models at its highest: while it updates, or while it samples."""
        return highest(self.memory)

    def facts(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {**asdict(self), "growth": self.growth}

    @property
    def line(self) -> str:
        """`memory: 0.93 GB beyond the weights at the worst batch of 8,192 tokens; 21.3 GB are free`."""
        worst = f"at the worst batch of {counted(self.tokens, 'token')}"
        return f"memory: {size(self.growth)} beyond the weights {worst}; {size(self.available)} are free"

    def table(self) -> list[dict[str, str]]:
        """Rows for reading: what takes memory, disk and time."""
        rows = [{"what": f"memory · {name}", "takes": size(taken)} for name, taken in self.memory.items()]
        rows.append({"what": "memory · beyond the weights", "takes": size(self.growth), "free": size(self.available)})
        rows += [{"what": f"disk · {name}", "takes": size(taken)} for name, taken in self.disk.items()]
        rows.append({"what": "disk · together", "takes": size(sum(self.disk.values())), "free": size(self.disk_free)})
        pace = "not measured" if self.seconds is None else duration(self.seconds)
        pace = pace.replace("about", "at most") if self.at_most else pace
        rows.append({"what": f"time · {counted(self.steps, 'step')}", "takes": pace})
        return [{"what": row["what"], "takes": row["takes"], "free": row.get("free", "")} for row in rows]


def is_copied(facts: Mapping[str, Any]) -> bool:
    """Whether a forecast counts on a copy of checkpoints, from which they are written while training goes on."""
    return any(name in facts.get("memory", {}) for name in (COPY, COPY_APART))


def highest(memory: Mapping[str, int]) -> int:
    """Bytes beyond the weights at the highest: of updating, sampling and annotating, one is done at a time."""
    updating = memory["gradients"] + memory["activations"]
    always = memory["optimizer"] + memory.get(COPY, 0) + memory.get(BETTER, 0)
    return always + max(updating, memory.get(CACHE, 0), memory.get(LENT, 0))


def size(taken: float) -> str:
    """Bytes for reading: `930 MB`, `21.3 GB`."""
    if taken >= 1e9:
        return f"{taken / 1e9:,.1f} GB"
    return f"{taken / 1e6:,.1f} MB" if taken < 1e7 else f"{taken / 1e6:,.0f} MB"


def duration(seconds: float) -> str:
    """`about 0:06:48`; below a minute `about 41 s`."""
    return f"about {seconds:.0f} s" if seconds < 60 else f"about {timedelta(seconds=round(seconds))}"


def shortage(wanted: Mapping[str, int], free: int, tokens: int, fixes: Sequence[str]) -> str:
    """The message of a run that does not fit: bytes by part, then the cheapest ways out."""
    parts = ", ".join(f"{name} {size(taken)}" for name, taken in wanted.items() if taken)
    shown = "".join(f"\n  fix: {fix}" if not place else f"\n    or {fix}" for place, fix in enumerate(fixes))
    return (
        f"this does not fit: it needs {size(highest(wanted))} beyond the loaded weights, and {size(free)} are free"
        f"\n  {parts}, at {counted(tokens, 'token')} a micro-batch{shown}"
    )
