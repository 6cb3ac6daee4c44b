"""The keys and values of sequences under way, and the attention of one decoding step over them.

Rows are aligned at the right: every step writes one column, the same for all rows, and a row that enters brings its
prompt into the columns just before it. So a step writes without an index, a sliding window is a slice, and the mask,
which only hides what lies before a row's start, changes when rows do and not at every step.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from posttrain.models.attention import AttentionTerms, masked_attention

# On a CPU one more attention call takes about as long as reading so many bytes of keys and values.
_CALL_BYTES = 2**19


@dataclass(frozen=True, slots=True)
class Shapes:
    """What one prefill showed of keys and values: `entries` (Hkv, d) in the order of the calls, key before value."""

    entries: tuple[tuple[int, int], ...]
    dtype: torch.dtype

    @staticmethod
    def seen(entries: Sequence[Tensor]) -> Shapes:
        """The shapes of entries [T, Hkv, d]. On a CPU half precision is stored as float32: attention is faster so."""
        half_on_cpu = entries[0].device.type == "cpu" and entries[0].dtype in (torch.bfloat16, torch.float16)
        return Shapes(
            entries=tuple((entry.shape[1], entry.shape[2]) for entry in entries),
            dtype=torch.float32 if half_on_cpu else entries[0].dtype,
        )


class KVStore:
    """Keys and values of `slots` rows, a tensor [slots, Hkv, columns, d] for each entry, which never changes its place.

    `now` is the column that the coming step writes. There are as many columns as the longest row can need, and some; on
    a CPU they take memory as they are written.
    """

    def __init__(self, shapes: Shapes, *, slots: int, longest: int, device: torch.device) -> None:
        self.now = 0
        self.starts: list[int] = [0] * slots
        self.columns = columns_for(longest)
        self.device = device
        self.slots = slots
        self.entries = [
            _zeros((slots, heads, self.columns, width), shapes.dtype, device) for heads, width in shapes.entries
        ]

    def enter(self, slot: int, prefix: Sequence[Tensor], length: int) -> None:
        """`slot` holds a row whose first `length` tokens are `prefix`, a tensor [length, Hkv, d] for each entry.

        There must be room before `now`: call `make_room` first.
        """
        start = self.starts[slot] = self.now - length
        if length:
            for entry, part in zip(self.entries, prefix, strict=True):
                entry[slot, :, start : self.now] = part.transpose(0, 1)

    def move(self, source: int, target: int) -> None:
        """`target` holds what `source` held."""
        start = self.starts[target] = self.starts[source]
        for entry in self.entries:
            entry[target, :, start : self.now] = entry[source, :, start : self.now]

    def make_room(self, rows: int, before: int, steps: int = 1) -> bool:
        """There are `before` columns before `now` and `steps` from it on; True when the rows were shifted for it."""
        if before <= self.now <= self.columns - steps:
            return False
        first = min(self.starts[:rows], default=self.now)
        width = self.now - first
        reach = max(width, before)
        for entry in self.entries:
            for row in entry[:rows]:  # one by one: source and target may overlap, and a copy of all takes memory
                row[:, reach - width : reach] = row[:, first : self.now].clone()
        self.starts[:rows] = [start - self.now + reach for start in self.starts[:rows]]
        self.now = reach
        return True


def columns_for(longest: int) -> int:
    """The columns of a store whose longest row can need so many."""
    # A quarter more: the whole window is shifted that seldom.
    return longest + max(64, longest // 4)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Zeros and not empty memory: a hidden column has weight 0, and 0 times NaN is NaN.
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # The system gives pages of zeros when they are first written, torch writes all of them at once.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=flags)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring rows low to high - 1 that share an attention call: their first column, and what hides the others'.

    `bias` and `visible`, float and bool [rows, 1, 1, columns], are None where all rows begin together.
    """

    low: int
    high: int
    first: int
    bias: Tensor | None
    visible: Tensor | None


