"""A piece of work on fixed tensors that a GPU replays from a recording (a CUDA graph), checked once against itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_TOLERANCE = 1e-3

Work = Callable[[], None]
Record = Callable[[Work, Work], Work]
"""Of a piece of work, and of what takes its tensors back to where it begins: what repeats it."""


class Recorded:
    """Calls `work`, or on a GPU replays it.

    `moved` are the tensors that it reads and changes, `results` those it only writes; other changes must be the same
    however often it runs. At the first call the work runs as it is, then recorded from where it began: only where the
    results are equal is it replayed from then on. `refused` says why it is not, empty where it is or no GPU is there.
    """

    def __init__(
        self, work: Work, moved: Sequence[Tensor], results: Sequence[Tensor], *, record: Record | None = None
    ) -> None:
        self.refused = ""
        self._work = work
        self._moved = moved
        self._results = results
        self._record = record if record is not None or moved[0].device.type != "cuda" else cuda_graph

    def __call__(self) -> None:
        """The work is done once."""
        if self._record is None:
            self._work()
        else:
            record, self._record = self._record, None
            self._try(record)

    def _try(self, record: Record) -> None:
        before = [tensor.clone() for tensor in self._moved]
        self._work()
        tensors = (*self._moved, *self._results)
        expected = [tensor.clone() for tensor in tensors]

        def rewind() -> None:
            _restore(self._moved, before)

        try:
            replay = record(self._work, rewind)
            rewind()
            replay()
            if all(_equal(one, other) for one, other in zip(tensors, expected, strict=True)):
                self._work = replay
                return
            self.refused = "recorded steps give other results"
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            self.refused = (str(error).strip().splitlines() or [type(error).__name__])[0]
        _restore(tensors, expected)


def cuda_graph(work: Work, rewind: Work) -> Work:
    """The replay of a CUDA graph of the work. Raises RuntimeError where a GPU cannot record it."""
    # What libraries set up at a first call must not be recorded: the work runs on the other stream before.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            rewind()
            work()
        rewind()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _restore(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _equal(found: Tensor, expected: Tensor) -> bool:
    if found.is_floating_point():
        return torch.allclose(found, expected, rtol=0.0, atol=_TOLERANCE, equal_nan=True)
    return torch.equal(found, expected)
