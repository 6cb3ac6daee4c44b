"""What a run is said to take of memory, disk and time, and the refusal when a disk has no room."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import trained_on
from safetensors.torch import load_file
from stages import LORA, Stages

from posttrain.errors import DoesNotFit
from posttrain.recipes import disk
from posttrain.recipes.forecast import BETTER, CACHE, COPY, COPY_APART, Forecast, highest, shortage


def disk_of(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """So many bytes are free on every disk."""

    def usage(path: Path) -> SimpleNamespace:
        return SimpleNamespace(free=free)

    monkeypatch.setattr(disk.shutil, "disk_usage", usage)


def test_the_message_of_a_shortage() -> None:
    wanted = {"gradients": 400_000_000, "optimizer": 800_000_000, "activations": 5_300_000_000, CACHE: 0}
    fixes = ["--micro_batch_tokens auto, or 4,096: the same results in less memory", "a smaller model"]
    assert shortage(wanted, 4_000_000_000, 8192, fixes) == (
        "this does not fit: it needs 6.5 GB beyond the loaded weights, and 4.0 GB are free\n"
        "  gradients 400 MB, optimizer 800 MB, activations 5.3 GB, at 8,192 tokens a micro-batch\n"
        "  fix: --micro_batch_tokens auto, or 4,096: the same results in less memory\n"
        "    or a smaller model"
    )


def test_a_run_updates_or_samples_and_never_both_at_once() -> None:
    memory = {"weights": 1000, "gradients": 10, "optimizer": 20, "activations": 30}
    assert highest(memory) == 60
    assert highest({**memory, CACHE: 25}) == 60
    assert highest({**memory, CACHE: 90}) == 110


def test_the_copy_of_a_checkpoint_may_stand_at_any_time_and_counts_where_the_run_trains() -> None:
    memory = {"weights": 1000, "gradients": 10, "optimizer": 20, "activations": 30}
    assert highest({**memory, COPY: 7}) == 67
    assert highest({**memory, COPY: 7, CACHE: 90}) == 117
    assert highest({**memory, COPY_APART: 7}) == 60


def test_what_it_takes_to_keep_the_best_weights_is_in_the_forecast(stages: Stages, tmp_path: Path) -> None:
    """Four bytes a weight: while better ones replace them, in each checkpoint and its copy, and as a model."""
    assert highest({"gradients": 10, "optimizer": 20, "activations": 30, CACHE: 90, BETTER: 5}) == 115
    settings = {"lora": LORA, "steps": 2, "eval_data": "30%", "best": "eval_loss"}
    run = trained_on(stages.chats, stages.base, tmp_path / "run", **settings)
    trained = sum(tensor.numel() for tensor in load_file(run.path / "adapter_model.safetensors").values())
    found = run.record["forecast"]
    assert (found["memory"][BETTER], found["memory"][COPY]) == (4 * trained, 16 * trained)
    assert found["growth"] == highest(found["memory"])
    assert found["disk"] == {
        "model": 4 * trained, "3 checkpoints": 3 * 12 * trained, "run/best": (1 + 3) * 4 * trained,
    }  # fmt: skip
    other = trained_on(stages.chats, stages.base, tmp_path / "none", **{**settings, "best": None})
    assert BETTER not in other.record["forecast"]["memory"]
    assert other.record["forecast"]["memory"][COPY] == 12 * trained


def test_a_copy_is_made_where_it_fits_beside_everything_else(stages: Stages, tmp_path: Path) -> None:
    """A checkpoint of AdamW in float32 holds twelve bytes a weight, and so does its copy."""
    run = trained_on(stages.chats, stages.base, tmp_path / "run", lora=LORA, steps=1)
    trained = sum(tensor.numel() for tensor in load_file(run.path / "adapter_model.safetensors").values())
    assert run.record["forecast"]["memory"][COPY] == 12 * trained
    run = trained_on(stages.chats, stages.base, tmp_path / "none", lora=LORA, steps=1, save_every=None)
    assert COPY not in run.record["forecast"]["memory"]


def test_the_table_of_a_forecast() -> None:
    found = Forecast(
        command="ppo",
        steps=1240,
        tokens=8192,
        memory={"weights": 538_000_000, "gradients": 9_800_000, "optimizer": 20_000_000, "activations": 900_000_000},
        available=21_300_000_000,
        disk={"model": 9_800_000, "3 checkpoints": 88_000_000},
        disk_free=170_000_000_000,
        seconds=408.2,
        at_most=True,
    )
    assert [tuple(row.values()) for row in found.table()] == [
        ("memory · weights", "538 MB", ""),
        ("memory · gradients", "9.8 MB", ""),
        ("memory · optimizer", "20 MB", ""),
        ("memory · activations", "900 MB", ""),
        ("memory · beyond the weights", "930 MB", "21.3 GB"),
        ("disk · model", "9.8 MB", ""),
        ("disk · 3 checkpoints", "88 MB", ""),
        ("disk · together", "98 MB", "170.0 GB"),
        ("time · 1,240 steps", "at most 0:06:48", ""),
    ]
    assert found.line == "memory: 930 MB beyond the weights at the worst batch of 8,192 tokens; 21.3 GB are free"


def test_adapters_for_whose_checkpoints_the_disk_has_no_room_are_refused(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"lora": LORA, "steps": 2}
    run = trained_on(stages.chats, stages.base, tmp_path / "run", **settings)
    trained = sum(tensor.numel() for tensor in load_file(run.path / "adapter_model.safetensors").values())
    assert run.record["forecast"]["disk"] == {"model": 4 * trained, "3 checkpoints": 3 * 12 * trained}
    disk_of(monkeypatch, 30 * trained)
    with pytest.raises(
        DoesNotFit, match=r"the run writes .* MB, and .* are free\n  model .*, 3 checkpoints .*\n  fix: "
    ):
        trained_on(stages.chats, stages.base, tmp_path / "other", **settings)
    trained_on(stages.chats, stages.base, tmp_path / "one", keep=1, **settings)
    trained_on(stages.chats, stages.base, tmp_path / "none", save_every=None, **settings)


def test_what_a_run_has_written_is_room_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk_of(monkeypatch, 1000)
    assert disk.free_disk(tmp_path / "new" / "run") == 1000
    (tmp_path / "checkpoint").write_bytes(b"x" * 30)
    assert disk.free_disk(tmp_path) == 1030
