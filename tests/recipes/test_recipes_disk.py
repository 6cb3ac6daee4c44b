"""Whole runs through full disks, disks that may only be read, and lost folders, to the same bits."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from killing import differing, remains
from saves import checkpoints, said, saves_end, train
from stages import Stages

import posttrain
from posttrain.engine.sealed import damage, step_folder, steps_in
from posttrain.errors import Diverged, DoesNotFit, FolderError
from posttrain.recipes import fitting
from posttrain.run import Run

pytestmark = pytest.mark.medium

Acts = Mapping[int, Callable[[], object]]


@contextmanager
def limited(size: int, *, first: int, last: int) -> Generator[Acts]:
    """Acts that refuse files of more than `size` bytes from step `first` to `last`; no save is under way at either."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def change(limit: int) -> None:
        saves_end()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

    try:
        yield {first: lambda: change(size), last: lambda: change(before[0])}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_and_is_freed_again_costs_the_saves_in_between(
    stages: Stages, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    out, seen = tmp_path / "run", list[list[int]]()
    with limited(200_000, first=5, last=9) as acts:

        def free() -> None:
            acts[9]()
            seen.append(steps_in(checkpoints(out)))
            assert damage(step_folder(checkpoints(out), 4)) is None

        train(stages, out, {**acts, 9: free, 11: lambda: (saves_end(), seen.append(steps_in(checkpoints(out))))})
    assert seen == [[4], [10]]
    for step in (6, 8):
        assert f"step {step} is not saved: {step_folder(checkpoints(out), step)} cannot be written: " in said(out)
        assert f"checkpoint of step {step} in " not in said(out)
    assert "File too large" in said(out)
    assert differing(remains(out), undisturbed) == []


def test_a_disk_without_room_for_a_line_is_said_and_no_line_is_lost(
    stages: Stages, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    with limited(100, first=5, last=9) as acts:
        train(stages, out, acts)
    assert "the disk is full: the lines of the files in run/ wait in memory until there is room" in said(out)
    assert "there is room on the disk again: nothing of the run is missing" in said(out)
    assert "step 6 is not saved: " in said(out)
    assert differing(remains(out), undisturbed) == []


def test_a_model_that_finds_no_room_leaves_the_checkpoint_and_the_same_command_finishes(
    stages: Stages, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    with (
        limited(100_000, first=11, last=99) as acts,
        pytest.raises(DoesNotFit, match=r"run.* cannot be written: ") as caught,
    ):
        train(stages, out, acts)
    assert "fix: free some space, then the same command: it goes on from the checkpoint of step 10" in str(caught.value)
    assert steps_in(checkpoints(out)) == [10]
    assert Run.open(out).status == "failed"
    with pytest.raises(posttrain.ModelError, match="is a run that failed"):
        Run.open(out).require_done()
    run = train(stages, out, {})
    assert [resume["step"] for resume in run.record["resumes"]] == [10]
    assert differing(remains(out), undisturbed) == []


def test_a_folder_of_checkpoints_that_is_removed_under_the_run_is_made_again(
    stages: Stages, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    out, seen = tmp_path / "run", list[list[int]]()

    def remove() -> None:
        saves_end()
        shutil.rmtree(checkpoints(out))

    train(stages, out, {5: remove, 7: lambda: (saves_end(), seen.append(steps_in(checkpoints(out))))})
    assert seen == [[6]]
    assert differing(remains(out), undisturbed) == []


def test_a_place_that_takes_no_checkpoint_is_said_at_each_and_ends_no_run(
    stages: Stages, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    out = tmp_path / "run"

    def block() -> None:
        saves_end()
        shutil.rmtree(checkpoints(out))
        checkpoints(out).write_text("in the way", encoding="utf-8")

    def free() -> None:
        saves_end()
        checkpoints(out).unlink()

    train(stages, out, {5: block, 9: free})
    for step in (6, 8):
        assert f"step {step} is not saved: {step_folder(checkpoints(out), step)} cannot be written: " in said(out)
    assert differing(remains(out), undisturbed) == []


def test_a_run_folder_that_is_removed_under_the_run_ends_it_in_plain_words(stages: Stages, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def remove() -> None:
        saves_end()
        shutil.rmtree(out)

    with pytest.raises(FolderError, match=r"run/\w+\.jsonl cannot be written: no such file or directory\n  fix: "):
        train(stages, out, {5: remove})
    assert not out.exists()


def test_a_run_that_diverges_on_a_full_disk_says_both(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run: object, parts: object) -> None:
        raise OSError(28, "No space left on device", "best")

    monkeypatch.setattr(fitting, "_write_kept", full)
    with pytest.raises(Diverged) as caught:
        train(stages, tmp_path / "run", {}, learning_rate=1e38)
    assert "is not finite; nothing was updated" in str(caught.value) or "is not a number" in str(caught.value)
    assert "what the run kept cannot be written: [Errno 28] No space left on device" in str(caught.value)


# --- real disks, where a test may mount them --------------------------------------------------------------------------


@contextmanager
def mounted(folder: Path, options: str) -> Generator[None]:
    """A file system in memory at `folder`; the test is skipped where none may be mounted."""
    folder.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", options, "posttrain-test", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system: root, on Linux")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def fill(file: Path) -> None:
    """Writes until there is no byte left."""
    with suppress(OSError), file.open("wb", buffering=0) as opened:
        while True:
            opened.write(b"x" * 4096)


def test_a_real_disk_fills_in_the_middle_and_is_freed(
    stages: Stages, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "size=4m"):
        out, seen = disk / "run", list[list[int]]()

        def full() -> None:
            saves_end()
            fill(disk / "filler")

        def free() -> None:
            saves_end()
            seen.append(steps_in(checkpoints(out)))
            (disk / "filler").unlink()

        train(stages, out, {5: full, 9: free, 11: lambda: (saves_end(), seen.append(steps_in(checkpoints(out))))})
        assert seen == [[4], [10]]
        assert "step 8 is not saved: " in said(out)
        assert "No space left on device" in said(out)
        assert differing(remains(out), undisturbed) == []


def test_a_real_disk_that_stays_full_leaves_the_checkpoint_and_the_same_command_finishes(
    stages: Stages, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "size=4m"):
        out = disk / "run"
        with pytest.raises(
            DoesNotFit, match="cannot be written: no space left on device\n  fix: free some space, then"
        ):
            train(stages, out, {5: lambda: (saves_end(), fill(disk / "filler"))})
        assert steps_in(checkpoints(out)) == [4]
        (disk / "filler").unlink()
        run = train(stages, out, {})
        assert [resume["step"] for resume in run.record["resumes"]] == [4]
        assert differing(remains(out), undisturbed) == []


def test_a_real_disk_that_may_only_be_read_is_said_and_ends_no_run(
    stages: Stages, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    with ExitStack() as stack:

        def protect() -> None:
            saves_end()
            shutil.rmtree(checkpoints(out))
            stack.enter_context(mounted(checkpoints(out), "ro"))

        def free() -> None:
            saves_end()
            stack.close()

        train(stages, out, {5: protect, 9: free})
    assert "step 6 is not saved: " in said(out)
    assert "Read-only file system" in said(out)
    assert differing(remains(out), undisturbed) == []
