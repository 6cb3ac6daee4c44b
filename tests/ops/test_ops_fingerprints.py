"""The number of a tensor: any other bit, any other order gives another one, and nothing else does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from posttrain.ops import fingerprints as module
from posttrain.ops.fingerprints import fingerprints

WIDTH = 2**16
SIZES = [1, 7, WIDTH - 1, WIDTH, WIDTH + 1, 5 * WIDTH + 3]
"""One value, part of a row, a whole one, and several with a rest."""


def number(tensor: Tensor) -> int:
    return fingerprints([tensor])[0]


def flipped(tensor: Tensor, place: int, bit: int) -> Tensor:
    """The tensor with one bit of one value changed."""
    changed = tensor.clone()
    bits = changed.view(-1).view(torch.int32)
    bits[place] ^= torch.tensor(1 << bit if bit < 31 else -(2**31), dtype=torch.int32)
    return changed


def mixed(place: int) -> int:
    """SplitMix64 of a place, in Python's own integers; 1 for the first row."""
    if place == WIDTH:
        return 1
    state = (place + 1) * 0x9E3779B97F4A7C15 % 2**64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> shift)) * factor % 2**64
    return state >> 32 | 1


def test_the_number_is_the_weighted_sum_of_the_bits() -> None:
    tensor = torch.randn(2 * WIDTH + 5)
    chosen = [0, 1, WIDTH - 1, WIDTH, 2 * WIDTH + 4]
    only = torch.zeros_like(tensor)
    only[chosen] = tensor[chosen]
    bits = only.view(torch.int32).tolist()
    expected = sum(bits[place] * mixed(place % WIDTH) * mixed(WIDTH + place // WIDTH) for place in chosen)
    assert number(only) == expected % 2**32


@pytest.mark.parametrize("size", SIZES)
def test_a_single_flipped_bit_changes_it(size: int) -> None:
    tensor = torch.randn(size)
    before = number(tensor)
    for place in {0, size // 2, size - 1}:
        for bit in (0, 13, 22, 30, 31):
            assert number(flipped(tensor, place, bit)) != before, (place, bit)


@pytest.mark.parametrize(
    "pair", [(0, 1), (3, WIDTH + 3), (WIDTH - 1, WIDTH), (5, 3 * WIDTH + 7), (WIDTH + 2, 2 * WIDTH + 1)]
)
def test_two_values_that_change_places_change_it(pair: tuple[int, int]) -> None:
    tensor = torch.randn(4 * WIDTH)
    swapped = tensor.clone()
    swapped[[*pair]] = tensor[[*reversed(pair)]]
    assert number(swapped) != number(tensor)


def test_rows_and_axes_that_change_places_change_it() -> None:
    tensor = torch.randn(300, 300)
    order = torch.randperm(300)
    numbers = {number(changed) for changed in (tensor, tensor[order], tensor[:, order], tensor.t(), tensor.flip(0))}
    assert len(numbers) == 5
    rows = torch.randn(3, WIDTH)
    assert number(rows[[1, 0, 2]]) != number(rows)


def test_two_tensors_that_change_places_are_seen_in_both() -> None:
    first, second = torch.randn(40), torch.randn(40)
    one, other = fingerprints([first, second])
    assert fingerprints([second, first]) == [other, one]
    assert one != other


def test_what_stays_the_same_does_not_change_it() -> None:
    tensor = torch.randn(2 * WIDTH + 9)
    laid_otherwise = torch.empty(len(tensor), 2)[:, 0].copy_(tensor)
    assert number(laid_otherwise) == number(tensor) == number(tensor.clone())
    assert number(tensor.view(1, -1)) == number(tensor)
    assert 0 <= number(tensor) < 2**32


def test_the_numbers_do_not_depend_on_how_much_is_multiplied_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [torch.randn(size) for size in SIZES]
    before = fingerprints(tensors)
    for rows in (1, 3, 64):
        monkeypatch.setattr(module, "_ROWS", {"cpu": rows})
        assert fingerprints(tensors) == before


def test_zeros_of_both_signs_and_values_that_are_no_numbers_are_told_apart() -> None:
    kinds = [torch.tensor([value]) for value in (0.0, -0.0, float("inf"), float("nan"))]
    assert len(set(fingerprints(kinds))) == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.int64])
def test_other_types_have_one_too(dtype: torch.dtype) -> None:
    tensor = torch.arange(100).to(dtype)
    changed = tensor.clone()
    changed[99] += 1
    assert number(tensor) != number(changed)


def test_tensors_without_values_or_axes() -> None:
    assert fingerprints([]) == []
    assert number(torch.zeros(0)) == 0
    assert number(torch.tensor(2.5)) == number(torch.tensor([2.5]))


@pytest.mark.gpu
def test_a_gpu_gives_the_same_numbers() -> None:
    tensors = [torch.randn(size) for size in SIZES] + [torch.randn(70, 2**16), torch.randn(9).bfloat16()]
    expected = fingerprints(tensors)
    assert fingerprints([tensor.cuda() for tensor in tensors]) == expected
    assert fingerprints([tensors[0].cuda(), *tensors[1:]]) == expected  # some wait in CPU memory
