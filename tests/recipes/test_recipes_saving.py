"""Checkpoints of whole runs: written beside the training, to the same bits."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killing import differing, remains
from safetensors.torch import load_file
from saves import STEPS, checkpoints, said, saves_end, train
from stages import Stages

from posttrain.engine.checkpoint import Checkpoints
from posttrain.engine.copies import Copies
from posttrain.engine.sealed import damage, step_folder, steps_in
from posttrain.errors import Interrupted
from posttrain.recipes import preflight
from posttrain.recipes.saving import Keeper

pytestmark = pytest.mark.medium


class Held:
    """Holds the first save back, between its copy and its writing, until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._go = threading.Event()
        self.came = False
        save = Checkpoints.save

        def held(own: Checkpoints, step: int, parts: Any) -> list[str]:
            self.came = self._go.wait(60)
            return save(own, step, parts)

        monkeypatch.setattr(Checkpoints, "save", held)

    def go(self) -> None:
        self._go.set()


def state_of(folder: Path) -> dict[str, Any]:
    """A checkpoint as it lies on the disk, but for what depends on the seconds of the run."""
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    del state["run"]  # seconds, and sizes of files that hold them
    tensors = {
        f"{file.stem}.{name}": (str(tensor.dtype), tensor.tolist())
        for file in folder.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }
    return {"state.json": state, **tensors}


def test_training_goes_on_during_a_save_which_is_that_of_its_step(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    found: dict[str, dict[str, Any]] = {}

    def look(name: str) -> Callable[[], None]:
        def act() -> None:
            saves_end()
            found[name] = state_of(step_folder(checkpoints(tmp_path / name), 4))

        return act

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preflight, "checkpoint", lambda config, trained: 10**15)
        train(stages, tmp_path / "waits", {6: look("waits")}, save_every=4, keep=9)
    held = Held(monkeypatch)
    train(stages, tmp_path / "beside", {7: held.go, 8: look("beside")}, save_every=4, keep=9)
    assert held.came  # steps 5 to 7 were trained in the meantime
    assert found["beside"] == found["waits"]
    assert differing(remains(tmp_path / "beside"), undisturbed) == []
    assert re.search(r"checkpoint of step 4 in [\d.]+ s beside the training, which waited ", said(tmp_path / "beside"))


def test_the_next_save_waits_for_the_one_under_way(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    writing: list[int] = []
    most: list[int] = []
    save = Checkpoints.save

    def slow(own: Checkpoints, step: int, parts: Any) -> list[str]:
        writing.append(step)
        most.append(len(writing))
        time.sleep(0.05)
        try:
            return save(own, step, parts)
        finally:
            writing.remove(step)

    monkeypatch.setattr(Checkpoints, "save", slow)
    run = train(stages, tmp_path / "run", {}, save_every=1)
    assert most == [1] * STEPS
    assert not checkpoints(run.path).exists()
    assert differing(remains(run.path), undisturbed) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_during_a_save_lets_it_end_and_saves_the_newer_step(
    stages: Stages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: dict[str, Any],
    how: signal.Signals,
) -> None:
    held, stop = Held(monkeypatch), Keeper.stop

    def stopping(own: Keeper) -> str:
        held.go()
        return stop(own)

    monkeypatch.setattr(Keeper, "stop", stopping)
    out = tmp_path / "run"
    with pytest.raises(Interrupted, match="interrupted: checkpoint at step 3 of 12; the same command goes on"):
        train(stages, out, {3: lambda: signal.raise_signal(how)}, keep=2)
    assert held.came
    assert steps_in(checkpoints(out)) == [3, 2]
    assert [damage(step_folder(checkpoints(out), step)) for step in (3, 2)] == [None, None]
    monkeypatch.undo()
    assert differing(remains(train(stages, out, {}).path), undisturbed) == []


def test_a_second_ctrl_c_during_a_save_ends_the_run_with_that_save(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    held, stop, settle = Held(monkeypatch), Keeper.stop, Keeper.settle
    waits: list[str] = []

    def stopping(own: Keeper) -> str:
        waits.append("asked to stop")
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        return stop(own)

    def settling(own: Keeper) -> None:
        if waits:
            waits.append("a wait")
        if len(waits) == 3:  # the wait after the second one
            held.go()
        settle(own)

    monkeypatch.setattr(Keeper, "stop", stopping)
    monkeypatch.setattr(Keeper, "settle", settling)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt) as caught:
        train(stages, out, {3: lambda: signal.raise_signal(signal.SIGINT)}, keep=2)
    assert type(caught.value) is KeyboardInterrupt
    assert held.came
    assert steps_in(checkpoints(out)) == [2]
    assert damage(step_folder(checkpoints(out), 2)) is None
    monkeypatch.undo()
    assert differing(remains(train(stages, out, {}).path), undisturbed) == []


def test_an_error_of_the_run_waits_for_the_save_under_way(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(monkeypatch)

    def fail() -> None:
        threading.Timer(0.1, held.go).start()
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        train(stages, tmp_path / "run", {3: fail})
    assert held.came
    assert not [thread for thread in threading.enumerate() if thread.name == "beside"]
    assert damage(step_folder(checkpoints(tmp_path / "run"), 2)) is None


def test_a_fault_of_our_own_in_a_save_ends_the_run(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(own: Checkpoints, step: int, parts: Any) -> list[str]:
        raise ValueError("not of the disk")

    monkeypatch.setattr(Checkpoints, "save", broken)
    with pytest.raises(ValueError, match="not of the disk"):
        train(stages, tmp_path / "run", {})


def test_without_memory_for_a_copy_training_waits_and_says_so(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    def never(own: Copies, states: Any) -> None:
        raise AssertionError("a copy was made")

    monkeypatch.setattr(preflight, "checkpoint", lambda config, trained: 10**15)
    monkeypatch.setattr(Copies, "of", never)
    seen: list[list[int]] = []
    out = tmp_path / "run"
    run = train(stages, out, {3: lambda: seen.append(steps_in(checkpoints(out)))})
    line = "training waits while a checkpoint is written: there is no memory for a copy of 1,000,000.0 GB"
    assert line in said(out)
    assert seen == [[2]]
    assert "copy of a checkpoint" not in run.record["forecast"]["memory"]
    assert differing(remains(out), undisturbed) == []


def test_a_copy_that_finds_no_memory_after_all_is_given_up_and_said(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    copy, made = Copies.of, list[int]()

    def short(own: Copies, states: Any) -> Any:
        made.append(len(made))
        if len(made) == 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")
        return copy(own, states)

    monkeypatch.setattr(Copies, "of", short)
    out = tmp_path / "run"
    train(stages, out, {})
    assert len(made) == 2
    assert "training waits from here on while a checkpoint is written: no memory is left for a copy" in said(out)
    assert re.search(r"checkpoint of step 4 in [\d.]+ s\n", said(out))
    assert differing(remains(out), undisturbed) == []
