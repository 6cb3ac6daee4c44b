"""Run folders: what is written, what is read back, and what is never written over."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from posttrain.config import DPOConfig, SFTConfig, make_config
from posttrain.errors import FolderError, ModelError, Problem, RunExists
from posttrain.run import Run, RunWriter, check_out

NEW_RUN = ["run/config.yaml", "run/lock", "run/run.json"]


def settings(out: Path, **more: object) -> SFTConfig:
    return make_config(SFTConfig, {"model": "base", "data": "d.jsonl", "out": out, **more})


def trained(out: Path, *, data: Sequence[str] = (), **more: object) -> Run:
    """A finished run with one step, a model file and results."""
    with RunWriter.create(out, settings(out, **more), data=data) as writer:
        writer.metrics(1, {"loss": 2.0})
        (out / "model.safetensors").write_bytes(b"weights")
        return writer.finish(eval_loss=1.5)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_reads_back_what_was_written(tmp_path: Path) -> None:
    out = tmp_path / "sft"
    config = settings(out, seed=3)
    with RunWriter.create(out, config, lineage={"model": "base"}) as writer:
        assert Run.open(out).status == "running"
        writer.note(device="cpu")
        writer.metrics(1, {"loss": 2.0, "ratio": float("inf")})
        writer.metrics(2, {"loss": 1.0})
        writer.metrics(2, {"eval_loss": 1.25})
        writer.sample(2, prompt="你好", answer="Hi", stopped=True)
        writer.problems([Problem(place="d.jsonl:3", what="output is empty")])
        writer.log("learning_rate 0.001: because")
        writer.finish(eval_loss=1.25)
    run = Run.open(out)
    assert (run.status, run.command, run.results) == ("done", "sft", {"eval_loss": 1.25})
    assert run.config == config
    assert [{name: value for name, value in row.items() if name != "seconds"} for row in run.metrics] == [
        {"step": 1, "loss": 2.0, "ratio": None},
        {"step": 2, "loss": 1.0, "eval_loss": 1.25},
    ]
    assert run.samples == [{"step": 2, "prompt": "你好", "answer": "Hi", "stopped": True}]
    assert json.loads((out / "run" / "problems.jsonl").read_text())["place"] == "d.jsonl:3"
    assert "because" in (out / "run" / "log.txt").read_text()
    assert (run.record["device"], run.record["seeds"]) == ("cpu", {"seed": 3})
    assert run.record["versions"]["torch"]
    assert os.fspath(run) == str(out)


def test_a_finished_run_is_left_alone_when_it_is_started_again(tmp_path: Path) -> None:
    out = tmp_path / "sft"
    trained(out)
    before = everything(out)
    writer = RunWriter.create(out, settings(out))
    assert writer.finished
    assert writer.run.results == {"eval_loss": 1.5}
    assert everything(out) == before


def test_other_settings_are_refused_with_the_difference(tmp_path: Path) -> None:
    out = tmp_path / "sft"
    trained(out)
    before = everything(out)
    with pytest.raises(RunExists) as caught:
        RunWriter.create(out, settings(out, learning_rate=0.5, lora={"rank": 4}))
    assert 'learning_rate: "auto" -> 0.5' in str(caught.value)
    assert "lora.rank: null -> 4" in str(caught.value)
    assert "seed" not in str(caught.value)
    assert "--fresh" in str(caught.value)
    assert everything(out) == before


def test_another_command_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "sft"
    trained(out)
    config = make_config(DPOConfig, {"model": "base", "data": "d.jsonl", "out": out})
    with pytest.raises(RunExists, match="command: sft -> dpo"):
        check_out(config, str(out), fresh=False)


def test_a_run_folder_that_was_moved_is_still_the_same_run(tmp_path: Path) -> None:
    trained(tmp_path / "sft")
    moved = (tmp_path / "sft").rename(tmp_path / "moved")
    assert RunWriter.create(moved, settings(moved)).finished


def test_changed_data_make_it_another_run(tmp_path: Path) -> None:
    out, data = tmp_path / "sft", tmp_path / "d.jsonl"
    data.write_text("one")
    trained(out, data=[str(data)])
    assert RunWriter.create(out, settings(out), data=[str(data)]).finished
    data.write_text("two")
    with pytest.raises(RunExists, match=r"d\.jsonl: its content changed"):
        RunWriter.create(out, settings(out), data=[str(data)])


def test_a_parent_that_was_trained_again_makes_it_another_run(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "sft"
    trained(base)
    lineage = {"model": str(base)}
    with RunWriter.create(out, settings(out, model=base), lineage=lineage) as writer:
        writer.metrics(1, {"loss": 1.0})
        writer.finish()
    assert Run.open(out).record["parents"]["model"]["command"] == "sft"
    assert RunWriter.create(out, settings(out, model=base), lineage=lineage).finished
    with RunWriter.create(base, settings(base), fresh=True) as writer:
        writer.finish()
    with pytest.raises(RunExists, match="base was trained again"):
        RunWriter.create(out, settings(out, model=base), lineage=lineage)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_no_run_wrote_is_never_touched(tmp_path: Path, fresh: bool) -> None:
    out = tmp_path / "model"
    out.mkdir()
    (out / "config.json").write_text("{}")
    (out / "model.safetensors").write_bytes(b"precious")
    before = everything(out)
    with pytest.raises(RunExists, match=r"no run wrote: config\.json, model\.safetensors"):
        RunWriter.create(out, settings(out), fresh=fresh)
    assert everything(out) == before


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "sft"
    out.write_text("mine")
    with pytest.raises(RunExists, match="is a file"):
        RunWriter.create(out, settings(out))
    assert out.read_text() == "mine"


def test_fresh_removes_what_the_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "sft"
    trained(out)
    (out / "notes.txt").write_text("mine")
    (out / "mine").mkdir()
    (out / "mine" / "model.safetensors").write_bytes(b"mine too")
    RunWriter.create(out, settings(out, seed=9), fresh=True)
    assert sorted(everything(out)) == ["mine/model.safetensors", "notes.txt", *NEW_RUN]
    assert Run.open(out).metrics == []


@pytest.mark.parametrize("fresh", [False, True])
def test_a_run_never_writes_over_its_own_model_or_data(tmp_path: Path, fresh: bool) -> None:
    out = tmp_path / "sft"
    trained(out)
    before = everything(out)
    with pytest.raises(RunExists, match="which this run reads"):
        RunWriter.create(out, settings(out, model=out), fresh=fresh, lineage={"model": str(out)})
    with pytest.raises(RunExists, match="which this run reads"):
        RunWriter.create(out, settings(out), fresh=fresh, data=[str(out / "run" / "samples.jsonl"), str(out / "run")])
    assert everything(out) == before


def broken_off(out: Path, error: BaseException) -> None:
    """A run that makes one step and then ends with `error`."""
    with RunWriter.create(out, settings(out)) as writer:
        assert not writer.finished
        assert Run.open(out).metrics == []
        writer.metrics(1, {"loss": 2.0})
        raise error


def test_an_error_or_interrupt_is_recorded_and_the_same_run_starts_over(tmp_path: Path) -> None:
    out = tmp_path / "sft"
    with pytest.raises(ValueError, match="too bad"):
        broken_off(out, ValueError("too bad"))
    assert (Run.open(out).status, Run.open(out).record["error"]) == ("failed", "too bad")
    with pytest.raises(KeyboardInterrupt):
        broken_off(out, KeyboardInterrupt())
    assert Run.open(out).status == "interrupted"


def test_a_run_that_failed_before_its_first_step_stands_in_nobodys_way(tmp_path: Path) -> None:
    out = tmp_path / "sft"
    with pytest.raises(ValueError, match="no such data"), RunWriter.create(out, settings(out, data="typo.jsonl")):
        raise ValueError("no such data")
    assert not RunWriter.create(out, settings(out)).finished


HOLD = """
import sys
from pathlib import Path
from posttrain.run.lock import FolderLock
lock = FolderLock.take(Path(sys.argv[1]))
print("held", flush=True)
input()
"""


@pytest.mark.parametrize("fresh", [False, True])
def test_a_run_that_another_process_is_writing_is_refused_until_that_one_is_gone(tmp_path: Path, fresh: bool) -> None:
    out = tmp_path / "sft"
    with RunWriter.create(out, settings(out)):
        pass
    command = [sys.executable, "-c", HOLD, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        before = everything(out)
        with pytest.raises(RunExists, match="is being written by"):
            RunWriter.create(out, settings(out), fresh=fresh)
        with pytest.raises(RunExists, match="is being written by"):
            check_out(settings(out), str(out), fresh=fresh)
        assert everything(out) == before
        other.kill()
    assert not RunWriter.create(out, settings(out), fresh=fresh).finished


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    run = trained(tmp_path / "sft")
    with (run.path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert [row["step"] for row in run.metrics] == [1]


def test_a_folder_without_a_run_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no run folder"):
        Run.open(tmp_path)


def test_the_model_card_says_how_to_load_and_what_to_run_again(tmp_path: Path) -> None:
    run = trained(tmp_path / "sft", model="org/base-model", lora={"rank": 4})
    card = (run.path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\nbase_model: org/base-model\n")
    assert 'AutoModelForCausalLM.from_pretrained("sft")' in card
    assert "- eval_loss: 1.5" in card
    assert "rank: 4" in card


def test_the_model_card_of_a_local_base_names_no_hub_id(tmp_path: Path) -> None:
    trained(tmp_path / "base")
    with RunWriter.create(tmp_path / "sft", settings(tmp_path / "sft", model=tmp_path / "base")) as writer:
        (tmp_path / "sft" / "adapter_config.json").write_text("{}")
        writer.finish(accuracy={"value": 0.75, "count": 40})
    card = (tmp_path / "sft" / "README.md").read_text()
    assert "base_model" not in card
    assert "AutoPeftModelForCausalLM" in card
    assert "- accuracy: value 0.75, count 40" in card


def test_the_code_of_a_reward_the_template_and_the_start_model_belong_to_the_run(tmp_path: Path) -> None:
    base, code, template = tmp_path / "base", tmp_path / "rewards.py", tmp_path / "chat.jinja"
    base.mkdir()
    for file in (base / "model.safetensors", code, template):
        file.write_text("one")
    out, lineage = tmp_path / "out", {"model": str(base), "reward": f"{code}:score"}
    config = settings(out, model=base, template=template)
    with RunWriter.create(out, config, lineage=lineage) as writer:
        writer.finish()
    assert RunWriter.create(out, config, lineage=lineage).finished
    expected = {code: "rewards.py: its content changed", template: "chat.jinja: its content changed",
                base / "model.safetensors": "model: the files of .*base changed"}  # fmt: skip
    for file, words in expected.items():
        file.write_text("another")
        with pytest.raises(RunExists, match=words):
            RunWriter.create(out, config, lineage=lineage)
        file.write_text("one")
    assert RunWriter.create(out, config, lineage=lineage).finished


def test_a_record_without_the_hashes_of_today_is_still_the_same_run(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    (base / "model.safetensors").write_text("one")
    config = settings(out, model=base)
    with RunWriter.create(out, config, lineage={"model": str(base)}) as writer:
        writer.finish()
    record = json.loads((out / "run" / "run.json").read_text())
    del record["parents"]["model"]["content"], record["files"]
    (out / "run" / "run.json").write_text(json.dumps(record))
    assert RunWriter.create(out, config, lineage={"model": str(base)}).finished


def test_an_unfinished_run_with_weights_but_no_checkpoint_is_not_replaced_by_another(tmp_path: Path) -> None:
    out = tmp_path / "sft"
    with pytest.raises(KeyboardInterrupt):
        broken_off(out, KeyboardInterrupt())
    (out / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(RunExists, match="seed: 0 -> 1"):
        RunWriter.create(out, settings(out, seed=1))
    assert RunWriter.create(out, settings(out)).remarks == [f"{out} held a run that saved nothing: started over"]


def test_a_run_that_goes_on_removes_the_model_and_problems_of_its_earlier_part(tmp_path: Path) -> None:
    """A kill while the model was written leaves a torn one; every row is read again."""
    with RunWriter.create(tmp_path, settings(tmp_path)) as writer:
        writer.problems([Problem(place="d.jsonl:3", what="output is empty")])
        writer.checkpoints.joinpath("step-000004").mkdir(parents=True)
        (tmp_path / "model.safetensors").write_bytes(b"half")
        writer.note(status="failed", ended="a while ago", error="none that matters")
    with RunWriter.create(tmp_path, settings(tmp_path)) as writer:
        assert writer.resuming
        assert not (tmp_path / "model.safetensors").exists()
        assert not (tmp_path / "run" / "problems.jsonl").exists()
        assert writer.checkpoints.joinpath("step-000004").is_dir()
        assert writer.run.record.keys().isdisjoint({"ended", "error"})


def test_a_place_that_cannot_be_written_is_said_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "deep" / "run"
    with pytest.raises(FolderError, match=r"run cannot be written to: .* is a file\n  fix: give an --out"):
        check_out(settings(out), str(out), fresh=False)
    with pytest.raises(FolderError, match=r"run cannot be written to: .* is a file\n  fix: give an --out"):
        RunWriter.create(out, settings(out))


def test_a_file_system_that_takes_no_folder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(path: Path, **more: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(FolderError, match="sft cannot be written to: read-only file system"):
        RunWriter.create(tmp_path / "sft", settings(tmp_path / "sft"))


def test_a_kill_before_the_first_line_leaves_a_folder_that_is_taken_again(tmp_path: Path) -> None:
    out = tmp_path / "sft"
    (out / "run").mkdir(parents=True)
    (out / "run" / "lock").touch()
    (out / "run" / "run.json.part").write_text("{")
    assert not RunWriter.create(out, settings(out)).finished


def test_two_writers_of_one_process_are_kept_apart_too(tmp_path: Path) -> None:
    out = tmp_path / "sft"
    wanted = f"is being written by process {os.getpid()} on "
    with RunWriter.create(out, settings(out)), pytest.raises(RunExists, match=wanted):
        RunWriter.create(out, settings(out))
    assert not RunWriter.create(out, settings(out)).finished


def test_what_was_written_after_a_state_is_taken_back(tmp_path: Path) -> None:
    out = tmp_path / "sft"
    with RunWriter.create(out, settings(out)) as writer:
        writer.metrics(1, {"loss": 2.0})
        writer.inspect.mkdir()
        (writer.inspect / "step-000001.parquet").touch()
        writer.inspected("step-000001.parquet")
        with pytest.MonkeyPatch.context() as patch:  # a state is taken after every update, of folders of any length
            patch.setattr(os, "scandir", None)
            patch.setattr(os, "listdir", None)
            state = writer.state()
        kept = everything(out)
        writer.metrics(2, {"loss": 1.0})
        writer.sample(2, prompt="p", answer="a", stopped=True)
        (writer.inspect / "step-000002.parquet").touch()
        writer.inspected("step-000002.parquet")
        with (out / "run" / "metrics.jsonl").open("a") as file:
            file.write('{"step": 3, "lo')  # cut by a kill
        writer.load_state(state)
        left = everything(out)
        assert left.pop("run/samples.jsonl") == b""
        assert left == kept
        assert writer.state()["inspect"] == ["step-000001.parquet"]
        (out / "run" / "metrics.jsonl").write_text("")
        before = len(kept["run/metrics.jsonl"])
        with pytest.raises(ModelError) as caught:
            writer.load_state(state)
        assert str(caught.value) == (
            f"{out}/run/metrics.jsonl has 0 bytes and had {before} when the checkpoint was written: it was shortened"
            "\n  fix: put it back as it was, or begin the run again with --fresh"
        )


def test_the_seconds_of_a_run_that_goes_on_begin_where_it_stopped(tmp_path: Path) -> None:
    out = tmp_path / "sft"
    with RunWriter.create(out, settings(out)) as writer:
        writer.load_state({"seconds": 1000.0, "sizes": {}, "inspect": []})
        writer.metrics(1, {"loss": 2.0})
        assert writer.run.metrics[0]["seconds"] >= 1000.0
