"""Recorded work: replayed only where it does what the work does, and its first call is one call whatever happens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from posttrain.rollout.graphs import Record, Recorded, Work


def doubling(record: Record | None) -> tuple[Recorded, Tensor, Tensor, list[str]]:
    """Work that doubles a tensor and writes its square, how it was called, and the two tensors."""
    moved, result, calls = torch.tensor([3.0]), torch.zeros(1), list[str]()

    def work() -> None:
        calls.append("work")
        moved.mul_(2)
        result.copy_(moved**2)

    return Recorded(work, (moved,), (result,), record=record), moved, result, calls


def test_without_a_gpu_the_work_is_called() -> None:
    recorded, moved, result, calls = doubling(None)
    recorded()
    recorded()
    assert (moved.item(), result.item(), calls, recorded.refused) == (12.0, 144.0, ["work"] * 2, "")


def test_a_recording_that_does_the_same_is_replayed_from_then_on() -> None:
    replays: list[int] = []

    def record(work: Work, rewind: Work) -> Work:
        for _ in range(2):
            rewind()
            work()

        def replay() -> None:
            replays.append(1)
            work()

        return replay

    recorded, moved, result, calls = doubling(record)
    recorded()
    assert (moved.item(), result.item(), len(replays)) == (6.0, 36.0, 1)
    recorded()
    recorded()
    assert (moved.item(), result.item(), len(replays)) == (24.0, 576.0, 3)
    # As it is, twice while recorded, and then by every replay.
    assert (len(calls), recorded.refused) == (6, "")


def test_a_recording_that_does_something_else_is_refused() -> None:
    recorded, moved, result, _ = doubling(lambda _work, _rewind: lambda: None)
    recorded()
    assert (moved.item(), result.item()) == (6.0, 36.0)
    recorded()
    assert (moved.item(), result.item(), recorded.refused) == (12.0, 144.0, "recorded steps give other results")


def test_work_that_cannot_be_recorded_is_called_and_the_reason_kept() -> None:
    def record(work: Work, _rewind: Work) -> Work:
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    recorded, moved, result, _ = doubling(record)
    recorded()
    assert (moved.item(), result.item()) == (6.0, 36.0)
    recorded()
    assert (moved.item(), result.item()) == (12.0, 144.0)
    assert recorded.refused == "operation not permitted when stream is capturing"


@pytest.mark.gpu
def test_a_gpu_replays_what_it_recorded() -> None:
    moved, result, calls = torch.tensor([3.0], device="cuda"), torch.zeros(1, device="cuda"), list[int]()

    def work() -> None:
        calls.append(1)
        moved.mul_(2)
        result.copy_(moved**2)

    recorded = Recorded(work, (moved,), (result,))
    for _ in range(4):
        recorded()
    assert (moved.item(), result.item(), recorded.refused) == (48.0, 2304.0, "")
    assert len(calls) == 4  # as it is, twice on the way, and as it is recorded
