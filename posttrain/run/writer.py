"""A run folder as it is written, line by line, and closed with how the run ended."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from posttrain.config import Settings, Training, dump
from posttrain.engine.sealed import flush
from posttrain.errors import FolderError, ModelError, Problem
from posttrain.run.card import model_card
from posttrain.run.claim import Way, check_free, check_writable, clear, clear_model, judge
from posttrain.run.fingerprints import FILE, Fingerprint, heading, line
from posttrain.run.folder import Facts, Run
from posttrain.run.growing import Growing
from posttrain.run.lock import FolderLock
from posttrain.run.record import new_record, now, write_json, write_whole

if TYPE_CHECKING:  # these types need torch, which a reader of run folders does not
    from posttrain.types import State

_GROWING = ("metrics.jsonl", "samples.jsonl", "reward_failures.jsonl", FILE)


@dataclass(slots=True)
class RunWriter:
    """Writes one run folder, which no other process can while this writer lives.

    As a context manager it records how the run ended. `finished` is True when the same run is already done: nothing was
    touched, and the recipe returns `writer.run`. `resuming` is True when the run has a checkpoint to go on from.
    `remarks` are lines to say.
    """

    path: Path
    finished: bool = False
    resuming: bool = False
    remarks: list[str] = field(default_factory=list[str])
    _record: Facts = field(default_factory=dict[str, Any])
    _lock: FolderLock | None = None
    _started: float = field(default_factory=time.monotonic)
    _growing: Growing = field(init=False)
    _inspected: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self._growing = Growing(self.path / "run")

    @staticmethod
    def create(
        out: str | os.PathLike[str],
        config: Settings,
        *,
        fresh: bool = False,
        lineage: Mapping[str, str] | None = None,
        data: Sequence[str] = (),
        hub: Mapping[str, str] | None = None,
    ) -> RunWriter:
        """A writer for `out`, with config.yaml and run.json written.

        `lineage` names the models this run starts from (`{"model": "runs/base"}`), `data` the files whose content is
        part of it, `hub` what data sets of the hub are, by name. An unfinished run with the same settings goes on from
        its checkpoints, and is started again where it has none; `fresh` removes what an earlier run wrote.

        Raises RunExists, with nothing written or removed, when the folder holds anything else: files that no run wrote,
        a run that is still being written, or a run with other settings. Raises FolderError when it cannot be written.
        """
        path = Path(out)
        record = new_record(config, lineage or {}, data)
        record["data"] |= hub or {}
        check_free(path, [*(lineage or {}).values(), *data])
        if not fresh and judge(path, record, config, fresh=fresh).way is Way.DONE:
            return RunWriter(path, finished=True, _record=Run(path).record)
        check_writable(path)
        lock = FolderLock.take(path)
        # Judged again: another process may have trained, or finished, between the two lines above.
        verdict = judge(path, record, config, fresh=fresh)
        if verdict.way is Way.DONE:
            lock.release()
            return RunWriter(path, finished=True, _record=Run(path).record)
        resuming = verdict.way is Way.RESUME
        if resuming:
            clear_model(path)
            (path / "run" / "problems.jsonl").unlink(missing_ok=True)
            here = {name: record[name] for name in ("process", "host", "status")}
            record = {"id": record["id"], **Run(path).record, **here}
            record = {name: value for name, value in record.items() if name not in ("ended", "error")}
        else:
            clear(path)
        writer = RunWriter(path, resuming=resuming, remarks=verdict.remarks, _record=record, _lock=lock)
        # First the settings: a run.json beside those of another run, or beside none, would say what is not true.
        write_whole(path / "run" / "config.yaml", dump(config))
        writer.note()
        return writer

    @property
    def run(self) -> Run:
        """The folder as it is read."""
        return Run(self.path)

    @property
    def checkpoints(self) -> Path:
        """Where the run's checkpoints stand."""
        return self.path / "run" / "checkpoints"

    @property
    def id(self) -> str:
        """What names this run to trackers, however often it goes on."""
        return self._record["id"]

    def note(self, **facts: object) -> None:
        """Add facts to run.json: the device, automatic choices, counts of rows. Replaces the file atomically."""
        self._record.update(facts)
        write_json(self.path / "run" / "run.json", self._record)

    def keep(self, name: str, facts: Mapping[str, object]) -> None:
        """Write facts that are too many for run.json into `run/<name>.json`."""
        write_json(self.path / "run" / f"{name}.json", facts)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append the metrics of a step; numbers that are not finite are written as null."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._append("metrics.jsonl", {"step": step, "seconds": round(time.monotonic() - self._started, 3), **finite})

    def sample(self, step: int, *, prompt: str, answer: str, stopped: bool, **more: str | float) -> None:
        """Append an answer of the model in training, with what `more` is known of it: how it was drawn, its score."""
        self._append("samples.jsonl", {"step": step, "prompt": prompt, "answer": answer, "stopped": stopped, **more})

    def reward_failures(self, step: int, failures: Sequence[Mapping[str, object]]) -> None:
        """Append the answers of a step that have no score, each with what its reward raised."""
        for failure in failures:
            self._append("reward_failures.jsonl", {"step": step, **failure})

    def fingerprint(self, found: Fingerprint) -> None:
        """Append the fingerprint of a step; the names of its weights are written once, before the first."""
        if not self._growing.size(FILE):
            self._append(FILE, heading([*found.weights]))
        self._append(FILE, line(found))

    @property
    def inspect(self) -> Path:
        """Where the files of the token inspector stand; each is told by `inspected` once it is whole."""
        return self.path / "run" / "inspect"

    def inspected(self, name: str) -> None:
        """The run counts on this file of `inspect` from here on."""
        if name not in self._inspected:
            self._inspected.append(name)

    def has_inspected(self, name: str) -> bool:
        """Whether the run counts on this file of `inspect`."""
        return name in self._inspected

    def problems(self, found: Sequence[Problem]) -> None:
        """Append what was wrong with rows of data."""
        for problem in found:
            self._append("problems.jsonl", {"place": problem.place, "what": problem.what, "fix": problem.fix})

    def log(self, line: str) -> None:
        """Append a line to log.txt, with the time. One that cannot be written waits for the next, and ends no run."""
        with suppress(OSError):
            self._growing.append("log.txt", f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}  {line}")

    def finish(self, **results: object) -> Run:
        """The finished run: status done, its results in run.json, and the model card beside the model.

        The checkpoints go: a run that is done never goes on, and its model is written and on the disk.
        """
        self._growing.write()
        config = self.run.config
        base = config.model if isinstance(config, Training) else ""
        facts = {"status": "done", "ended": now(), "results": results}
        card = model_card(self.path, {**self._record, **facts}, base=base, settings=dump(config))
        (self.path / "README.md").write_text(card, encoding="utf-8", errors="backslashreplace")
        for file in self.path.rglob("*"):
            if self.checkpoints not in file.parents:
                flush(file)
        flush(self.path)
        self.note(**facts)
        self.finished = True
        if self.checkpoints.is_dir():
            shutil.rmtree(self.checkpoints)
        return self.run

    # --- going on -----------------------------------------------------------------------------------------------------

    def state(self) -> State:
        """How far the files of the run have grown, lines that wait for room included, and the seconds of training."""
        sizes = {name: size for name in _GROWING if (size := self._growing.size(name))}
        return {"seconds": time.monotonic() - self._started, "sizes": {**sizes}, "inspect": [*self._inspected]}

    def load_state(self, state: State) -> None:
        """Takes back what was written after `state` was taken. Raises ModelError when files are shorter than then."""
        self._started = time.monotonic() - cast("float", state["seconds"])
        sizes, kept = cast("dict[str, int]", state["sizes"]), cast("list[str]", state["inspect"])
        for name in _GROWING:
            file, size = self.path / "run" / name, sizes.get(name, 0)
            found = self._growing.size(name)
            if found < size:
                what = f"{file} has {found:,} bytes and had {size:,} when the checkpoint was written: it was shortened"
                raise ModelError(f"{what}\n  fix: put it back as it was, or begin the run again with --fresh")
            self._growing.cut(name, size)
        self._inspected = [*kept]
        for item in self.inspect.glob("*"):
            if item.name not in kept:
                item.unlink()

    def rewind(self) -> None:
        """Takes back everything: the run starts over."""
        self.load_state({"seconds": 0.0, "sizes": {}, "inspect": []})

    def resumed(self, step: int) -> None:
        """Records in run.json that the run went on from `step`."""
        self.note(resumes=[*self._record.get("resumes", []), {"step": step, "time": now()}])

    def resumed_with(self, **facts: object) -> None:
        """Adds to what run.json says of the last time that the run went on."""
        *earlier, last = self._record["resumes"]
        self.note(resumes=[*earlier, {**last, **facts}])

    @property
    def waiting(self) -> bool:
        """Whether files of the run have lines in memory, because the disk is full."""
        return bool(self._growing.waiting)

    def flush(self) -> None:
        """What was written so far survives a loss of power. Raises OSError while lines wait for room."""
        self._growing.flush([*_GROWING, *(f"inspect/{name}" for name in self._inspected), "inspect"])

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is not None and not self.finished:
                self._failed(error)
        finally:
            if self._lock is not None:
                self._lock.release()

    def _failed(self, error: BaseException) -> None:
        """Says in run.json how the run ended, where that can be written: the error is what matters."""
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        with suppress(OSError):
            self.note(status=status, ended=now(), error=str(error) or type(error).__name__)
        with suppress(OSError):
            self._growing.write()

    def _append(self, name: str, row: Mapping[str, object]) -> None:
        """A line for a file. Raises FolderError where it cannot be written; on a full disk it waits."""
        try:
            self._growing.append(name, json.dumps(row, ensure_ascii=False))
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            fix = "mend the folder, then the same command: it goes on from its last checkpoint, if one is left"
            raise FolderError(f"{error.filename} cannot be written: {why}\n  fix: {fix}") from error
