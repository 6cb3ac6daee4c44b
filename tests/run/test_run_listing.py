"""`posttrain runs`: which folders are runs, which of them go on, and what is told of each."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.config import SFTConfig, make_config
from posttrain.errors import FolderError
from posttrain.run import RunWriter
from posttrain.run.listing import last_row, list_runs
from posttrain.run.lock import FolderLock, is_held


def written(path: Path, *, started: str = "2026-01-01", rows: int = 3, **record: Any) -> Path:
    """A run folder with that many steps."""
    (path / "run").mkdir(parents=True)
    facts = {"command": "sft", "status": "done", "started": started, "parents": {}} | record
    (path / "run" / "run.json").write_text(json.dumps(facts))
    lines = [json.dumps({"step": step, "seconds": 1.0, "loss": 4.0 - step}) + "\n" for step in range(1, rows + 1)]
    (path / "run" / "metrics.jsonl").write_text("".join(lines))
    return path


def test_runs_are_found_at_any_depth_and_told_in_the_order_of_their_start(tmp_path: Path) -> None:
    written(tmp_path / "b", started="2026-01-02", parents={"model": {"name": str(tmp_path / "deep" / "er" / "a")}})
    written(tmp_path / "deep" / "er" / "a", started="2026-01-01", forecast={"steps": 9}, status="failed")
    written(tmp_path / "deep" / "er" / "a" / "inside", started="2026-01-03", command="ppo", results={"score": 1.25})
    written(tmp_path / ".hidden")
    (tmp_path / "deep" / "er" / "a" / "run" / "best" / "run").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "a" / "run" / "best" / "run" / "run.json").write_text("{}")
    found = list_runs(tmp_path)
    assert [run.cells(tmp_path) for run in found.runs] == [
        ("deep/er/a", "sft", "failed", "3/9", "2026-01-01", "", "loss 1"),
        ("b", "sft", "done", "3", "2026-01-02", "deep/er/a", "loss 1"),
        ("deep/er/a/inside", "ppo", "done", "3", "2026-01-03", "", "score 1.25"),
    ]
    assert found.runs[1].facts() == {
        "path": str(tmp_path / "b"), "command": "sft", "state": "done", "steps": 3, "planned": None,
        "started": "2026-01-02", "parents": {"model": str(tmp_path / "deep" / "er" / "a")},
        "headline": {"name": "loss", "value": 1.0},
    }  # fmt: skip


def test_the_headline_is_a_result_with_its_interval_or_the_last_number_there_is(tmp_path: Path) -> None:
    accuracy = {"value": 0.75, "interval": [0.7, 0.8], "count": 9}
    reward = written(tmp_path / "rm", command="reward", results={"held_out_accuracy": accuracy})
    assert list_runs(reward).runs[0].headline == ("held_out_accuracy", 0.75)
    (reward / "run" / "metrics.jsonl").write_text("")
    (reward / "run" / "run.json").write_text(
        json.dumps({"command": "reward", "status": "failed", "started": "", "parents": {}})
    )
    assert list_runs(reward).runs[0].headline is None


def test_a_run_goes_on_while_its_folder_is_locked_and_was_stopped_when_it_is_not(tmp_path: Path) -> None:
    path = written(tmp_path / "it", status="running")
    assert list_runs(tmp_path).runs[0].state == "stopped"  # copied here, or older than the lock
    (path / "run" / "lock").touch()
    assert list_runs(tmp_path).runs[0].state == "stopped"
    lock = FolderLock.take(path)
    assert is_held(path)
    assert list_runs(tmp_path).runs[0].state == "running"
    lock.release()
    assert list_runs(tmp_path).runs[0].state == "stopped"


def test_looking_keeps_no_run_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(SFTConfig, {"model": "m", "data": "d", "out": tmp_path / "it"})
    written(tmp_path / "it", status="running", rows=0)
    (tmp_path / "it" / "run" / "lock").touch()
    number = os.open(tmp_path / "it" / "run" / "lock", os.O_RDONLY)
    fcntl.flock(number, fcntl.LOCK_SH)  # as `is_held` has it for an instant
    monkeypatch.setattr("posttrain.run.lock.time.sleep", lambda seconds: os.close(number))
    with RunWriter.create(tmp_path / "it", config, fresh=True) as writer:
        assert is_held(writer.path)


def test_a_damaged_run_is_listed_as_such(tmp_path: Path) -> None:
    path = written(tmp_path / "it")
    (path / "run" / "run.json").write_text('{"command": ')
    assert [(run.state, run.command) for run in list_runs(tmp_path).runs] == [("damaged", "")]
    with pytest.raises(FolderError, match="gone is no folder"):
        list_runs(tmp_path / "gone")


def test_only_the_end_of_a_long_file_of_metrics_is_read(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert last_row(file) == {}
    with file.open("w") as lines:
        lines.write("no json at all\n" * 10_000)
        lines.writelines(json.dumps({"step": step, "loss": 1.0 / step}) + "\n" for step in range(1, 2001))
        lines.write(json.dumps({"step": 2000, "eval_loss": 0.5}) + '\n{"step": 2001, "lo')
    assert last_row(file) == {"step": 2000, "loss": 1 / 2000, "eval_loss": 0.5}


def test_the_command_lists_and_has_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 2
    assert capsys.readouterr().err == "error: runs is no folder\n  fix: give the folder that holds your runs\n"
    written(tmp_path / "runs" / "sft")
    assert main(["runs"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "run  command  state  steps  started     from  headline",
        "sft  sft      done   3      2026-01-01        loss 1",
    ]
    assert main(["runs", "runs/sft", "--json"]) == 0
    assert [run["path"] for run in json.loads(capsys.readouterr().out)["runs"]] == ["runs/sft"]
    (tmp_path / "empty").mkdir()
    assert main(["runs", "empty"]) == 0
    assert capsys.readouterr().out == "no run below empty\n"
