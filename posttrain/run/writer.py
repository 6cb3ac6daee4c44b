"""A run folder as it is written, line by line, and closed with how the run ended."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from posttrain.config import Settings, Training, dump
from posttrain.errors import Problem
from posttrain.run.card import model_card
from posttrain.run.claim import check_free, check_same, clear
from posttrain.run.folder import Facts, Run
from posttrain.run.record import new_record, now, write_json


@dataclass(slots=True)
class RunWriter:
    """Writes one run folder. As a context manager it records how the run ended.

    `finished` is True when the same run is already done: nothing was touched, and the recipe returns `writer.run`.
    """

    path: Path
    finished: bool = False
    _record: Facts = field(default_factory=dict[str, Any])
    _started: float = field(default_factory=time.monotonic)

    @staticmethod
    def create(
        out: str | os.PathLike[str],
        config: Settings,
        *,
        fresh: bool = False,
        lineage: Mapping[str, str] | None = None,
        data: Sequence[str] = (),
    ) -> RunWriter:
        """A writer for `out`, with config.yaml and run.json written.

        `lineage` names the models this run starts from (`{"model": "runs/base"}`), `data` the files whose content is
        part of it. An unfinished run with the same settings is started again; `fresh` removes what an earlier run
        wrote.

        Raises RunExists, with nothing written or removed, when the folder holds anything else: files that no run wrote,
        a run that is still being written, or a run with other settings.
        """
        path = Path(out)
        record = new_record(config, lineage or {}, data)
        check_free(path, [*(lineage or {}).values(), *data])
        earlier = Run(path)
        if earlier.exists() and not fresh:
            check_same(earlier, record, config)
            if earlier.status == "done":
                return RunWriter(path, finished=True, _record=earlier.record)
        clear(path)
        (path / "run").mkdir(parents=True, exist_ok=True)
        writer = RunWriter(path, _record=record)
        writer.note()
        (path / "run" / "config.yaml").write_text(dump(config), encoding="utf-8")
        return writer

    @property
    def run(self) -> Run:
        """The folder as it is read."""
        return Run(self.path)

    def note(self, **facts: object) -> None:
        """Add facts to run.json: the device, automatic choices, counts of rows. Replaces the file atomically."""
        self._record.update(facts)
        write_json(self.path / "run" / "run.json", self._record)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append the metrics of a step; numbers that are not finite are written as null."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._append("metrics.jsonl", {"step": step, "seconds": round(time.monotonic() - self._started, 3), **finite})

    def sample(self, step: int, *, prompt: str, answer: str, stopped: bool) -> None:
        """Append an answer of the model in training."""
        self._append("samples.jsonl", {"step": step, "prompt": prompt, "answer": answer, "stopped": stopped})

    def problems(self, found: Sequence[Problem]) -> None:
        """Append what was wrong with rows of data."""
        for problem in found:
            self._append("problems.jsonl", {"place": problem.place, "what": problem.what, "fix": problem.fix})

    def log(self, line: str) -> None:
        """Append a line to log.txt, with the time."""
        with (self.path / "run" / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}  {line}\n")

    def finish(self, **results: object) -> Run:
        """The finished run: status done, its results in run.json, and the model card beside the model."""
        self.note(status="done", ended=now(), results=results)
        config = self.run.config
        base = config.model if isinstance(config, Training) else ""
        card = model_card(self.path, self._record, base=base, settings=dump(config))
        (self.path / "README.md").write_text(card, encoding="utf-8")
        self.finished = True
        return self.run

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and not self.finished:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            self.note(status=status, ended=now(), error=str(error) or type(error).__name__)

    def _append(self, name: str, row: Mapping[str, object]) -> None:
        with (self.path / "run" / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
