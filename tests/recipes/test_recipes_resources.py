"""Bases in few bits, small moments, float16 and CPU memory in whole runs; what a machine cannot do is refused first."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import commands, stopped_at_its_end
from rich.console import Console as Terminal
from safetensors.torch import load_file
from stages import LORA, QUICK, Stages
from torch import nn

import posttrain as pt
from posttrain.cli import main
from posttrain.config import DPOConfig, SFTConfig, make_config
from posttrain.console import Console, Lines
from posttrain.models import checkpointing
from posttrain.models.quantize import quantized_layers
from posttrain.recipes import opening, setup
from posttrain.recipes.machine import Machine, apart_from, check_machine, machine, same_bits, set_aside

SFT: Mapping[str, Any] = {"model": "m", "data": "d", "out": "o"}


@pytest.mark.parametrize("what", ["optimizer", "frozen", "all"])
def test_there_is_nothing_to_offload_where_the_device_is_the_cpu(what: str) -> None:
    config = make_config(DPOConfig, {**SFT, "offload": what})
    with pytest.raises(pt.ModelError, match=f"offload {what}: nothing to offload: the device is the CPU\n  fix: leave"):
        check_machine(config)


def test_what_a_machine_cannot_do_is_refused_before_rows_are_read(
    tiny_model: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("data were read")

    monkeypatch.setattr(opening, "_examine", never)
    data = repository / "examples" / "data" / "chat.jsonl"
    with pytest.raises(pt.ModelError, match="nothing to offload"):
        pt.sft(model=tiny_model, data=data, out=tmp_path / "run", offload="optimizer", quiet=True)
    assert not (tmp_path / "run").exists()


def test_settings_of_the_machine_come_to_what_they_say() -> None:
    where = machine(make_config(SFTConfig, {**SFT, "precision": "fp16", "offload": "optimizer"}))
    assert (where.half, where.lends) == (torch.float16, False)
    assert where.optimizer([[nn.Parameter(torch.zeros(2))]], 0.0).takes(torch.zeros(2)) == 0
    assert where.where == f"{where.device.type} · fp16"
    asked = {**SFT, "quantize": "4bit", "lora": {}, "precision": "fp32"}
    assert machine(make_config(SFTConfig, asked)).where.endswith(" · fp32 · 4bit")


def test_a_model_that_is_lent_is_on_the_device_inside_and_in_cpu_memory_outside() -> None:
    """`meta` stands for the device: it shows where tensors are, and holds no numbers."""
    moves: list[str] = []

    class Reference(nn.Linear):
        def to(self, device: Any) -> Any:
            moves.append(str(device))
            return self

    reference = Reference(2, 2)
    where = Machine(device=torch.device("meta"), half=None, lends=True)
    with where.lent([reference]):
        assert moves == ["meta"]
    assert moves == ["meta", "cpu"]
    with pytest.raises(ValueError, match="stop"), where.lent([reference]):
        raise ValueError("stop")
    assert moves == ["meta", "cpu"] * 2
    still = Machine(device=torch.device("meta"), half=None)
    with still.lent([reference]):
        still.put_aside([reference])
    assert len(moves) == 4


def test_only_models_that_share_no_weight_with_what_is_trained_can_wait_elsewhere() -> None:
    body, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert apart_from([nn.Sequential(body)], [nn.Sequential(body, other), other]) == [other]


def told_to(text: io.StringIO) -> Console:
    return Console(Lines(Terminal(file=text, width=300, soft_wrap=True)))


def test_an_offload_of_frozen_models_that_moves_nothing_is_said() -> None:
    body, other = nn.Linear(2, 2), nn.Linear(2, 2)
    for lends, frozen, told in ((True, [body], 1), (True, [], 1), (True, [other], 0), (False, [body], 0)):
        said = io.StringIO()
        where = Machine(device=torch.device("cpu"), half=None, lends=lends)
        assert set_aside(where, [body], frozen, told_to(said)) == [model for model in frozen if model is other]
        assert said.getvalue().count("nothing waits elsewhere") == told


@pytest.mark.medium
@pytest.mark.parametrize("name", ["sft-dropout", "reward", "dpo-kto", "ppo-separate", "ppo-adapters", "ppo-trunk"])
def test_a_run_whose_layers_run_twice_ends_with_the_weights_of_a_plain_one(
    name: str, stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice: list[object] = []

    def watched(*given: Any, **named: Any) -> Any:
        twice.append(given)
        return recompute(*given, **named)

    recompute = checkpointing.checkpoint
    monkeypatch.setattr(checkpointing, "checkpoint", watched)
    for out, words in (("plain", []), ("twice", ["--activation_checkpointing", "true"])):
        assert not twice
        assert main([*commands(stages)[name], *words, "--out", str(tmp_path / out), "--quiet"]) == 0
    assert len(twice) > 4
    plain = {file.relative_to(tmp_path / "plain"): load_file(file) for file in (tmp_path / "plain").rglob("*.safe*")}
    assert len(plain) == (2 if name.startswith("ppo") else 1)
    for place, tensors in plain.items():
        other = load_file(tmp_path / "twice" / place)
        assert all(torch.equal(tensor, other.pop(key)) for key, tensor in tensors.items())
        assert not other


@pytest.mark.medium
def test_a_run_on_a_base_in_few_bits_saves_an_adapter_for_the_full_one(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    load = setup.load_start

    def watched(*given: Any, **named: Any) -> setup.Start:
        start = load(*given, **named)
        seen.append(len(list(quantized_layers(start.loaded.model))))
        return start

    monkeypatch.setattr(setup, "load_start", watched)
    run = pt.sft(
        model=stages.base, data=stages.chats, out=tmp_path / "run", steps=3, lora=LORA, quantize="4bit",
        optimizer="adamw8bit", **QUICK,
    )  # fmt: skip
    assert seen == [14]
    assert run.metrics[-1]["loss"] < run.metrics[0]["loss"]
    adapter = json.loads((run.path / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(stages.base.resolve())
    weights = run.record["forecast"]["memory"]["weights"]
    whole = pt.sft(model=stages.base, data=stages.chats, out=tmp_path / "whole", steps=1, lora=LORA, **QUICK)
    assert weights < 0.75 * whole.record["forecast"]["memory"]["weights"]
    assert pt.evaluate(run.path, data=stages.chats, quiet=True)["nll"] == pytest.approx(run.metrics[-1]["loss"], abs=1)


@pytest.mark.medium
def test_a_run_in_few_bits_of_everything_goes_on_to_the_same_bits(stages: Stages, tmp_path: Path) -> None:
    words = f"sft --model {stages.base} --data {stages.chats} --steps 3 --batch_size 4 --eval_data null --quiet".split()
    words += ["--lora.rank", "128", "--lora.dora", "true", "--quantize", "8bit", "--optimizer", "adamw8bit"]
    words += ["--precision", "fp16", "--learning_rate", "0.01", "--save_every", "1"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main([*words, "--out", str(whole)]) == 0
    stopped_at_its_end([*words, "--out", str(stopped)])
    newest = sorted((stopped / "run" / "checkpoints").glob("step-*"))[-1]
    assert any("qmap1" in name for name in load_file(newest / "engine.safetensors"))
    shutil.rmtree(newest)  # goes on from the one before
    assert main([*words, "--out", str(stopped)]) == 0
    assert [row["step"] for row in pt.Run(stopped).metrics] == [1, 2, 3]
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (whole, stopped))
    assert all(torch.equal(part, theirs[name]) for name, part in ours.items())


@pytest.mark.medium
def test_dpo_on_a_base_in_few_bits_starts_at_log_2_with_float16_too(stages: Stages, tmp_path: Path) -> None:
    run = pt.dpo(
        model=stages.sft_lora, data=stages.rankings, out=tmp_path / "run", steps=3, lora=LORA, quantize="8bit",
        precision="fp16", **QUICK,
    )  # fmt: skip
    assert run.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert all(row["loss_scale"] >= 1 for row in run.metrics)
    assert {"skipped", "loss_scale"} <= run.metrics[0].keys()


@pytest.mark.medium
@pytest.mark.parametrize("layout", ["adapters", "separate"])
def test_ppo_on_a_base_in_few_bits_starts_at_a_kl_of_0(layout: str, stages: Stages, tmp_path: Path) -> None:
    run = pt.ppo(
        model=stages.sft_lora, reward=stages.reward_lora, prompts=stages.prompts, out=tmp_path / layout, steps=1,
        rollouts=4, max_new_tokens=4, ppo_epochs=1, layout=layout, lora=LORA, quantize="8bit", quiet=True,
    )  # fmt: skip
    assert run.metrics[0]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in load_file(
        run.path / "adapter_model.safetensors"
    )


@pytest.mark.medium
def test_frozen_models_of_ppo_wait_and_are_lent_for_annotating(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moving itself, with the CPU as both places: the run is the same, and its models came and went each round."""
    moved: list[int] = []
    monkeypatch.setattr("posttrain.recipes.machine._move", lambda models, device: moved.append(len(models)))
    monkeypatch.setattr("posttrain.recipes.opening.check_machine", lambda config: None)
    runs = [
        pt.ppo(
            model=stages.sft, reward=stages.reward, prompts=stages.prompts, out=tmp_path / str(offload), steps=2,
            rollouts=4, max_new_tokens=4, ppo_epochs=1, learning_rate=0.01, offload=offload, quiet=True,
        )
        for offload in (None, "all")
    ]  # fmt: skip
    # Aside at first, then to and fro in each of two rounds, and again where the round is kept for the inspector.
    assert moved == [2] + 2 * (2 * [2, 2])
    weights = [load_file(run.path / "model.safetensors") for run in runs]
    assert all(torch.equal(part, weights[1][name]) for name, part in weights[0].items())


def test_deterministic_changes_how_torch_computes_inside_and_nothing_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    config = make_config(SFTConfig, {**SFT, "deterministic": True})
    with same_bits(config):
        assert not torch.are_deterministic_algorithms_enabled()  # a CPU needs nothing
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with same_bits(make_config(SFTConfig, SFT)):
        assert not torch.are_deterministic_algorithms_enabled()
    with same_bits(config):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_few_kernels_are_kept_for_shapes_that_never_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    machine()
    assert os.environ["LRU_CACHE_CAPACITY"] == "32"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
