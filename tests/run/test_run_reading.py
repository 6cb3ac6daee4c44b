"""A damaged run folder is named with the file, the line and what is wrong, by everything that reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.config import SFTConfig
from posttrain.errors import DataError, ModelError, RunExists
from posttrain.run import Run, RunWriter, check_out
from posttrain.run.lock import FolderLock


def settings(out: Path) -> SFTConfig:
    return SFTConfig(model="base", data="rows.jsonl", out=out)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that wrote two steps and was interrupted with a checkpoint."""
    with RunWriter.create(tmp_path / "x", settings(tmp_path / "x")) as writer:
        writer.metrics(1, {"loss": 1.0})
        writer.metrics(2, {"loss": 0.5})
        writer.note(status="interrupted")
        (writer.checkpoints / "step-000002").mkdir(parents=True)
    return Run(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "damaged: is not JSON: Expecting value"),
        (b"\xff", "damaged: is not JSON: 'utf-8' codec can't decode"),
        (b"[" * 100_000, "damaged: is not JSON: maximum recursion depth exceeded"),
        (b"9" * 5_000, "damaged: is not JSON: Exceeds the limit (4300 digits) for integer string conversion"),
        (b"[]", "damaged: is no object, but a list"),
        (b'{"status": "done", "started": "now", "parents": {}}', "damaged: has no command"),
        (
            b'{"command": 1, "status": "done", "started": "now", "parents": {}}',
            "damaged: command is not what a run writes: 1",
        ),
        (
            b'{"command": "sft", "status": "ended", "started": "", "parents": {}}',
            "damaged: status is 'ended', expected one of",
        ),
        (
            b'{"command": "sft", "status": "done", "started": "", "parents": {"model": 1}}',
            "damaged: parents is not what a run writes",
        ),
        (
            b'{"command": "sft", "status": "done", "started": "", "parents": {}, "data": []}',
            "damaged: data is not what a run writes: []",
        ),
    ],
)
def test_a_damaged_record_is_said_and_nothing_is_written(run: Run, content: bytes, says: str) -> None:
    file = run.path / "run" / "run.json"
    file.write_bytes(content)
    with pytest.raises(DataError) as told:
        run.require_done()
    assert str(told.value).startswith(f"{file}  {says}")
    assert str(told.value).endswith(
        "fix: restore the file from a copy; to write into the folder again: another --out, or --fresh"
    )
    for again in (check_out, RunWriter.create):
        with pytest.raises(DataError, match=r"run\.json  "):
            again(
                *((settings(run.path), str(run.path)) if again is check_out else (run.path, settings(run.path))),
                fresh=False,
            )
    assert file.read_bytes() == content
    with RunWriter.create(run.path, settings(run.path), fresh=True):
        assert Run(run.path).status == "running"


def test_a_run_of_an_unknown_command_has_no_settings_here(run: Run) -> None:
    file = run.path / "run" / "run.json"
    file.write_text(json.dumps({**run.record, "command": "grpo"}))
    with pytest.raises(ModelError, match=r"x is a run of 'grpo', which this posttrain does not know"):
        _ = run.config


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "damaged: is not JSON"),
        ("1", "damaged: is no object"),
        ('{"loss": 1}', "damaged: step is None, expected a whole number"),
        ('{"step": "1"}', "damaged: step is '1', expected a whole number"),
    ],
)
def test_a_damaged_line_of_the_metrics_is_named(run: Run, line: str, says: str) -> None:
    file = run.path / "run" / "metrics.jsonl"
    file.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(DataError) as told:
        _ = run.metrics
    assert str(told.value).startswith(f"{file}:2  {says}")


def test_a_last_line_that_was_cut_short_is_left_out(run: Run) -> None:
    with (run.path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    assert [row["step"] for row in run.metrics] == [1, 2]


@pytest.mark.parametrize("name", ["README.md", "config.json", "run/metrics.jsonl", "run/config.yaml"])
def test_a_folder_in_the_place_of_a_file_is_said_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with RunWriter.create(tmp_path / "x", settings(tmp_path / "x")) as writer:
        writer.log("begun")
    (tmp_path / "x" / name).unlink(missing_ok=True)
    (tmp_path / "x" / name).mkdir()
    with pytest.raises(RunExists, match=f"{name} is a folder, where a run writes a file"):
        RunWriter.create(tmp_path / "x", settings(tmp_path / "x"))


def test_who_writes_is_another_process_where_the_record_is_damaged(run: Run) -> None:
    held = FolderLock.take(run.path)
    (run.path / "run" / "run.json").write_text("{")
    with pytest.raises(RunExists, match="is being written by another process"):
        FolderLock.take(run.path)
    held.release()


def test_half_a_character_is_written_as_the_escape_that_json_has_for_it(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path / "x", settings(tmp_path / "x")) as writer:
        writer.reward_failures(1, [{"reason": "KeyError: '\udce9'"}])
        writer.note(file="caf\udce9.jsonl")
        writer.log("caf\udce9")
        written = (tmp_path / "x" / "run" / "reward_failures.jsonl").read_text(encoding="utf-8")
        assert json.loads(written)["reason"] == "KeyError: '\udce9'"
        assert Run(tmp_path / "x").record["file"] == "caf\udce9.jsonl"
