"""Run folders that no training wrote, for reports: of any command, long, live, crashed, resumed, with hostile texts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from posttrain.config import CONFIGS, make_config
from posttrain.errors import Diverged, Problem
from posttrain.run import RunWriter
from posttrain.run.lock import FolderLock

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    "<a href='javascript:window.hacked=3'>click</a>",
    "{{ 7 * 7 }} <!-- \u202etxt.exe\u2066 \u0000 \u001b[2J ]]> | `x` *y* ${1}",
)
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "sft": {"data": "train.jsonl"},
    "classify": {"data": "labelled.jsonl"},
    "reward": {"data": "ranked.jsonl"},
    "ppo": {"reward": "rm", "prompts": "prompts.jsonl"},
    "dpo": {"data": "ranked.jsonl"},
    "online-dpo": {"reward": "rm", "prompts": "prompts.jsonl"},
}
METRICS: Mapping[str, Sequence[str]] = {
    "sft": ("loss",),
    "classify": ("loss", "accuracy"),
    "reward": ("loss", "accuracy", "margin"),
    "ppo": ("score", "reward", "kl", "length", "stopped", "round", "actor_loss", "critic_loss"),
    "dpo": ("loss", "accuracy", "margin", "chosen_logratio", "rejected_logratio"),
    "online-dpo": ("loss", "accuracy", "margin", "score"),
}

_LOCKS: list[FolderLock] = []  # of the runs that go on


def written(
    out: Path,
    command: str = "sft",
    *,
    steps: int = 20,
    ending: str = "done",
    model: Path | str = "base",
    samples: Sequence[Mapping[str, object]] = (),
    rows: Mapping[str, Mapping[str, int]] | None = None,
    problems: Sequence[Problem] = (),
    **settings: object,
) -> Path:
    """A run folder whose metrics fall as 1 / step, which is `done`, `running`, `failed`, or killed: `stopped`."""
    made = {"model": str(model), "out": str(out), **SETTINGS[command], **settings}
    config = make_config(CONFIGS[command], made)
    writer = RunWriter.create(out, config, lineage={"model": str(model)})
    try:
        with writer:
            _fill(writer, command, steps, rows or {}, problems)
            for sample in samples:
                writer.sample(**sample)  # pyright: ignore[reportArgumentType]
            if ending == "failed":
                raise Diverged("loss is not a number; nothing was updated")
            if ending == "done":
                (out / "model.safetensors").write_bytes(b"weights")
                writer.finish(eval_loss=0.5)
    except Diverged:
        pass
    if ending == "running":
        _LOCKS.append(FolderLock.take(out))
    return out


def _fill(
    writer: RunWriter,
    command: str,
    steps: int,
    rows: Mapping[str, Mapping[str, int]],
    problems: Sequence[Problem],
) -> None:
    memory = {"weights": 4_000_000, "gradients": 4_000_000, "optimizer": 8_000_000, "activations": 50_000_000}
    forecast = {"steps": steps, "seconds": 30.0, "memory": memory, "growth": 62_000_000, "disk": {"model": 4_000_000}}
    machine = {"device": "x86_64", "threads": "1", "where": "cpu · fp32"}
    writer.note(forecast=forecast, machine=machine, automatic={"max_length": 256, "best": None})
    writer.note(**{f"{name}_rows": counts for name, counts in rows.items()})
    writer.problems(problems)
    for step in range(1, steps + 1):
        values = dict.fromkeys(METRICS[command], 1 / step) | {"tokens": 100.0, "learning_rate": 1e-3, "grad_norm": 1.0}
        if step % 10 == 0:
            values["eval_loss"] = 1.1 / step
        writer.metrics(step, values)


def change(run: Path, **facts: object) -> Path:
    """Facts that stand in run.json besides, whatever they are."""
    file = run / "run" / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **facts}), encoding="utf-8")
    return run


def wave(steps: int) -> list[float]:
    """A line that goes up and down, with one peak that is a single step wide."""
    return [math.sin(step / 50) + (5.0 if step == steps // 3 else 0.0) for step in range(steps)]
