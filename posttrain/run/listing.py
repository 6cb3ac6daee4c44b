"""The runs below a folder: what each is, whether it goes on, where it comes from, and a number that says how it did."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from posttrain.errors import DataError, FolderError
from posttrain.run.folder import Facts, Run
from posttrain.run.lock import is_held

State: TypeAlias = Literal["done", "running", "stopped", "failed", "interrupted", "damaged"]
"""`stopped`: its process ended without a word, as by a kill; the same command goes on."""
COLUMNS = ("run", "command", "state", "steps", "started", "from", "headline")
_TAIL = 2**16
# The first of these that a run has, its results before its last metrics.
_HEADLINES: Mapping[str, Sequence[str]] = {
    "sft": ("eval_exact_match", "eval_loss", "loss"),
    "classify": ("eval_accuracy", "eval_spearman", "eval_loss", "accuracy", "loss"),
    "reward": ("held_out_accuracy", "training_accuracy", "eval_accuracy", "accuracy"),
    "dpo": ("eval_accuracy", "accuracy", "loss"),
    "ppo": ("eval_score_sampled", "score"),
    "online-dpo": ("score", "reward"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One run. `steps` are done, of so many `planned` (None where that is not known).

    `parents`: what it started from, by role. `headline`: a metric and its last value, None without one.
    """

    path: str
    command: str
    state: State
    steps: int
    planned: int | None
    started: str
    parents: Mapping[str, str]
    headline: tuple[str, float] | None

    def facts(self) -> dict[str, object]:
        """The same as plain values, for JSON."""
        name, value = self.headline or (None, None)
        return {
            "path": self.path,
            "command": self.command,
            "state": self.state,
            "steps": self.steps,
            "planned": self.planned,
            "started": self.started,
            "parents": dict(self.parents),
            "headline": None if name is None else {"name": name, "value": value},
        }

    def cells(self, below: Path) -> tuple[str, ...]:
        """A row of a table under `COLUMNS`, its path told from `below` on."""
        steps = f"{self.steps:,}" + (f"/{self.planned:,}" if self.planned not in (None, self.steps) else "")
        return (
            os.path.relpath(self.path, below),
            self.command,
            self.state,
            steps,
            self.started[:16].replace("T", " "),
            ", ".join(_short(parent, self.path) for parent in self.parents.values()),
            "" if self.headline is None else f"{self.headline[0]} {self.headline[1]:.4g}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The runs below a folder, in the order in which they were started."""

    folder: Path
    runs: Sequence[Listed]

    def facts(self) -> dict[str, object]:
        """The same as plain values, for JSON."""
        return {"folder": str(self.folder), "runs": [run.facts() for run in self.runs]}


def list_runs(folder: str | os.PathLike[str]) -> Listing:
    """The runs below a folder, itself included; what is damaged is listed as such.

    Models that a run keeps within it are part of it. Raises FolderError for what is no folder.
    """
    below = Path(folder)
    if not below.is_dir():
        raise FolderError(f"{below} is no folder\n  fix: give the folder that holds your runs")
    found = [_listed(path) for path in _run_folders(below)]
    return Listing(folder=below, runs=sorted(found, key=lambda run: (run.started, run.path)))


def _run_folders(below: Path) -> Iterator[Path]:
    """Folders that a run wrote; hidden ones, and those within a run, are not looked into."""
    for place, folders, _ in os.walk(below):
        path = Path(place)
        if Run(path).exists():
            folders.remove("run")
            yield path
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _listed(path: Path) -> Listed:
    run = Run(path)
    try:
        record, last = run.record, last_row(path / "run" / "metrics.jsonl")
    except (DataError, OSError):
        return Listed(
            path=str(path), command="", state="damaged", steps=0, planned=None, started="", parents={}, headline=None
        )
    state: State = record["status"]
    if state == "running" and not is_held(path):
        state = "stopped"
    planned = record.get("forecast", {}).get("steps")
    return Listed(
        path=str(path),
        command=record["command"],
        state=state,
        steps=int(last.get("step", 0)),
        planned=planned if isinstance(planned, int) else None,
        started=record["started"],
        parents={role: str(parent.get("name", "")) for role, parent in record["parents"].items()},
        headline=_headline(record, last),
    )


def _headline(record: Facts, last: Facts) -> tuple[str, float] | None:
    known = {**last, **record.get("results", {})}
    for name in _HEADLINES.get(record["command"], ("loss",)):
        value: Any = known.get(name)
        if isinstance(value, dict):  # with its interval
            value = cast("Facts", value).get("value")
        if isinstance(value, int | float):
            return name, float(value)
    return None


def last_row(file: Path) -> Facts:
    """The numbers of the last steps in a file of metrics, each the last that stands there; empty without one.

    Read is the end of the file alone, however long a run is; a line that is being written is left out.
    """
    if not file.is_file():
        return {}
    with file.open("rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - _TAIL))
        lines = opened.read().split(b"\n")[1 if size > _TAIL else 0 : -1]
    found: Facts = {}
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            found |= cast("Facts", row)
    return found


def _short(parent: str, path: str) -> str:
    """The name of a parent, without the folders that it shares with the run."""
    common = os.path.commonpath([os.path.abspath(parent), os.path.abspath(path)])
    return os.path.relpath(parent, common) if parent and Path(parent).exists() and common != os.sep else parent
