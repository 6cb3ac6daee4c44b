"""Whole runs with weights in bfloat16: they start where they should, learn as in float32, and go on exactly."""

from __future__ import annotations

import io
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import commands, stopped_at_its_end
from safetensors.torch import load_file
from stages import LORA, QUICK, Stages

import posttrain as pt
from posttrain.cli import main
from posttrain.config import SFTConfig, make_config
from posttrain.console import open_console
from posttrain.models.precision import is_bf16
from posttrain.recipes import setup
from posttrain.recipes.machine import machine

BF16 = {"precision": "bf16", **QUICK}
PPO = {"rollouts": 8, "max_new_tokens": 6, "critic": {"warmup": 0}, "precision": "bf16", "quiet": True}


def test_bf16_is_of_the_weights_and_without_autocast() -> None:
    given = {"model": "m", "data": "d", "out": "o"}
    where = machine(make_config(SFTConfig, {**given, "precision": "bf16"}))
    assert where.bf16
    assert where.where.endswith(" · bf16")
    with where.autocast():
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32
    assert not machine(make_config(SFTConfig, {**given, "precision": "fp16"})).bf16


@pytest.mark.parametrize("able", [True, False])
def test_bf16_on_a_processor_without_it_is_said_to_be_slow(able: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain.recipes.machine.multiplies_bf16", lambda: able)
    stream = io.StringIO()
    machine(
        make_config(SFTConfig, {"model": "m", "data": "d", "out": "o", "precision": "bf16"}),
        open_console(stream=stream),
    )
    said = "" if able else "precision bf16: this processor has no instructions for it"
    assert stream.getvalue()[: len(said)] == said
    assert bool(stream.getvalue()) is not able


@pytest.mark.medium
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_run_in_bf16_learns_as_one_in_float32(lora: Any, stages: Stages, tmp_path: Path) -> None:
    runs = [
        pt.sft(model=stages.base, data=stages.chats, out=tmp_path / name, steps=12, lora=lora, **QUICK, precision=name)
        for name in ("fp32", "bf16")
    ]
    losses = [[row["loss"] for row in run.metrics] for run in runs]
    assert losses[0][-1] < losses[0][0] - 0.3
    # a start within rounding, and then within a twentieth of what was learnt
    assert losses[1][0] == pytest.approx(losses[0][0], abs=0.02)
    assert losses[1] == pytest.approx(losses[0], abs=0.05 * (losses[0][0] - losses[0][-1]))
    memory = [run.record["forecast"]["memory"] for run in runs]
    assert memory[1]["gradients"] == memory[0]["gradients"]
    if lora is None:
        assert memory[1]["weights in float32 of the optimizer"] == pytest.approx(2 * memory[1]["weights"], rel=0.05)
        assert memory[1]["weights"] == pytest.approx(0.5 * memory[0]["weights"], rel=0.05)
        written = load_file(runs[1].path / "model.safetensors")
        assert {part.dtype for part in written.values()} == {torch.float32}
        assert any(not torch.equal(part, part.bfloat16().float()) for part in written.values())


@pytest.mark.medium
@pytest.mark.parametrize("name", ["sft", "sft-dropout", "ppo-separate"])
def test_a_run_in_bf16_goes_on_to_the_same_bits(name: str, stages: Stages, tmp_path: Path) -> None:
    words = [*commands(stages)[name], "--precision", "bf16", "--learning_rate", "0.01", "--save_every", "1", "--quiet"]
    if name.startswith("ppo"):
        words[words.index("--ppo_epochs") + 1] = "2"
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main([*words, "--out", str(whole)]) == 0
    stopped_at_its_end([*words, "--out", str(stopped)])
    newest = sorted((stopped / "run" / "checkpoints").glob("step-*"))[-1]
    assert len(list(newest.parent.glob("step-*"))) > 1
    shutil.rmtree(newest)  # goes on from the one before
    assert main([*words, "--out", str(stopped)]) == 0
    files = sorted(file.relative_to(whole) for file in whole.rglob("*model.safetensors"))
    assert files
    for file in files:
        ours, theirs = load_file(whole / file), load_file(stopped / file)
        assert {part.dtype for part in ours.values()} == {torch.float32}
        assert all(torch.equal(part, theirs[key]) for key, part in ours.items()), file


@pytest.mark.medium
@pytest.mark.parametrize(("loss", "lora"), [("sigmoid", None), ("sigmoid", LORA), ("kto", None)])
def test_a_policy_in_bf16_starts_as_its_reference(loss: str, lora: Any, stages: Stages, tmp_path: Path) -> None:
    model = stages.sft if lora is None else stages.sft_lora
    run = pt.dpo(model=model, data=stages.rankings, out=tmp_path / "run", steps=1, lora=lora, loss=loss, **BF16)
    expected = math.log(2) if loss == "sigmoid" else 0.5
    assert run.metrics[0]["loss"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.medium
@pytest.mark.parametrize("layout", ["adapters", "separate", "trunk"])
def test_ppo_in_bf16_starts_at_a_kl_of_0_and_a_ratio_of_1(
    layout: str, stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    load = setup.load_start

    def watched(*given: Any, **named: Any) -> setup.Start:
        start = load(*given, **named)
        seen.append(is_bf16(start.loaded.model))
        return start

    monkeypatch.setattr(setup, "load_start", watched)
    full = layout == "separate"
    run = pt.ppo(
        model=stages.sft if full else stages.sft_lora, reward=stages.reward if full else stages.reward_lora,
        prompts=stages.prompts, out=tmp_path / "run", steps=1, layout=layout, lora=None if full else LORA,
        minibatches=1, ppo_epochs=1, **PPO,
    )  # fmt: skip
    assert all(seen)
    first = run.metrics[0]
    assert first["kl"] == pytest.approx(0.0, abs=1e-5)
    assert first["ratio"] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.medium
def test_a_model_is_sampled_and_measured_in_bf16(stages: Stages, tmp_path: Path) -> None:
    found = [
        pt.evaluate(stages.sft, data=stages.chats, precision=precision, quiet=True)["nll"]
        for precision in ("fp32", "bf16")
    ]
    assert found[1] == pytest.approx(found[0], rel=0.02)
    assert found[1] != found[0]
    answers = pt.sample(
        stages.sft, prompts=stages.prompts, out=tmp_path / "pool.jsonl", k=2, max_new_tokens=4, precision="bf16",
        quiet=True,
    )  # fmt: skip
    assert len(answers.read_text().splitlines()) == 12
