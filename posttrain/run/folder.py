"""A run folder as it is read: settings, metrics, samples, status."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from posttrain.config import CONFIGS, Settings, load_config
from posttrain.errors import ModelError
from posttrain.run.reading import checked_record, read_lines

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
        """The content of run.json: command, status, versions, hardware, seeds, data hashes, parents, results.

        Raises DataError, with the file and what is wrong in it, when no run wrote it so. So do all that read it.
        """
        return checked_record(self.path / "run" / "run.json")

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
        """The resolved settings. Raises ModelError for those of a command that there is not here, and ConfigError."""
        if self.command not in CONFIGS:
            raise ModelError(f"{self.path} is a run of {self.command!r:.40}, which this posttrain does not know")
        return load_config(CONFIGS[self.command], self.path / "run" / "config.yaml", {})

    @property
    def metrics(self) -> list[Facts]:
        """One mapping a step, in order: `step`, `seconds` since the start, and the metrics by name.

        What was measured after a step, in a row of its own, is part of the step. Raises DataError for a damaged line.
        """
        steps: dict[int, Facts] = {}
        for row in read_lines(self.path / "run" / "metrics.jsonl"):
            steps.setdefault(row["step"], {}).update(row)
        return list(steps.values())

    @property
    def samples(self) -> list[Facts]:
        """The answers written along the way: `step`, `prompt`, `answer`, `stopped`."""
        return list(read_lines(self.path / "run" / "samples.jsonl"))

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)
