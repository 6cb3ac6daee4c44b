"""Run folders: read for what they say, taken for a parent, judged and gone on with by the same command."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from contextlib import chdir
from functools import cache
from pathlib import Path

from posttrain.config import CONFIGS, DPOConfig, SFTConfig, Training, make_config
from posttrain.errors import Problem
from posttrain.report.as_json import facts_of
from posttrain.report.html import page
from posttrain.report.markdown import markdown
from posttrain.run import Run, RunWriter, check_out
from posttrain.run.differing import diff
from posttrain.run.fingerprints import Fingerprint
from posttrain.run.lock import FolderLock
from posttrain.workflows.reporting import made

from .doors import Kind, Told, law
from .mutators import Files

NAME = "x"


def settings(command: str, **given: object) -> Training:
    """The settings of the run that stands in the folder, and of the command that comes to it again."""
    config: type[Training] = SFTConfig if command == "sft" else DPOConfig
    return make_config(config, {"model": "base", "data": "rows.jsonl", "out": NAME, **given})


@cache
def seeds() -> Sequence[Files]:
    """Runs that are done, under way, interrupted and failed, with and without a checkpoint."""
    return [
        _files(command, status, checkpoint=checkpoint)
        for command in ("sft", "dpo")
        for status, checkpoint in (("done", False), ("running", True), ("failed", True), ("interrupted", False))
    ]


def _files(command: str, status: str, *, checkpoint: bool) -> Files:
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        Path("rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n', encoding="utf-8")
        with RunWriter.create(NAME, settings(command), data=["rows.jsonl"]) as writer:
            writer.note(device="cpu", rows={"kept": 1}, resumes=[{"step": 1, "time": "2026-01-01"}])
            for step in (1, 2):
                writer.metrics(step, {"loss": 1.5, "nothing": float("nan")})
                writer.sample(step, prompt="a", answer="é\u2028", stopped=True)
                writer.fingerprint(
                    Fingerprint(step=step, batch="ab", loss="cd", weights={"model.a": step, "model.b": 7})
                )
            writer.problems([Problem(place="rows.jsonl:2", what="it is empty", fix="fill it")])
            writer.log("a line")
            writer.keep("reward_card", {"accuracy": 0.5})
            Path(NAME, "model.safetensors").write_bytes(b"weights")
            if checkpoint:
                (writer.checkpoints / "step-000002").mkdir(parents=True)
                (writer.checkpoints / "step-000002" / "manifest.json").write_text("{}", encoding="utf-8")
            if status == "done":
                writer.finish(loss=1.5, part={"a": 1})
            else:
                writer.note(status=status)
        found = {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
        return {name: _timeless(data) for name, data in sorted(found.items())}


def _timeless(data: bytes) -> bytes:
    """What a run writes, without what differs between machines and days."""
    text = re.sub(r"20\d\d-[-0-9:.T+ ]+", "2026-01-01", data.decode())
    text = re.sub(r'"(seconds|process|cores)": [0-9.]+', r'"\1": 1', text)
    return re.sub(r'"(id|host|platform)": "[^"]*"', r'"\1": "x"', text).encode()


def door(folder: Path, told: Told) -> bool:
    """A run folder through everything that reads one, and through a command that may write into it again."""
    command = "dpo" if b"command: dpo" in _bytes(Path(NAME, "run", "run.json")) else "sft"
    run = told.attempt(lambda: Run.open(NAME))
    if run is not None:
        for read in ("record", "command", "status", "results", "config", "metrics", "samples"):
            told.attempt(lambda read=read: getattr(run, read))
        told.attempt(run.require_done)
        config = told.attempt(lambda: run.config)
        law(config is None or type(config) in CONFIGS.values(), "the settings are of no command")
        metrics = told.attempt(lambda: run.metrics)
        law(metrics is None or all(isinstance(row["step"], int) for row in metrics), "a step without a number")
        told.attempt(lambda: json.dumps(run.results))
    used = run is not None and not told.refusals
    told.attempt(lambda: diff(NAME, NAME), NAME)
    if used:
        _shown(told)
    _write(command, told)
    return used


def _shown(told: Told) -> None:
    """The folder as a page, in Markdown and as JSON."""
    report = told.attempt(lambda: made([NAME]))
    if report is not None:
        page(report, linked=True)
        markdown(report)
        json.dumps(facts_of(report), allow_nan=False)


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _write(command: str, told: Told) -> None:
    """What a command does that has this folder as its `out`, or as the model to start from."""
    for asked in (settings(command), settings(command, seed=1)):
        told.attempt(
            lambda asked=asked: check_out(asked, NAME, fresh=False, lineage={"model": "base"}, data=["rows.jsonl"])
        )
    child = settings("sft", model=NAME, out="y")
    told.attempt(lambda: check_out(child, "y", fresh=False, lineage={"model": NAME}, data=["rows.jsonl"]))
    told.attempt(lambda: _going_on(RunWriter.create("y", child, lineage={"model": NAME})))
    lock = told.attempt(lambda: FolderLock.take(Path(NAME)))
    if lock is not None:  # a second process is told who writes here
        told.attempt(lambda: FolderLock.take(Path(NAME)))
        lock.release()
    told.attempt(lambda: _going_on(RunWriter.create(NAME, settings(command), data=["rows.jsonl"])))
    told.attempt(lambda: _going_on(RunWriter.create(NAME, settings(command), fresh=True)))


def _going_on(writer: RunWriter) -> None:
    """A command's work in a folder that it may write."""
    if writer.finished:
        return
    with writer:
        state = writer.state()
        writer.resumed(1)
        writer.metrics(3, {"loss": 1.0})
        writer.flush()
        writer.load_state(state)
        writer.finish(loss=1.0)


RUNS = Kind(name="runs", seeds=seeds, door=door, fixed=frozenset({"rows.jsonl"}))
