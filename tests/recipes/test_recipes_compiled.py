"""Runs with compiled layers: the losses of plain runs, the same files, and themselves again when they go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import killing
import pytest
import torch
from commands import commands
from killing import Nursery, after_checkpoint, differing, hunt, remains
from safetensors.torch import load_file
from stages import QUICK, Stages

import posttrain as pt
from posttrain.cli import main
from posttrain.errors import Interrupted
from posttrain.models import compiled
from posttrain.run import Run, RunWriter

pytestmark = pytest.mark.medium


def trained(words: Sequence[str], out: Path, *more: str) -> Run:
    """The run of a command that goes well."""
    assert main([*words, *more, "--out", str(out), "--quiet"]) == 0
    return Run(out)


def losses(run: Run) -> list[float]:
    """Every loss that the run wrote, in order."""
    return [value for row in run.metrics for name, value in row.items() if "loss" in name]


def weights(run: Run) -> dict[str, torch.Tensor]:
    """The weights of a run's models by file and name."""
    files = sorted(run.path.rglob("*.safetensors"))
    return {f"{file.relative_to(run.path)} {name}": part for file in files for name, part in load_file(file).items()}


@pytest.fixture(autouse=True)
def _traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are traced, differentiated and guarded, but no C++ is made of them, which takes seconds a piece."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")


CASES = [
    "sft", "reward", "dpo", "dpo-kto", "online-dpo", "ppo-separate", "ppo-adapters", "ppo-trunk",
    "sft --lora.rank 4 --lora.alpha 8 --lora.dora true", "sft --lora.rank 4 --lora.alpha 8 --quantize 8bit",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("words", CASES)
def test_every_method_has_the_losses_of_a_plain_run_and_weights_of_the_same_names(
    words: str, stages: Stages, tmp_path: Path
) -> None:
    name, *more = words.split()
    asked = [*commands(stages)[name], *more]
    plain, made = trained(asked, tmp_path / "plain"), trained(asked, tmp_path / "made", "--compile", "true")
    assert len(losses(plain)) > 0
    assert losses(made) == pytest.approx(losses(plain), rel=1e-5, abs=1e-5)
    assert "compile: " in (made.path / "run" / "log.txt").read_text(encoding="utf-8")
    mine, theirs = weights(made), weights(plain)
    assert list(mine) == list(theirs)
    for key, part in mine.items():
        # AdamW divides a gradient by its own size: where that is rounding alone, so is the direction of a step.
        torch.testing.assert_close(part, theirs[key], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_runs_in_half_precision_end_near_plain_ones(
    precision: str, stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "inductor")
    words = [*commands(stages)["sft"], "--precision", precision, "--activation_checkpointing", "true"]
    plain, made = trained(words, tmp_path / "plain"), trained(words, tmp_path / "made", "--compile", "true")
    assert losses(made) == pytest.approx(losses(plain), rel=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("words", ["sft", "sft-dropout", "sft --precision bf16 --activation_checkpointing true"])
def test_a_killed_run_ends_with_the_bits_of_one_that_never_was(
    words: str, stages: Stages, nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(killing, "LIMIT", 600.0)  # adapters with dropout are compiled for minutes
    name, *more = words.split()
    longer = " ".join(commands(stages)[name]).replace("--steps 2", "--steps 6 --save_every 2").split()
    asked = [*longer, *more, "--compile", "true"]
    for out, moments in (("whole", []), ("killed", [after_checkpoint(4)])):
        hunt(nursery, [*asked, "--out", str(tmp_path / out)], tmp_path / out, moments)
    assert differing(remains(tmp_path / "whole"), remains(tmp_path / "killed")) == []


def test_a_run_may_go_on_with_compiled_layers_and_says_so(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = RunWriter.metrics

    def metrics(writer: RunWriter, step: int, values: Mapping[str, float]) -> None:
        write(writer, step, values)
        if step == 3 and not again:
            raise Interrupted("stopped by hand")

    monkeypatch.setattr(compiled, "BACKEND", "eager")  # the other tests are about more than the way there
    monkeypatch.setattr(RunWriter, "metrics", metrics)
    again: list[str] = []
    settings: dict[str, Any] = {"model": stages.base, "data": stages.chats, **QUICK, "steps": 4, "save_every": 2}
    with pytest.raises(Interrupted):
        pt.sft(**settings, out=tmp_path / "run")
    again.append("now")
    run = pt.sft(**settings, out=tmp_path / "run", compile=True)
    said = (run.path / "run" / "log.txt").read_text(encoding="utf-8")
    assert "compile: false -> true, from here on: the same method, but not bit for bit" in said
    plain = pt.sft(**settings, out=tmp_path / "plain")
    assert losses(run) == pytest.approx(losses(plain), rel=1e-5)
    found, wanted = (made.record["forecast"]["memory"]["activations"] for made in (run, plain))
    assert found == wanted > 0  # though compiled code makes its tensors unseen


def test_where_nothing_can_be_compiled_a_command_ends_before_it_reads(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without(*given: object, isolate_recompiles: bool = False, **named: object) -> object:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", without)
    for more in ([], ["--dry-run"]):
        words = ["sft", "--model", str(stages.base), "--data", str(stages.chats), "--out", str(tmp_path / "run")]
        assert main([*words, "--compile", "true", *more]) == 2
        assert "compile does not work on cpu: No working C++ compiler found\n  fix: " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_trial_of_a_compiled_run_says_what_it_takes(
    stages: Stages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sft", "--model", str(stages.base), "--data", str(stages.chats), "--out", str(tmp_path / "run")]
    assert main([*words, "--compile", "true", "--lora.rank", "4", "--dry-run"]) == 0
    assert "compile: 2 layers" in capsys.readouterr().out
