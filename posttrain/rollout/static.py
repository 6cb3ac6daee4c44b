"""Steps of sampling in fixed memory: a few at a time without a look at their results, so that a GPU can replay them.

Nothing in a step depends on a number that Python holds: the column, the positions and the step's place among its
fellows are tensors that the step itself moves on. What rows sample beyond their end is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from posttrain.models.attention import AttentionTerms, masked_attention, using
from posttrain.models.heads import Policy
from posttrain.rollout.cache import KVStore
from posttrain.rollout.draw import draw
from posttrain.rollout.graphs import Recorded
from posttrain.types import SamplingSpec

_COLUMNS = 128


class StaticLayout:
    """One new token a row at the column that a tensor names. `rows` and `columns` are fixed; a mask hides the rest."""

    def __init__(self, store: KVStore, *, rows: int, columns: int) -> None:
        self.calls = 0
        self.now = torch.zeros(1, dtype=torch.int64, device=store.device)
        self.starts = torch.zeros(rows, dtype=torch.int64, device=store.device)
        self._store = store
        self._rows = rows
        self._places = torch.arange(columns, device=store.device)
        self._seen = torch.empty(0)

    def open(self) -> None:
        """The coming forward pass is one step at column `now`."""
        self.calls = 0
        self._seen = ((self._places >= self.starts[:, None]) & (self._places <= self.now))[:, None, None]

    def close(self) -> None:
        """The step is done. Raises RuntimeError when not every attention call that read the prompt was made again."""
        expected = len(self._store.entries) // 2
        if self.calls != expected:
            raise RuntimeError(f"a step made {self.calls} attention calls, reading a prompt made {expected}")
        self.now += 1

    def attend(self, query: Tensor, key: Tensor, value: Tensor, terms: AttentionTerms) -> Tensor:
        """The attention output [n, H, d] of query [n, H, d] at one new key and value [n, Hkv, d] a row."""
        number, columns = 2 * (self.calls - 1), len(self._places)
        keys, values = (entry[: self._rows] for entry in self._store.entries[number : number + 2])
        keys.index_copy_(2, self.now, key.unsqueeze(2).to(keys.dtype))
        values.index_copy_(2, self.now, value.unsqueeze(2).to(values.dtype))
        keys, values = keys[:, :, :columns], values[:, :, :columns]
        rows, heads, width = query.shape
        seen = self._seen if terms.window is None else self._seen & (self._places > self.now - terms.window)
        grouped = query.view(rows, keys.shape[1], -1, width).to(keys.dtype)
        if terms.softcap is None and terms.sinks is None:
            output = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=seen, scale=terms.scaling)
        else:
            if terms.sinks is not None:  # a sink belongs to one query head, so the heads stay apart
                grouped = grouped.flatten(1, 2).unsqueeze(2)
            output = masked_attention(grouped, keys, values, seen, terms)
        return output.reshape(rows, heads, -1).to(query.dtype)


class StaticSteps:
    """`count` steps of up to `slots` rows, from a store that never grows: `advance` gives what they drew.

    Steps of each size, a power of two of rows and a multiple of 128 columns, have buffers of their own, and on a GPU a
    recording. `context` is where positions end: a row beyond its end reads there, and no one reads what it says.
    """

    def __init__(self, policy: Policy, store: KVStore, spec: SamplingSpec, *, count: int, context: int) -> None:
        self._policy = policy
        self._store = store
        self._spec = spec
        self._count = count
        self._context = context
        self._sizes: dict[tuple[int, int], _Size] = {}
        self.refused = ""

    def advance(self, last: Sequence[int], uniforms: Tensor) -> tuple[list[list[int]], list[list[float]]]:
        """Tokens and log-probs [rows, count] after the tokens `last`; `uniforms`: float32 [rows, count].

        The store has room for `count` columns from `now` on, which is `count` further afterwards.
        """
        store, rows = self._store, len(last)
        size = self._size(rows, store.now + self._count)
        size.begin(last, store.starts[:rows], store.now, uniforms)
        for _ in range(self._count):
            size.step()
        self.refused = self.refused or size.step.refused
        store.now += self._count
        return size.tokens[:rows].tolist(), size.logprobs[:rows].tolist()

    def _size(self, rows: int, columns: int) -> _Size:
        rows = min(1 << (rows - 1).bit_length(), self._store.slots)
        columns = min(-(-columns // _COLUMNS) * _COLUMNS, self._store.columns)
        if (rows, columns) not in self._sizes:
            layout = StaticLayout(self._store, rows=rows, columns=columns)
            self._sizes[rows, columns] = _Size(self._policy, layout, self._spec, rows, self._count, self._context)
        return self._sizes[rows, columns]


class _Size:
    """The buffers of steps of one size, and the step that reads and moves them."""

    def __init__(
        self, policy: Policy, layout: StaticLayout, spec: SamplingSpec, rows: int, count: int, context: int
    ) -> None:
        device = policy.device
        self._policy = policy
        self._layout = layout
        self._spec = spec
        self._last_position = context - 1
        self._read = torch.zeros(1, rows, dtype=torch.int64, device=device)
        self._positions = torch.zeros(1, rows, dtype=torch.int64, device=device)
        self._uniforms = torch.zeros(rows, count, device=device)
        self._place = torch.zeros(1, dtype=torch.int64, device=device)
        self.tokens = torch.zeros(rows, count, dtype=torch.int64, device=device)
        self.logprobs = torch.zeros(rows, count, device=device)
        moved = (self._read, self._positions, self._place, layout.now)
        self.step = Recorded(self._step, moved, (self.tokens, self.logprobs))

    def begin(self, last: Sequence[int], starts: Sequence[int], now: int, uniforms: Tensor) -> None:
        """The coming steps go on from here. Rows that nobody asked for begin at the coming column."""
        spare = self.tokens.shape[0] - len(last)
        self._place.zero_()
        self._layout.now.fill_(now)
        _put(self._layout.starts, [*starts, *[now] * spare])
        _put(self._read[0], [*last, *[0] * spare])
        _put(self._positions[0], [now - start for start in (*starts, *[now] * spare)])
        self._uniforms[: len(last)].copy_(uniforms)

    def _step(self) -> None:
        self._layout.open()
        with using(self._layout):
            hidden = self._policy.trunk.stream(self._read, self._positions)
        self._layout.close()
        uniforms = self._uniforms.index_select(1, self._place).squeeze(1)
        tokens, logprobs = draw(self._policy.logits(hidden), uniforms, self._spec)
        self.tokens.index_copy_(1, self._place, tokens.unsqueeze(1))
        self.logprobs.index_copy_(1, self._place, logprobs.unsqueeze(1))
        self._read[0].copy_(tokens)
        self._positions.add_(1).clamp_max_(self._last_position)
        self._place += 1


def _put(buffer: Tensor, numbers: Sequence[int]) -> None:
    buffer.copy_(torch.tensor(numbers, dtype=torch.int64))
