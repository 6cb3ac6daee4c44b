"""The engine of one process: clipping and rates by group, schedules, and a state that goes on exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from posttrain.engine.local import LocalEngine, ParameterGroup, schedule
from posttrain.models.precision import master_of


def groups(*modules: nn.Module, rates: tuple[float, ...] = (0.1, 0.01)) -> list[ParameterGroup]:
    names = ("actor", "critic")
    return [
        ParameterGroup(name=name, parameters=list(module.parameters()), learning_rate=rate)
        for name, module, rate in zip(names, modules, rates, strict=False)
    ]


def test_each_group_has_its_own_norm_limit_and_learning_rate() -> None:
    actor, critic = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    engine = LocalEngine(groups(actor, critic), schedule=lambda done: 0.5, grad_clip=1.0)
    engine.backward((actor.weight * torch.tensor([3.0, 4.0])).sum() + (critic.weight * torch.tensor([0.3, 0.4])).sum())
    metrics = engine.step([])
    assert metrics == pytest.approx(
        {"grad_norm_actor": 5.0, "grad_norm_critic": 0.5, "learning_rate_actor": 0.05, "learning_rate_critic": 0.005}
    )
    assert actor.weight.grad is None


def test_the_first_update_of_adamw_is_the_learning_rate_and_the_decay() -> None:
    layer = nn.Linear(2, 1, bias=False)
    nn.init.ones_(layer.weight)
    engine = LocalEngine(groups(layer), schedule=lambda done: 1.0, grad_clip=None, weight_decay=0.5)
    engine.backward((layer.weight * torch.tensor([2.0, -3.0])).sum())
    assert engine.step([]) == pytest.approx({"grad_norm": 13**0.5, "learning_rate": 0.1})
    # Loshchilov 2019: w <- w (1 - rate decay) - rate m / sqrt(v), and m / sqrt(v) is the sign at first
    torch.testing.assert_close(layer.weight.detach(), torch.tensor([[0.95 - 0.1, 0.95 + 0.1]]))


def test_the_schedules() -> None:
    rising = schedule("constant", steps=10, warmup=0.4)
    assert [rising(done) for done in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    linear = schedule("linear", steps=4, warmup=0.0)
    assert [linear(done) for done in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]
    cosine = schedule("cosine", steps=4, warmup=0.0)
    assert [cosine(done) for done in range(5)] == pytest.approx([1.0, 0.853553, 0.5, 0.146447, 0.0], abs=1e-6)
    assert schedule("cosine", steps=1, warmup=1.0)(0) == 1.0


def test_an_engine_goes_on_from_its_state_bit_for_bit() -> None:
    def train(layer: nn.Linear, engine: LocalEngine, inputs: list[Tensor]) -> None:
        for row in inputs:
            engine.backward(layer(row).square().sum())
            engine.step([])

    rows = [torch.randn(4, 3) for _ in range(6)]
    straight, broken = nn.Linear(3, 2), nn.Linear(3, 2)
    broken.load_state_dict(straight.state_dict())
    falling = schedule("linear", steps=6, warmup=0.3)
    train(straight, LocalEngine(groups(straight), schedule=falling, grad_clip=1.0), rows)
    first = LocalEngine(groups(broken), schedule=falling, grad_clip=1.0)
    train(broken, first, rows[:3])
    state = {name: value.clone() if isinstance(value, Tensor) else value for name, value in first.state().items()}
    second = LocalEngine(groups(broken), schedule=falling, grad_clip=1.0)
    second.load_state(state)
    train(broken, second, rows[3:])
    assert torch.equal(broken.weight, straight.weight)
    assert torch.equal(broken.bias, straight.bias)


@pytest.mark.parametrize(("half", "dtype"), [(torch.float16, torch.float16), (torch.bfloat16, torch.float32)])
def test_float16_alone_is_autocast_over_float32_weights(half: torch.dtype, dtype: torch.dtype) -> None:
    layer = nn.Linear(3, 2)
    engine = LocalEngine(groups(layer), schedule=lambda done: 1.0, grad_clip=None, half=half)
    with engine.precision():
        assert layer(torch.ones(1, 3)).dtype == dtype
    assert layer.weight.dtype == torch.float32


# --- weights in bfloat16 ------------------------------------------------------------------------------------------


def test_updates_below_the_spacing_of_bf16_add_up_in_the_master() -> None:
    layer = nn.Linear(4, 1, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(layer.weight)
    engine = LocalEngine(groups(layer, rates=(1e-4,)), schedule=lambda done: 1.0, grad_clip=None)
    for number in range(100):
        engine.backward(layer(torch.ones(1, 4).bfloat16()).float().sum())
        engine.step([])
        if number == 9:  # 1 - 10 * 1e-4 is nearer to 1 than to the next number below, 1 - 2 ** -8
            assert torch.equal(layer.weight, torch.ones(1, 4).bfloat16())
    torch.testing.assert_close(master_of(layer.weight), torch.full((1, 4), 0.99), rtol=0, atol=1e-5)
    assert torch.equal(layer.weight, master_of(layer.weight).bfloat16())


def test_many_micro_batches_in_bf16_are_as_near_to_the_gradient_as_one() -> None:
    layer = nn.Linear(16, 8, bias=False, dtype=torch.bfloat16)
    rows, wanted = torch.randn(512, 16).bfloat16(), torch.rand(512, 8) + 0.5
    exact = wanted.double().T @ rows.double()

    def error(parts: int) -> float:
        engine = LocalEngine(groups(layer), schedule=lambda done: 1.0, grad_clip=None)
        engine.clear()
        for row, weight in zip(rows.chunk(parts), wanted.chunk(parts), strict=True):
            engine.backward((layer(row).float() * weight).sum())
        assert layer.weight.grad is not None
        assert layer.weight.grad.dtype == torch.float32
        return float((layer.weight.grad.double() - exact).norm() / exact.norm())

    assert error(1) < 0.005
    assert error(512) < 1.5 * error(1)


def test_gradients_of_weights_in_bf16_are_counted_as_float32() -> None:
    layer = nn.Linear(16, 8, bias=False, dtype=torch.bfloat16)
    engine = LocalEngine(groups(layer), schedule=lambda done: 1.0, grad_clip=None)
    assert engine.gradients == 4 * 16 * 8
    assert engine.on_device == 2 * 4 * 16 * 8


def test_what_stays_in_float32_among_weights_in_bf16_is_updated_itself() -> None:
    layer, head = nn.Linear(4, 4, bias=False, dtype=torch.bfloat16), nn.Linear(4, 1, bias=False)
    engine = LocalEngine(groups(layer, head), schedule=lambda done: 1.0, grad_clip=1.0)
    engine.backward(head(layer(torch.ones(1, 4).bfloat16()).float()).sum())
    before = head.weight.detach().clone()
    assert engine.step([])["grad_norm_critic"] > 0
    assert master_of(head.weight) is head.weight
    torch.testing.assert_close((head.weight - before).abs(), torch.full((1, 4), 0.01), rtol=1e-3, atol=1e-5)


def test_a_gradient_above_the_limit_is_scaled_down_to_it_and_one_below_stays() -> None:
    actor, critic = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    engine = LocalEngine(groups(actor, critic), schedule=lambda done: 1.0, grad_clip=1.0)
    engine.backward((actor.weight * torch.tensor([3.0, 4.0])).sum() + (critic.weight * torch.tensor([0.3, 0.4])).sum())
    engine.step([])
    state = engine.state()
    moments = [value for name, value in state.items() if name.endswith("exp_avg")]
    # AdamW's first update does not depend on the size of a gradient, but its moments do: a tenth of what was applied
    for found, applied in zip(moments, ([[0.6, 0.8]], [[0.3, 0.4]]), strict=True):
        assert isinstance(found, Tensor)
        torch.testing.assert_close(found, torch.tensor(applied) / 10)
