"""A run that was killed goes on with the same command: what may be changed under it, and what is said."""

from __future__ import annotations

import json
import platform
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from killing import differing, everything
from stages import write_rows

import posttrain
from posttrain.cli import main
from posttrain.engine.sealed import steps_in
from posttrain.errors import Interrupted, ModelError, RunExists
from posttrain.recipes import fitting
from posttrain.run import Run, RunWriter, content_hash

pytestmark = pytest.mark.medium
Again = Callable[..., Run]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data and the run `killed` are; not to be written to."""
    folder = tmp_path_factory.mktemp("resume")
    write_rows(folder / "chats.jsonl", [{"prompt": f"{n} + {n} =", "completion": str(2 * n)} for n in range(16)])
    write_rows(folder / "prompts.jsonl", [{"prompt": f"{n} + {n} ="} for n in range(20, 32)])
    return folder


def settings(model: Path, folder: Path, out: Path, **changed: object) -> dict[str, object]:
    same: dict[str, object] = {
        "steps": 14, "batch_size": 4, "learning_rate": 0.01, "eval_data": "20%", "eval_every": 4, "save_every": 3,
        "samples": ["1 + 1 ="], "quiet": True, "model": model, "data": folder / "chats.jsonl", "out": out,
    }  # fmt: skip
    return {**same, **changed}


@pytest.fixture(scope="module")
def whole(tiny_model: Path, folder: Path) -> dict[str, object]:
    """What the run leaves when nobody disturbs it; on its way, `killed` is what a SIGKILL after step 8 would leave."""
    write = RunWriter.metrics

    def metrics(writer: RunWriter, step: int, values: Mapping[str, float]) -> None:
        write(writer, step, values)
        checkpoints = writer.checkpoints
        while step == 8 and (steps_in(checkpoints) != [6, 3] or [*checkpoints.glob("*.*")]):
            time.sleep(0.01)  # it may be written beside the training
        if step == 8:
            shutil.copytree(writer.path, folder / "killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunWriter, "metrics", metrics)
        posttrain.sft(**settings(tiny_model, folder, folder / "whole"))  # type: ignore[arg-type]
    return everything(folder / "whole")


@pytest.fixture
def out(whole: dict[str, object], folder: Path, tmp_path: Path) -> Path:
    """A copy of the run that was killed."""
    shutil.copytree(folder / "killed", tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def again(tiny_model: Path, folder: Path) -> Again:
    """The command of the killed run, with some settings changed."""
    return lambda out, **changed: posttrain.sft(**settings(tiny_model, folder, out, **changed))  # type: ignore[arg-type]


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def said(out: Path) -> str:
    return (out / "run" / "log.txt").read_text()


def test_changed_settings_are_shown_and_nothing_is_touched(again: Again, out: Path) -> None:
    before = content(out)
    with pytest.raises(RunExists, match=r"learning_rate: 0\.01 -> 0\.02") as caught:
        again(out, learning_rate=0.02, save_every=5)
    assert "save_every" not in str(caught.value)
    assert content(out) == before


def test_changed_data_are_refused(again: Again, folder: Path, out: Path) -> None:
    shutil.copy(folder / "chats.jsonl", out.with_name("chats.jsonl"))
    with pytest.raises(RunExists, match="data"):  # another path is another setting
        again(out, data=out.with_name("chats.jsonl"))
    rows = (folder / "chats.jsonl").read_bytes()
    try:
        (folder / "chats.jsonl").write_bytes(rows + b'{"prompt": "a", "completion": "b"}\n')
        with pytest.raises(RunExists, match=r"chats\.jsonl: its content changed"):
            again(out)
    finally:
        (folder / "chats.jsonl").write_bytes(rows)


def test_settings_that_change_no_result_may_change_and_are_said(again: Again, out: Path) -> None:
    run = again(out, save_every=2, keep=1, samples=[], micro_batch_tokens=64)
    assert run.status == "done"
    assert "save_every: 3 -> 2, from here on" in said(out)
    assert " -> 64, from here on: the same method, but not bit for bit" in said(out)
    assert run.config.model_dump()["save_every"] == 2
    assert [row["step"] for row in run.metrics] == list(range(1, 15))


def test_a_damaged_checkpoint_is_passed_over_and_the_one_before_goes_on(
    again: Again, out: Path, whole: dict[str, object]
) -> None:
    newest, before = steps_in(out / "run" / "checkpoints")
    file = out / "run" / "checkpoints" / f"step-{newest:06d}" / "engine.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    run = again(out)
    assert f"checkpoint of step {newest} is not used: engine.safetensors has " in said(out)
    assert run.record["resumes"][0].keys() == {"step", "time"}  # nothing differs
    assert run.record["resumes"][0]["step"] == before
    assert differing(everything(out), whole) == []


def test_without_a_whole_checkpoint_the_run_starts_over(again: Again, out: Path, whole: dict[str, object]) -> None:
    for step in steps_in(out / "run" / "checkpoints"):
        (out / "run" / "checkpoints" / f"step-{step:06d}" / "manifest.json").unlink()
    run = again(out)
    assert "no checkpoint is whole: the run starts over" in said(out)
    assert "resumes" not in run.record
    assert differing(everything(out), whole) == []


def test_a_run_that_saved_nothing_may_be_started_with_other_settings(again: Again, out: Path) -> None:
    shutil.rmtree(out / "run" / "checkpoints")
    run = again(out, learning_rate=0.02)
    assert "held a run that saved nothing: started over" in said(out)
    assert "learning_rate: 0.01 -> 0.02" in said(out)
    assert len(run.metrics) == 14


def test_fresh_starts_over(again: Again, out: Path) -> None:
    run = again(out, learning_rate=0.02, fresh=True)
    assert "going on" not in said(out)
    assert "resumes" not in run.record
    assert len(run.metrics) == 14


def test_a_run_that_is_done_says_so_and_touches_nothing(
    again: Again, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again(out)
    before = content(out)
    again(out, quiet=False)
    assert "is done already" in capsys.readouterr().out
    assert content(out) == before


def test_a_checkpoint_made_elsewhere_goes_on_and_says_that_bits_may_differ(again: Again, out: Path) -> None:
    step = steps_in(out / "run" / "checkpoints")[0]
    folder = out / "run" / "checkpoints" / f"step-{step:06d}"
    state = json.loads((folder / "state.json").read_text())
    state["made"] |= {"torch": "2.0", "device": "another", "python": "3.0", "instructions": "few"}
    del state["made"]["processor"]  # as in a checkpoint of before it was written down
    (folder / "state.json").write_text(json.dumps(state))
    manifest = json.loads((folder / "manifest.json").read_text())
    facts = {"bytes": (folder / "state.json").stat().st_size, "sha256": content_hash(folder / "state.json")}
    manifest["files"]["state.json"] = facts
    (folder / "manifest.json").write_text(json.dumps(manifest))
    resume = again(out).record["resumes"][0]
    assert resume["step"] == step
    assert {line.partition(" was ")[0] for line in resume["differences"]} == {
        "torch", "device", "python", "instructions"
    }  # fmt: skip
    assert f"python was 3.0, is {platform.python_version()}" in resume["differences"]
    assert "torch was 2.0, is " in said(out)
    assert "device was another, is " in said(out)
    assert "not bit for bit" in said(out)


@pytest.mark.parametrize("command", ["sample", "eval", "sft"])
def test_a_run_that_is_not_finished_is_no_model_and_says_how_to_go_on(
    command: str, folder: Path, out: Path, tmp_path: Path
) -> None:
    more: dict[str, object] = {"out": tmp_path / "new", "quiet": True}
    call = {
        "sample": lambda: posttrain.sample(out, prompts=folder / "prompts.jsonl", **more),
        "eval": lambda: posttrain.evaluate(out, data=folder / "chats.jsonl", quiet=True),
        "sft": lambda: posttrain.sft(model=out, data=folder / "chats.jsonl", **more),
    }[command]
    with pytest.raises(ModelError, match="is a run that has not finished, at step ") as caught:
        call()
    assert f"fix: run its command again, it goes on: posttrain sft {out}/run/config.yaml --out {out}" in str(
        caught.value
    )


def test_the_command_that_the_message_names_goes_on(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sft", f"{out}/run/config.yaml", "--out", str(out), "--quiet"]) == 0, capsys.readouterr().err
    assert Run.open(out).record["resumes"]


def test_an_unfinished_reward_model_is_refused_as_one(tiny_model: Path, folder: Path, out: Path) -> None:
    with pytest.raises(ModelError, match="has not finished"):
        posttrain.ppo(
            model=tiny_model, reward=out, prompts=folder / "prompts.jsonl", out=out.with_name("ppo"), quiet=True
        )


def test_a_run_that_is_asked_to_stop_before_its_first_step_says_where_it_stands(
    again: Again, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "fly", lambda *_: signal.raise_signal(signal.SIGTERM))
    newest = steps_in(out / "run" / "checkpoints")[0]
    with pytest.raises(Interrupted, match=f"interrupted: checkpoint at step {newest} of 14; the same command goes on"):
        again(out)
    with pytest.raises(Interrupted, match="nothing was saved; the same command begins again"):
        again(out, fresh=True)
