"""What a kill leaves in a run folder at its worst moments, and what the next start makes of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from posttrain.config import SFTConfig, make_config
from posttrain.run import Run, RunWriter, check_out, tidy
from posttrain.run import claim as claims
from posttrain.run.lock import FolderLock


class Killed(BaseException):
    """Stands for a SIGKILL: what runs on its way out is left out of the tests."""


def settings(out: Path, **more: object) -> SFTConfig:
    return make_config(SFTConfig, {"model": "base", "data": "d.jsonl", "out": out, **more})


def finished(out: Path) -> Run:
    with RunWriter.create(out, settings(out)) as writer:
        (out / "model.safetensors").write_bytes(b"weights")
        return writer.finish()


def saved(out: Path) -> None:
    """A run that was killed after its first checkpoint."""
    with RunWriter.create(out, settings(out)):
        (out / "run" / "checkpoints" / "step-000003").mkdir(parents=True)


def test_settings_are_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "sft"
    saved(out)
    before = (out / "run" / "config.yaml").read_text()

    def killed(self: Path, target: Path) -> None:
        raise Killed(target.name)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(Killed, match=r"config\.yaml"):
            RunWriter.create(out, settings(out, keep=5))
    assert (out / "run" / "config.yaml").read_text() == before
    writer = RunWriter.create(out, settings(out, keep=5))
    assert writer.resuming
    assert Run.open(out).config == settings(out, keep=5)


def test_checkpoints_go_when_the_model_and_the_word_that_it_is_done_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sft"
    saved(out)
    happened: list[str] = []
    fsync, replace, rmtree = os.fsync, Path.replace, shutil.rmtree

    def flushed(number: int) -> None:
        found = [path for path in (out, *out.rglob("*")) if path.stat().st_ino == os.fstat(number).st_ino]
        happened.append(f"on the disk: {found[0].relative_to(out)}")
        fsync(number)

    def replaced(self: Path, target: Path) -> Path:
        happened.append(f"named: {target.relative_to(out)}")
        return replace(self, target)

    def removed(path: Path) -> None:
        happened.append(f"removed: {path.relative_to(out)}")
        rmtree(path)

    with RunWriter.create(out, settings(out)) as writer:
        (out / "model.safetensors").write_bytes(b"weights")
        monkeypatch.setattr(os, "fsync", flushed)
        monkeypatch.setattr(Path, "replace", replaced)
        monkeypatch.setattr(shutil, "rmtree", removed)
        writer.finish()
    before, after = happened[: happened.index("named: run/run.json")], happened[-3:]
    assert {"on the disk: .", "on the disk: model.safetensors", "on the disk: run"} <= {*before}
    assert after == ["named: run/run.json", "on the disk: run", "removed: run/checkpoints"]


def test_lines_that_a_checkpoint_counts_on_are_on_the_disk_with_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sft"
    found: set[int] = set()

    def flushed(number: int) -> None:
        found.add(os.fstat(number).st_ino)

    with RunWriter.create(out, settings(out)) as writer:
        writer.metrics(1, {"loss": 1.0})
        writer.inspect.mkdir()
        (writer.inspect / "step-000001.parquet").touch()
        writer.inspected("step-000001.parquet")
        monkeypatch.setattr(os, "fsync", flushed)
        writer.flush()
    inspected = out / "run" / "inspect"
    wanted = [out / "run" / "metrics.jsonl", inspected, inspected / "step-000001.parquet", out / "run"]
    assert {path.stat().st_ino for path in wanted} <= found


def test_a_run_whose_removal_was_cut_short_is_none_that_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sft"
    finished(out)

    def killed(path: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(claims, "clear_model", killed)
        with pytest.raises(Killed):
            RunWriter.create(out, settings(out), fresh=True)
    assert (out / "model.safetensors").is_file()
    check_out(settings(out, seed=4), str(out), fresh=False)
    writer = RunWriter.create(out, settings(out, seed=4))
    assert not writer.finished
    assert not writer.resuming
    assert not (out / "model.safetensors").exists()


def test_a_folder_that_was_made_before_its_lock_is_one_to_begin_in(tmp_path: Path) -> None:
    (tmp_path / "sft" / "run").mkdir(parents=True)
    assert not RunWriter.create(tmp_path / "sft", settings(tmp_path / "sft")).resuming


def test_checkpoints_that_a_finished_run_had_no_time_to_remove_go_at_the_next_look(tmp_path: Path) -> None:
    out = tmp_path / "sft"
    finished(out)
    tidy(out)
    (out / "run" / "checkpoints" / "step-000003").mkdir(parents=True)
    lock = FolderLock.take(out)
    tidy(out)
    assert (out / "run" / "checkpoints").exists()  # another process is at it
    lock.release()
    tidy(out)
    assert not (out / "run" / "checkpoints").exists()
    saved(tmp_path / "going")
    tidy(tmp_path / "going")
    assert (tmp_path / "going" / "run" / "checkpoints").exists()


def test_a_line_that_a_kill_cut_within_a_character_is_left_out(tmp_path: Path) -> None:
    out = tmp_path / "sft"
    with RunWriter.create(out, settings(out)) as writer:
        writer.sample(1, prompt="你好", answer="好", stopped=True)
        whole = (out / "run" / "samples.jsonl").read_bytes()
        (out / "run" / "samples.jsonl").write_bytes(whole + whole[: whole.index("好".encode()) + 1])
        assert [row["answer"] for row in writer.run.samples] == ["好"]


FORKS = """
import os, sys, time
from pathlib import Path
from posttrain.run.lock import FolderLock
lock = FolderLock.take(Path(sys.argv[1]))
child = os.fork()
if child == 0:
    time.sleep(60)
print(child, flush=True)
input()
"""


def test_what_a_killed_run_has_forked_does_not_hold_its_folder(tmp_path: Path) -> None:
    out = tmp_path / "sft"
    command = [sys.executable, "-c", FORKS, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        child = int(run.stdout.readline())
        run.kill()
        run.wait()
        try:
            os.kill(child, 0)  # it lives on, as the workers of a reward function's pool do
            FolderLock.take(out).release()
        finally:
            os.kill(child, signal.SIGKILL)
