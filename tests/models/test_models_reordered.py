"""Reordered weights: the same outputs, only where they help, and nothing left behind."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posttrain.models.precision import multiplies_bf16
from posttrain.models.reordered import MOST_ROWS, reordered, rounded

K, N = 256, 320


class Layers(nn.Module):
    """A layer with and one without bias, one that is too small, and one of another class."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(K, N)
        self.back = nn.Linear(N, K, bias=False)
        self.small = nn.Linear(K, 8)
        self.other = Doubling(K, N)

    def forward(self, rows: Tensor) -> Tensor:
        return self.small(self.back(self.wide(rows) + self.other(rows)))


class Doubling(nn.Linear):
    """A linear layer that does something of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def changed(model: nn.Module) -> list[str]:
    """The names of the layers whose forward pass is not that of their class."""
    return [name for name, module in model.named_modules() if "forward" in module.__dict__]


@pytest.fixture
def layers() -> Layers:
    with reordered(probe := nn.Linear(K, N)):
        if not changed(probe):
            pytest.skip("the library does not reorder weights on this processor")
    return Layers()


@pytest.mark.parametrize("rows", [0, 1, 7, 64, 65, MOST_ROWS, MOST_ROWS + 1])
def test_outputs_are_those_of_the_plain_layers(layers: Layers, rows: int) -> None:
    given = torch.randn(1, rows, K)
    with torch.inference_mode():
        expected = layers(given)
        with reordered(layers):
            torch.testing.assert_close(layers(given), expected, atol=1e-5, rtol=1e-5)
            slices = torch.randn(K, rows).t()
            torch.testing.assert_close(layers.wide(slices), F.linear(slices, layers.wide.weight, layers.wide.bias))


def test_products_are_of_few_numbers_of_rows() -> None:
    # the library keeps a kernel for each that it has met
    found = [rounded(rows) for rows in range(1, MOST_ROWS + 1)]
    assert all(rows <= more <= max(2 * rows - 1, rows + 63) for rows, more in enumerate(found, 1))
    assert len(set(found)) == 18
    assert max(found) == MOST_ROWS


def test_only_large_plain_layers_change_and_they_change_back(layers: Layers) -> None:
    with reordered(layers):
        assert changed(layers) == ["wide", "back"]
    assert changed(layers) == []


def test_layers_change_back_after_an_error(layers: Layers) -> None:
    with pytest.raises(RuntimeError, match="inside"), reordered(layers):
        raise RuntimeError("inside")
    assert changed(layers) == []


def test_within_itself_nothing_changes_twice(layers: Layers) -> None:
    with reordered(layers):
        with reordered(layers):
            assert changed(layers) == ["wide", "back"]
        assert changed(layers) == ["wide", "back"]
    assert changed(layers) == []


def test_the_weights_are_those_of_the_moment_of_entering(layers: Layers) -> None:
    given = torch.randn(3, K)
    with torch.inference_mode(), reordered(layers):
        layers(given)
    with torch.no_grad():
        layers.wide.weight.add_(1.0)
    with torch.inference_mode():
        expected = layers(given)
        with reordered(layers):
            torch.testing.assert_close(layers(given), expected, atol=1e-4, rtol=1e-5)


def test_half_precision_and_autocast_give_what_the_plain_layers_give(layers: Layers) -> None:
    if not multiplies_bf16():
        pytest.skip("this processor does not multiply in bfloat16")
    given = torch.randn(5, K)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = layers(given)
        with reordered(layers):
            assert changed(layers) == ["wide", "back"]
            torch.testing.assert_close(layers(given), expected, atol=0.02, rtol=0.02)
    half = copy.deepcopy(layers).bfloat16()
    with torch.inference_mode():
        expected = half(given.bfloat16())
        with reordered(half):
            found = half(given.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)


def test_a_part_without_autocast_stays_in_float32(layers: Layers) -> None:
    given = torch.randn(5, K)
    half, whole = torch.autocast("cpu", dtype=torch.bfloat16), torch.autocast("cpu", enabled=False)
    with torch.inference_mode(), half, reordered(layers), whole:
        found = layers.wide(given)
    assert torch.equal(found, F.linear(given, layers.wide.weight, layers.wide.bias))


def test_an_input_of_another_dtype_is_refused_as_ever(layers: Layers) -> None:
    with torch.inference_mode(), reordered(layers), pytest.raises(RuntimeError, match="dtype"):
        layers.wide(torch.randn(5, K).bfloat16())


def test_float64_is_left_as_it_is() -> None:
    layers = Layers().double()
    with reordered(layers):
        assert changed(layers) == []
