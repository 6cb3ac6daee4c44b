"""The keys and values of sequences under way, and the attention of one decoding step over them.

Rows are aligned at the right: every step writes one column, the same for all rows, and a row that enters brings its
prompt into the columns just before it. So a step writes without an index, a sliding window is a slice, and the mask,
which only hides what lies before a row's start, changes when rows do and not at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from posttrain.models.attention import AttentionTerms, masked_attention

_FIRST_COLUMNS = 256


@dataclass(frozen=True, slots=True)
class Shapes:
    """How entries lie in blocks, as one prefill showed it: entries of one shape (Hkv, d) share a block.

    `blocks`: the shape and the entries of each; `places`: block and row of each entry, in the order of the calls.
    """

    blocks: tuple[tuple[tuple[int, int], tuple[int, ...]], ...]
    places: tuple[tuple[int, int], ...]
    dtype: torch.dtype

    @staticmethod
    def seen(entries: Sequence[Tensor]) -> Shapes:
        """The shapes of entries [T, Hkv, d]. On a CPU half precision is stored as float32: attention is faster so."""
        groups: dict[tuple[int, int], list[int]] = {}
        places: list[tuple[int, int]] = []
        for number, entry in enumerate(entries):
            shape = (entry.shape[1], entry.shape[2])
            group = groups.setdefault(shape, [])
            places.append((list(groups).index(shape), len(group)))
            group.append(number)
        half_on_cpu = entries[0].device.type == "cpu" and entries[0].dtype in (torch.bfloat16, torch.float16)
        return Shapes(
            blocks=tuple((shape, tuple(group)) for shape, group in groups.items()),
            places=tuple(places),
            dtype=torch.float32 if half_on_cpu else entries[0].dtype,
        )

    def stack(self, entries: Sequence[Tensor]) -> list[Tensor]:
        """One tensor [entries, Hkv, T, d] for each block."""
        return [torch.stack([entries[number] for number in group]).transpose(1, 2) for _, group in self.blocks]


class KVStore:
    """Keys and values of `slots` rows, one block [entries, slots, Hkv, columns, d] for each shape.

    `now` is the column that the coming step writes. Columns grow by doubling up to what the longest row can need.
    """

    def __init__(self, shapes: Shapes, *, slots: int, longest: int, device: torch.device) -> None:
        self.shapes = shapes
        self.now = 0
        self.starts: list[int] = [0] * slots
        self._most = _widest(longest)
        self._columns = min(self._most, _FIRST_COLUMNS)
        self._device = device
        self._slots = slots
        self.blocks = self._zeros()

    def _zeros(self) -> list[Tensor]:
        # Zeros and not empty memory: a hidden column has weight 0, and 0 times NaN is NaN.
        return [
            torch.zeros(
                len(group), self._slots, heads, self._columns, width, dtype=self.shapes.dtype, device=self._device
            )
            for (heads, width), group in self.shapes.blocks
        ]

    def enter(self, slot: int, prefix: Sequence[Tensor], length: int) -> None:
        """`slot` holds a row whose first `length` tokens are `prefix`, one tensor [entries, Hkv, length, d] a block.

        There must be room before `now`: call `make_room` first.
        """
        self.starts[slot] = self.now - length
        if length:
            for block, part in zip(self.blocks, prefix, strict=True):
                block[:, slot, :, self.starts[slot] : self.now] = part

    def move(self, source: int, target: int) -> None:
        """`target` holds what `source` held."""
        start = self.starts[target] = self.starts[source]
        for block in self.blocks:
            block[:, target, :, start : self.now] = block[:, source, :, start : self.now]

    def make_room(self, rows: int, before: int) -> bool:
        """There are `before` columns before `now` and one at it; True when the rows were shifted for it."""
        if before <= self.now < self._columns:
            return False
        first = min(self.starts[:rows], default=self.now)
        width = self.now - first
        reach = max(width, before)
        old = self.blocks
        if 2 * reach > self._columns and self._columns < self._most:
            while 2 * reach > self._columns and self._columns < self._most:
                self._columns = min(2 * self._columns, self._most)
            self.blocks = self._zeros()
        for target_block, source_block in zip(self.blocks, old, strict=True):
            for target, source in zip(target_block, source_block, strict=True):
                window = source[:rows, :, first : self.now]
                # Source and target may overlap within one block.
                target[:rows, :, reach - width : reach] = window.clone() if target_block is source_block else window
        self.starts[:rows] = [start - self.now + reach for start in self.starts[:rows]]
        self.now = reach
        return True


def columns_at_once(longest: int) -> int:
    """The columns of a store at its highest: while it grows to its last width it still has the one before."""
    last, before = _widest(longest), _FIRST_COLUMNS
    while 2 * before < last:
        before *= 2
    return last + before if last > _FIRST_COLUMNS else last


def _widest(longest: int) -> int:
    # A quarter more than a row can need: the whole window is shifted that seldom.
    return longest + max(64, longest // 4)


class DecodeLayout:
    """One new token a row: writes column `now` of the store and attends over the row's own columns up to it."""

    def __init__(self, store: KVStore) -> None:
        self.calls = 0
        self._store = store
        self._rows = 0
        self._first = 0
        self._visible: Tensor | None = None
        self._bias: Tensor | None = None
        self._bool_mask: Tensor | None = None
        self._mask: Tensor | None = None
        self._views: list[tuple[Tensor, Tensor]] = []

    def arrange(self, rows: int) -> None:
        """The layout knows the rows 0..rows-1 of the store as they now lie; call it whenever they changed."""
        starts = self._store.starts[:rows]
        self._rows, self._first = rows, min(starts)
        self._visible = self._bias = None
        if max(starts) > self._first:
            block = self._store.blocks[0]
            columns = torch.arange(block.shape[3], device=block.device)
            hidden = columns < torch.tensor(starts, device=block.device)[:, None]
            self._visible = ~hidden[:, None, None, :]
            self._bias = torch.zeros_like(hidden, dtype=block.dtype).masked_fill_(hidden, float("-inf"))[:, None, None]

    def open(self) -> None:
        """The coming forward pass is one step at column `now`."""
        store, rows, first = self._store, self._rows, self._first
        self.calls = 0
        written = [block[:, :rows, :, store.now].unbind() for block in store.blocks]
        seen = [block[:, :rows, :, first : store.now + 1].unbind() for block in store.blocks]
        self._views = [(written[block][row], seen[block][row]) for block, row in store.shapes.places]
        if self._bias is not None and self._visible is not None:
            self._mask = self._bias[..., first : store.now + 1]
            self._bool_mask = self._visible[..., first : store.now + 1]
        else:
            self._mask = self._bool_mask = None

    def close(self) -> None:
        """The step is done. Raises RuntimeError when not every attention call that read the prompt was made again."""
        if 2 * self.calls != len(self._views):
            expected = len(self._views) // 2
            raise RuntimeError(f"a step made {self.calls} attention calls, reading a prompt made {expected}")
        self._store.now += 1

    def attend(self, query: Tensor, key: Tensor, value: Tensor, terms: AttentionTerms) -> Tensor:
        """The attention output [n, H, d] of query [n, H, d] at one new key and value [n, Hkv, d] a row."""
        entry = 2 * (self.calls - 1)
        key_now, keys = self._views[entry]
        value_now, values = self._views[entry + 1]
        key_now.copy_(key)
        value_now.copy_(value)
        rows, heads, width = query.shape
        kept = terms.window if terms.window is not None and terms.window < keys.shape[2] else None
        if kept is not None:
            keys, values = keys[:, :, -kept:], values[:, :, -kept:]
        # Query heads that share a key head are rows of one small attention: nothing is repeated.
        grouped = query.reshape(rows, keys.shape[1], -1, width)
        if grouped.dtype != keys.dtype:
            grouped = grouped.to(keys.dtype)
        if terms.softcap is None and terms.sinks is None:
            mask = self._mask if kept is None or self._mask is None else self._mask[..., -kept:]
            output = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=terms.scaling)
        else:
            output = self._masked(grouped, keys, values, terms)
        return output.reshape(rows, heads, -1).to(query.dtype)

    def _masked(self, grouped: Tensor, keys: Tensor, values: Tensor, terms: AttentionTerms) -> Tensor:
        length = keys.shape[2]
        mask = self._bool_mask[..., -length:] if self._bool_mask is not None else keys.new_ones((), dtype=torch.bool)
        if terms.sinks is not None:
            # A sink belongs to one query head, so the heads stay apart.
            grouped = grouped.flatten(1, 2).unsqueeze(2)
        return masked_attention(grouped, keys, values, mask, terms)
