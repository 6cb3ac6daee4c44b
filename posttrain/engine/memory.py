"""How much memory there is, and how much a piece of work takes at its highest."""

from __future__ import annotations

import resource
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_CGROUPS = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
# Larger blocks glibc maps one by one. What its heap, which falls to pieces as sizes change, holds for each byte of a
# smaller one: measured, `python -m benchmarks memory`.
_LARGE = 2**25
_HEAP = 1.2


def available(device: torch.device, *, cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that can still be allocated on `device`: of the GPU, or of the machine within the limits of its container
    and of the process.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    rooms = [psutil.virtual_memory().available]
    for limit, used in _CGROUPS:
        try:
            rooms.append(int((cgroups / limit).read_text()) - int((cgroups / used).read_text()))
        except (OSError, ValueError):  # no such version of control groups, or no limit: "max"
            continue
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)  # `ulimit -v`, as schedulers of clusters set it
    if limit != resource.RLIM_INFINITY:
        rooms.append(limit - psutil.Process().memory_info().vms)
    return max(0, min(rooms))


def peak_of(work: Callable[[], object], device: torch.device) -> int:
    """Bytes that `work` holds on `device` at its highest, beyond what was there before it.

    On a CPU every tensor made in this thread is counted, in backward passes too, but not what kernels need inside.
    One below 32 MiB counts 1.2 times, for the heap that it lies in.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _Counting() as counting:
        work()
    return counting.peak


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors' storages, each counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


class _Counting(TorchDispatchMode):
    """Adds up the storages that operations make, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        named = kwargs or {}
        for tensor in (*_tensors(args), *_tensors(tuple(named.values()))):  # of weights and the like, there before
            self._count(tensor.untyped_storage(), held=False)
        made = func(*args, **named)
        for tensor in _tensors(made):
            self._count(tensor.untyped_storage(), held=True)
        return made

    def _count(self, storage: torch.UntypedStorage, *, held: bool) -> None:
        key = storage._cdata  # pyright: ignore[reportPrivateUsage]  # the address of the storage, whose data may move
        if key not in self._alive:
            self._alive[key] = _held(storage.nbytes()) if held else 0
            self._now += self._alive[key]
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._drop, key).atexit = False

    def _drop(self, key: int) -> None:
        self._now -= self._alive.pop(key)


def _tensors(part: object) -> Iterator[Tensor]:
    """Those that an operation takes or gives; a walk through any tree at all costs more than a small model's work."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, (tuple, list)):
        for one in cast("Sequence[object]", part):
            yield from _tensors(one)


def _held(size: int) -> int:
    """Bytes that the C library holds for a block of so many."""
    return size if size >= _LARGE else round(_HEAP * size)
