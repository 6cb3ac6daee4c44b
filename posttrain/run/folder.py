"""A run folder as it is read: settings, metrics, samples, status."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from posttrain.config import CONFIGS, Settings, load_config
from posttrain.errors import ModelError

Status: TypeAlias = Literal["running", "done", "failed", "interrupted"]
Facts: TypeAlias = "dict[str, Any]"


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder, read when asked: its settings, metrics, samples and status. It is a path-like model folder."""

    path: Path

    @staticmethod
    def open(path: str | os.PathLike[str]) -> Run:
        """The run in a folder. Raises ModelError when no run wrote it."""
        run = Run(Path(path))
        if not run.exists():
            raise ModelError(f"{path} is no run folder: it has no run/run.json")
        return run

    def exists(self) -> bool:
        """True when a run wrote this folder."""
        return (self.path / "run" / "run.json").is_file()

    def require_done(self) -> None:
        """Raises ModelError when a run wrote this folder and did not finish: its model may be missing or torn."""
        if not self.exists() or self.status == "done":
            return
        step = max((row["step"] for row in self.metrics), default=0)
        ended = {"failed": "failed", "interrupted": "was interrupted"}.get(self.status, "has not finished")
        raise ModelError(
            f"{self.path} is a run that {ended}, at step {step}: it holds no model yet"
            "\n  fix: run its command again, it goes on: "
            f"posttrain {self.command} {self.path}/run/config.yaml --out {self.path}"
        )

    @property
    def record(self) -> Facts:
        """The content of run.json: command, status, versions, hardware, seeds, data hashes, parents, results."""
        return json.loads((self.path / "run" / "run.json").read_text(encoding="utf-8"))

    @property
    def command(self) -> str:
        return self.record["command"]

    @property
    def status(self) -> Status:
        return self.record["status"]

    @property
    def results(self) -> Facts:
        """What the run measured at its end; empty while it is not done."""
        return self.record.get("results", {})

    @property
    def config(self) -> Settings:
        """The resolved settings."""
        return load_config(CONFIGS[self.command], self.path / "run" / "config.yaml", {})

    @property
    def metrics(self) -> list[Facts]:
        """One mapping a step, in order: `step`, `seconds` since the start, and the metrics by name.

        What was measured after a step, in a row of its own, is part of the step.
        """
        steps: dict[int, Facts] = {}
        for row in _lines(self.path / "run" / "metrics.jsonl"):
            steps.setdefault(row["step"], {}).update(row)
        return list(steps.values())

    @property
    def samples(self) -> list[Facts]:
        """The answers written along the way: `step`, `prompt`, `answer`, `stopped`."""
        return list(_lines(self.path / "run" / "samples.jsonl"))

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)


def _lines(path: Path) -> Iterator[Facts]:
    """The objects of a JSON-lines file; none when it does not exist. A last line that a kill cut short is left out."""
    if not path.is_file():
        return
    with path.open("rb") as file:  # a line may be cut within a character
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)
