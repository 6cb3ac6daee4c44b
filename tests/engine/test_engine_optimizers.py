"""AdamW in 8 bits and in CPU memory, and float16: what they save, that they learn alike, that they go on exactly."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from posttrain.engine.checkpoint import Checkpoints, Weights
from posttrain.engine.local import LocalEngine, ParameterGroup
from posttrain.engine.optimizers import (
    BETAS,
    EPSILON,
    MakeOptimizer,
    adamw,
    adamw8bit,
    check_eight_bits,
    on_cpu,
)
from posttrain.engine.scaling import FIRST, PATIENCE, LossScale
from posttrain.errors import Diverged, ModelError
from posttrain.models.precision import into_bf16, master_of, set_values

MAKERS: dict[str, MakeOptimizer] = {
    "adamw": adamw, "adamw8bit": adamw8bit, "on cpu": on_cpu(adamw), "8 bits on cpu": on_cpu(adamw8bit),
}  # fmt: skip


def layer(width: int = 72, *, half: bool = False) -> nn.Linear:
    torch.manual_seed(3)
    made = nn.Linear(width, width)
    if half:
        into_bf16(made, trained=True)
    return made


def engine_of(model: nn.Module, **given: Any) -> LocalEngine:
    group = ParameterGroup(name="policy", parameters=list(model.parameters()), learning_rate=0.01)
    return LocalEngine([group], schedule=lambda done: 1 / (1 + done), grad_clip=1.0, **given)


def learn(engine: LocalEngine, model: nn.Module, steps: int, first: int = 0) -> list[dict[str, float]]:
    told: list[dict[str, float]] = []
    for number in range(first, first + steps):
        x = torch.randn(8, 72, generator=torch.Generator().manual_seed(number))
        with engine.precision():
            loss = (model(x.to(next(model.parameters()).dtype)) - x.flip(1)).float().square().mean()
        engine.backward(loss)
        told.append(engine.step([f"row {number}"]))
    return told


def bytes_of_state(engine: LocalEngine) -> int:
    return sum(part.nbytes for part in engine.state().values() if isinstance(part, Tensor))


def test_8_bits_take_about_a_quarter_of_the_bytes() -> None:
    sizes: dict[str, int] = {}
    for name in ("adamw", "adamw8bit"):
        model = nn.Linear(512, 512, bias=False)
        engine = engine_of(model, optimizer=MAKERS[name])
        foreseen = engine.on_device
        engine.backward(model(torch.ones(1, 512)).sum())
        engine.step([])
        sizes[name] = bytes_of_state(engine)
        assert sizes[name] == pytest.approx(foreseen, rel=0.05)
        assert engine.on_device == 0
    assert sizes["adamw"] >= 2 * 4 * 512 * 512
    assert sizes["adamw8bit"] < 0.27 * sizes["adamw"]


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_one_update_is_adamw_by_hand(name: str) -> None:
    """The first update does not depend on the moments' bits: both are exact there but for rounding to 8 bits."""
    model = nn.Linear(64, 64, bias=False)
    before = model.weight.detach().clone()
    group = ParameterGroup(name="policy", parameters=[model.weight], learning_rate=0.01)
    engine = LocalEngine([group], schedule=lambda done: 1.0, grad_clip=None, weight_decay=0.1, optimizer=MAKERS[name])
    gradient = torch.randn(64, 64)
    model.weight.grad = gradient.clone()
    engine.step([])
    m, v = (1 - BETAS[0]) * gradient / (1 - BETAS[0]), (1 - BETAS[1]) * gradient**2 / (1 - BETAS[1])
    by_hand = before * (1 - 0.01 * 0.1) - 0.01 * m / (v.sqrt() + EPSILON)
    torch.testing.assert_close(model.weight.detach(), by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("eight", "whole"), [("adamw8bit", "adamw"), ("8 bits on cpu", "on cpu")])
def test_8_bits_learn_nearly_the_same(eight: str, whole: str) -> None:
    losses: dict[str, Tensor] = {}
    for name in (eight, whole):
        model = layer()
        learn(engine_of(model, optimizer=MAKERS[name]), model, 12)
        losses[name] = model.weight.detach()
    moved = float((losses[whole] - layer().weight.detach()).abs().mean())
    assert float((losses[eight] - losses[whole]).abs().mean()) < 0.1 * moved


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_updates_in_cpu_memory_are_the_same_bits(name: str, half: bool) -> None:
    models = [layer(half=half), layer(half=half)]
    for model, make in zip(models, (MAKERS[name], on_cpu(MAKERS[name])), strict=True):
        learn(engine_of(model, weight_decay=0.1, optimizer=make), model, 5)
    assert torch.equal(models[0].weight, models[1].weight)
    assert torch.equal(master_of(models[0].weight), master_of(models[1].weight))
    assert not torch.equal(models[0].weight, layer().weight)


def test_numbers_in_cpu_memory_take_nothing_on_the_device_and_leave_no_gradient_behind() -> None:
    model = layer()
    engine = engine_of(model, optimizer=on_cpu(adamw))
    assert engine.on_device == 0
    learn(engine, model, 1)
    assert all(part.grad is None for part in model.parameters())
    masters = engine._optimizer._masters  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    assert all(part.grad is None and part.device.type == "cpu" for part in masters)
    assert not {part.data_ptr() for part in masters} & {part.data_ptr() for part in model.parameters()}


SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    **{name: lambda make=make: {"optimizer": make} for name, make in MAKERS.items()},
    "fp16": lambda: {"half": torch.float16},
}


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_checkpoint_on_disk_goes_on_to_the_same_bits(name: str, half: bool, tmp_path: Path) -> None:
    whole, first, second = layer(half=half), layer(half=half), layer(half=half)
    learn(engine_of(whole, **SETTINGS[name]()), whole, 7)
    engine = engine_of(first, **SETTINGS[name]())
    learn(engine, first, 4)
    set_values(second.weight, torch.zeros(72, 72))
    again = engine_of(second, **SETTINGS[name]())
    parts = [
        {"weights": Weights({"policy": model}, list(model.parameters())), "engine": of}
        for model, of in ((first, engine), (second, again))
    ]
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(4, {name: part.state() for name, part in parts[0].items()})
    saved, _ = checkpoints.newest()
    assert saved is not None
    saved.restore(parts[1])
    learn(again, second, 3, first=4)
    assert torch.equal(second.weight, whole.weight)
    assert torch.equal(master_of(second.weight), master_of(whole.weight))
    assert {file.suffix for file in tmp_path.rglob("*") if file.is_file()} <= {".json", ".safetensors"}


# --- float16 --------------------------------------------------------------------------------------------------------


def test_a_gradient_that_overflows_is_skipped_and_halves_the_scale() -> None:
    model = layer()
    engine = engine_of(model, half=torch.float16)
    before = model.weight.detach().clone()
    model.weight.grad = torch.full_like(model.weight, math.inf)
    told = engine.step(["row 1"])
    assert told == {"learning_rate": 0.01, "skipped": 1.0, "loss_scale": FIRST / 2}
    assert torch.equal(model.weight, before)
    assert model.weight.grad is None
    told = learn(engine, model, 1)[0]
    assert told["learning_rate"] == 0.01  # the schedule has not moved on
    assert (told["skipped"], told["loss_scale"]) == (0.0, FIRST / 2)
    assert math.isfinite(told["grad_norm"])


def test_a_scale_that_has_fallen_is_part_of_the_state() -> None:
    model = layer()
    engine, again = engine_of(model, half=torch.float16), engine_of(model, half=torch.float16)
    model.weight.grad = torch.full_like(model.weight, math.inf)
    engine.step(["row 1"])
    learn(engine, model, 2)
    again.load_state(engine.state())
    assert (again.state()["scale"], again.state()["good"]) == (FIRST / 2, 2)


def test_a_gradient_that_no_scale_saves_has_diverged() -> None:
    model = layer()
    engine = engine_of(model, half=torch.float16)

    def step() -> dict[str, float]:
        model.weight.grad = torch.full_like(model.weight, math.nan)
        return engine.step(["row 1"])

    assert [step()["skipped"] for _ in range(16)] == [1.0] * 16
    with pytest.raises(Diverged, match="gradient of policy is not finite"):
        step()
    assert engine.state()["scale"] == 1.0


def test_the_scale_leaves_the_gradient_as_it_is() -> None:
    norms: list[float] = []
    for half in (None, torch.float16):
        model = layer()
        norms.append(learn(engine_of(model, half=half), model, 1)[0]["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-2)


def test_a_scale_carries_gradients_that_float16_alone_would_lose() -> None:
    model = nn.Linear(4, 4, bias=False)
    x = torch.full((1, 4), 1e-4)
    gradients: list[float] = []
    for scale in (1.0, FIRST):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = model(x).float().mul(1e-6).sum() * scale
        model.weight.grad = None
        loss.backward()
        assert model.weight.grad is not None
        gradients.append(float(model.weight.grad.abs().sum()) / scale)
    assert gradients[0] == 0.0
    assert gradients[1] == pytest.approx(16 * 1e-4 * 1e-6, rel=0.05)


def test_a_scale_grows_again_after_patience() -> None:
    scale = LossScale()
    for _ in range(PATIENCE - 1):
        scale.raised()
    assert scale.value == FIRST
    scale.raised()
    assert (scale.value, scale.good) == (2 * FIRST, 0)
    scale.raised()
    assert scale.lowered()
    assert (scale.value, scale.good) == (FIRST, 0)


# --- what cannot be -------------------------------------------------------------------------------------------------


def test_8_bits_without_bitsandbytes_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(
        ModelError, match=r"not installed\n  fix: pip install 'posttrain\[quantize\]', or optimizer: adamw"
    ):
        check_eight_bits(torch.device("cpu"))


def test_a_device_without_8_bits_is_refused_with_the_packages_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise NotImplementedError("no such kernel\nmore")

    monkeypatch.setattr("posttrain.engine.optimizers.InPlace.step", broken)
    with pytest.raises(ModelError, match=r"adamw8bit does not work on cpu: no such kernel\n  fix: optimizer: adamw"):
        check_eight_bits(torch.device("cpu"))
