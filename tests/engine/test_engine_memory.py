"""What work holds at its highest, against sums by hand, and how much a container leaves of a machine's memory."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from posttrain.engine import memory
from posttrain.engine.memory import available, bytes_of, peak_of

MB = 2**20
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor counts as it is."""
    monkeypatch.setattr(memory, "_HEAP", 1.0)


def block(megabytes: int = 1) -> Tensor:
    """A tensor of so many MiB."""
    return torch.ones(megabytes * MB // 4)


def freed_before_the_next() -> None:
    first = block(4)
    del first
    block(3)


def two_at_once() -> None:
    first = block(4)
    second = first + 1
    del first, second
    block(5)


def views_of_one() -> None:
    whole = block(4).view(1024, -1)
    parts = [whole.t(), whole[10:], whole.reshape(-1), whole.detach(), *whole.unbind(), *whole.split(7)]
    assert len(parts) > 1000


def in_place() -> None:
    whole = block(2)
    whole += 1
    whole.mul_(2).clamp_(min=0)


def through_a_function() -> None:
    def inner() -> Tensor:
        return block(8).sum()

    held = inner()
    block(3)
    assert held > 0


@pytest.mark.parametrize(
    ("work", "megabytes"),
    [(freed_before_the_next, 4), (two_at_once, 8), (views_of_one, 4), (in_place, 2), (through_a_function, 8)],
)
def test_the_peak_is_of_what_lives_at_once(work: Callable[[], None], megabytes: int) -> None:
    assert peak_of(work, CPU) == pytest.approx(megabytes * MB, rel=0.001)  # a number alone takes 4 bytes


def test_what_was_there_before_is_no_part_of_the_peak() -> None:
    weight, gradient = block(4).view(1024, 1024), block(4).view(1024, 1024)
    assert peak_of(lambda: weight.t()[3:], CPU) == 0
    assert peak_of(lambda: gradient.add_(weight), CPU) == 0
    assert peak_of(lambda: weight + gradient, CPU) == 4 * MB


def test_the_peak_of_a_backward_pass_counts_saved_tensors_and_gradients() -> None:
    weight = block(4).requires_grad_()

    def work() -> None:
        (weight * block(4)).exp().sin().sum().backward()

    # Saved for backward: the second factor and the result of exp. Beside them, while backward passes sin: the cosine
    # and the product with it. Without gradients there are only what a function reads and what it returns.
    assert peak_of(work, CPU) == pytest.approx(4 * 4 * MB, rel=0.001)
    with torch.no_grad():
        assert peak_of(lambda: (weight * block(4)).exp().sin().sum(), CPU) == pytest.approx(2 * 4 * MB, rel=0.001)


def test_a_gradient_that_is_there_takes_no_new_memory() -> None:
    layer = nn.Linear(1024, 1024, bias=False)
    inputs = torch.ones(1, 1024)

    def work() -> None:
        layer(inputs).sum().backward()

    first, second = peak_of(work, CPU), peak_of(work, CPU)
    assert first == pytest.approx(4 * MB, rel=0.02)  # the gradient, which stays
    assert second == pytest.approx(4 * MB, rel=0.02)  # one more, until it is added


def test_recomputing_holds_less_than_keeping() -> None:
    weight = block(4).requires_grad_()

    def layers(value: Tensor) -> Tensor:
        return value.sin().sin().sin().sin().sin().sin()

    def again(value: Tensor) -> Tensor:
        return cast("Tensor", checkpoint(layers, value, use_reentrant=False))

    def peak(part: Callable[[Tensor], Tensor]) -> int:
        def work() -> None:
            part(part(weight)).sum().backward()

        weight.grad = None
        return peak_of(work, CPU)

    assert peak(again) < 0.75 * peak(layers)


def test_blocks_below_32_megabytes_count_with_the_heap_that_they_lie_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert peak_of(lambda: [torch.ones(1000) for _ in range(100)], CPU) == 100 * 4800
    assert peak_of(lambda: block(31), CPU) == pytest.approx(1.2 * 31 * MB, abs=1)
    assert peak_of(lambda: block(32), CPU) == 32 * MB


def test_bytes_of_shared_storages_count_once() -> None:
    whole = torch.zeros(100)
    assert bytes_of([whole, whole[5:], whole.view(10, 10), torch.zeros(3, dtype=torch.float64)]) == 400 + 24
    tied = nn.Linear(4, 4, bias=False)
    assert bytes_of([tied.weight, tied.weight]) == 64


@pytest.mark.parametrize(
    ("limit", "used"),
    [("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")],
)
def test_a_container_leaves_its_limit_less_what_it_uses(
    limit: str, used: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8_000))
    (tmp_path / "memory").mkdir()
    assert available(CPU, cgroups=tmp_path) == 8_000
    (tmp_path / used).write_text("2000\n")
    (tmp_path / limit).write_text("5000\n")
    assert available(CPU, cgroups=tmp_path) == 3_000
    (tmp_path / limit).write_text("90000\n")
    assert available(CPU, cgroups=tmp_path) == 8_000
    (tmp_path / limit).write_text("1500\n")
    assert available(CPU, cgroups=tmp_path) == 0
    (tmp_path / limit).write_text("max\n")
    assert available(CPU, cgroups=tmp_path) == 8_000


def test_a_process_has_no_more_than_its_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    used = psutil.Process().memory_info().vms

    def limit(which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_AS
        return used + 10_000_000, resource.RLIM_INFINITY

    monkeypatch.setattr(resource, "getrlimit", limit)
    assert 0 <= available(CPU) <= 10_000_000 + MB