class DecodeLayout:
    """One new token a row: writes column `now` of the store and attends over the row's own columns up to it.

    On a CPU neighbours of very different length attend in calls of their own, so that short rows do not read the
    columns of long ones.
    """

    def __init__(self, store: KVStore) -> None:
        self.calls = 0
        self._store = store
        self._rows = 0
        self._runs: list[_Run] = []

    def arrange(self, rows: int) -> None:
        """The layout knows the rows 0..rows-1 of the store as they now lie; call it whenever they changed."""
        starts = self._store.starts[:rows]
        self._rows = rows
        entry = self._store.entries[0]
        spared = float("inf")
        if entry.device.type == "cpu":
            spared = _CALL_BYTES / (2 * entry.shape[1] * entry.shape[3] * entry.element_size())
        self._runs = [_run(low, starts[low:high], entry) for low, high in runs_of(starts, spared)]

    def open(self) -> None:
        """The coming forward pass is one step at column `now`."""
        self.calls = 0

    def close(self) -> None:
        """The step is done. Raises RuntimeError when not every attention call that read the prompt was made again."""
        expected = len(self._store.entries) // 2
        if self.calls != expected:
            raise RuntimeError(f"a step made {self.calls} attention calls, reading a prompt made {expected}")
        self._store.now += 1

    def attend(self, query: Tensor, key: Tensor, value: Tensor, terms: AttentionTerms) -> Tensor:
        """The attention output [n, H, d] of query [n, H, d] at one new key and value [n, Hkv, d] a row."""
        number, now = 2 * (self.calls - 1), self._store.now
        keys, values = self._store.entries[number], self._store.entries[number + 1]
        keys[: self._rows, :, now] = key
        values[: self._rows, :, now] = value
        rows, heads, _ = query.shape
        # Query heads that share a key head are rows of one small attention: nothing is repeated.
        grouped = query.view(rows, keys.shape[1], -1, query.shape[2]).to(keys.dtype)
        outputs = [self._attend(run, grouped, keys, values, terms) for run in self._runs]
        output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
        return output.reshape(rows, heads, -1).to(query.dtype)

    def _attend(self, run: _Run, grouped: Tensor, keys: Tensor, values: Tensor, terms: AttentionTerms) -> Tensor:
        """The output [rows, Hkv, G, d] or [rows, H, 1, d] of a run's rows."""
        low, high, last = run.low, run.high, self._store.now + 1
        first = run.first if terms.window is None else max(run.first, last - terms.window)
        asked, keys, values = grouped[low:high], keys[low:high, :, first:last], values[low:high, :, first:last]
        if terms.softcap is None and terms.sinks is None:
            bias = None if run.bias is None else run.bias[..., first:last]
            return F.scaled_dot_product_attention(asked, keys, values, attn_mask=bias, scale=terms.scaling)
        seen = keys.new_ones((), dtype=torch.bool) if run.visible is None else run.visible[..., first:last]
        if terms.sinks is not None:
            # A sink belongs to one query head, so the heads stay apart.
            asked = asked.flatten(1, 2).unsqueeze(2)
        return masked_attention(asked, keys, values, seen, terms)


def runs_of(starts: Sequence[int], spared: float) -> list[tuple[int, int]]:
    """Neighbouring rows (low, high) in one attention call: a row joins unless that reads more than `spared` columns."""
    runs: list[tuple[int, int]] = []
    low, first = 0, starts[0]
    for row, start in enumerate(starts):
        needless = start - first if start >= first else (first - start) * (row - low)
        if needless > spared:
            runs.append((low, row))
            low, first = row, start
        first = min(first, start)
    return [*runs, (low, len(starts))]


def _run(low: int, starts: Sequence[int], entry: Tensor) -> _Run:
    first, bias, visible = min(starts), None, None
    if max(starts) > first:
        columns = torch.arange(entry.shape[2], device=entry.device)
        hidden = (columns < torch.tensor(starts, device=entry.device)[:, None])[:, None, None]
        visible = ~hidden
        bias = torch.zeros_like(hidden, dtype=entry.dtype).masked_fill_(hidden, float("-inf"))
    return _Run(low=low, high=low + len(starts), first=first, bias=bias, visible=visible)
