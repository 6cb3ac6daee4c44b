"""The cache: what a row sees is its own history, through moves and shifts, in no more memory than it needs."""

from __future__ import annotations

import pytest
import torch
from psutil import Process
from torch import Tensor
from torch.nn import functional

from posttrain.models.attention import AttentionTerms
from posttrain.rollout.cache import DecodeLayout, KVStore, Shapes, columns_for, runs_of

CPU = torch.device("cpu")
HEADS, WIDTH = 2, 4


def attention(query: Tensor, keys: Tensor, values: Tensor, terms: AttentionTerms) -> Tensor:
    """One row's output [H, d] of query [H, d] over its whole history [L, Hkv, d], head by head."""
    outputs: list[Tensor] = []
    for head, asked in enumerate(query):
        shared = head * keys.shape[1] // len(query)
        start = 0 if terms.window is None else max(0, len(keys) - terms.window)
        logits = keys[start:, shared] @ asked * (terms.scaling or len(asked) ** -0.5)
        if terms.softcap is not None:
            logits = terms.softcap * torch.tanh(logits / terms.softcap)
        weights = logits.exp()
        total = weights.sum() if terms.sinks is None else weights.sum() + terms.sinks[head].exp()
        outputs.append((weights / total) @ values[start:, shared])
    return torch.stack(outputs)


TERMS = {
    "plain": AttentionTerms(scaling=None, window=None, softcap=None, sinks=None),
    "window": AttentionTerms(scaling=0.3, window=5, softcap=None, sinks=None),
    "softcap": AttentionTerms(scaling=None, window=4, softcap=0.5, sinks=None),
    "sinks": AttentionTerms(scaling=None, window=6, softcap=None, sinks=torch.tensor([0.5, -1.0, 2.0, 0.0])),
}


class Rows:
    """A store and its layout, driven by hand, beside the histories that it should hold: one attention call."""

    def __init__(self, slots: int, longest: int) -> None:
        self.store = KVStore(Shapes.seen([torch.zeros(1, HEADS, WIDTH)] * 2), slots=slots, longest=longest, device=CPU)
        self.layout = DecodeLayout(self.store)
        self.histories: list[tuple[Tensor, Tensor]] = []

    def enter(self, slot: int, length: int) -> None:
        keys, values = torch.randn(2, length, HEADS, WIDTH)
        self.store.make_room(max(len(self.histories), 1), length)
        self.store.enter(slot, [keys, values], length)
        self.histories[slot : slot + 1] = [(keys, values)]

    def step(self, terms: AttentionTerms) -> None:
        """One step; every row's output is that of its own history."""
        count = len(self.histories)
        self.store.make_room(count, 0)
        self.layout.arrange(count)
        self.layout.open()
        query = torch.randn(count, 2 * HEADS, WIDTH)
        key, value = torch.randn(2, count, HEADS, WIDTH)
        self.layout.calls += 1
        output = self.layout.attend(query, key, value, terms)
        self.layout.close()
        for row in range(count):
            keys, values = (
                torch.cat([old, new[row][None]]) for old, new in zip(self.histories[row], (key, value), strict=True)
            )
            self.histories[row] = (keys, values)
            torch.testing.assert_close(output[row], attention(query[row], keys, values, terms), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_rows_of_different_lengths_see_their_own_history(terms: AttentionTerms) -> None:
    rows = Rows(slots=3, longest=40)
    for slot, length in enumerate((7, 0, 3)):
        rows.enter(slot, length)
    for _ in range(12):
        rows.step(terms)


def test_a_row_that_enters_late_with_a_longer_prompt_shifts_the_others() -> None:
    rows = Rows(slots=2, longest=40)
    rows.enter(0, 2)
    rows.enter(1, 1)
    rows.step(TERMS["plain"])
    rows.enter(1, 20)
    for _ in range(3):
        rows.step(TERMS["plain"])


def test_a_row_keeps_its_history_when_it_moves() -> None:
    rows = Rows(slots=3, longest=40)
    for slot, length in enumerate((4, 6, 9)):
        rows.enter(slot, length)
    rows.step(TERMS["plain"])
    rows.store.move(2, 0)
    rows.histories = [rows.histories[2], rows.histories[1]]
    for _ in range(3):
        rows.step(TERMS["plain"])


@pytest.mark.parametrize("longest", [320, 400])
def test_history_survives_the_end_of_the_columns(longest: int) -> None:
    rows = Rows(slots=2, longest=longest)
    rows.enter(0, 250)
    rows.enter(1, 3)
    shifts = 0
    for step in range(600):
        if step % 60 == 59:  # a row as long as 310 leaves, a short one enters
            rows.enter(step // 60 % 2, 5)
        before = rows.store.now
        rows.step(TERMS["window"] if step % 50 else TERMS["plain"])
        shifts += rows.store.now != before + 1
    assert shifts > 0


def test_memory_is_taken_as_far_as_rows_reach() -> None:
    shapes = Shapes(entries=((1, 64),) * 2, dtype=torch.float32)
    before = Process().memory_info().rss
    store = KVStore(shapes, slots=64, longest=100_000, device=CPU)
    assert store.entries[0].nbytes > 2e9
    for _ in range(300):
        for entry in store.entries:
            entry[:2, :, store.now] = 1.0
        store.now += 1
    assert Process().memory_info().rss - before < 20e6
    assert not bool(store.entries[0][2, :, :1000].any())


def test_entries_of_two_shapes_lie_in_the_order_of_the_calls() -> None:
    shapes = Shapes.seen([torch.zeros(1, 2, 4), torch.zeros(1, 2, 8), torch.zeros(1, 3, 4), torch.zeros(1, 2, 8)])
    assert shapes.entries == ((2, 4), (2, 8), (3, 4), (2, 8))
    store = KVStore(shapes, slots=5, longest=10, device=CPU)
    assert [(entry.shape[0], entry.shape[1], entry.shape[3]) for entry in store.entries] == [
        (5, heads, width) for heads, width in shapes.entries
    ]


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_rows_of_very_different_length_attend_in_calls_of_their_own(terms: AttentionTerms) -> None:
    rows = Rows(slots=5, longest=33_000)
    for slot, length in enumerate((32_000, 31_992, 24, 40, 20_000)):
        rows.enter(slot, length)
    for _ in range(3):
        rows.step(terms)


def test_short_rows_do_not_read_the_columns_of_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int]] = []
    attend = functional.scaled_dot_product_attention

    def counted(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, scale: float | None) -> Tensor:
        read.append((key.shape[0], key.shape[2]))
        return attend(query, key, value, attn_mask=attn_mask, scale=scale)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", counted)
    rows = Rows(slots=5, longest=33_000)
    for slot, length in enumerate((32_000, 31_992, 24, 40, 20_000)):
        rows.enter(slot, length)
    rows.step(TERMS["plain"])
    assert read == [(2, 32_001), (2, 41), (1, 20_001)]


def test_rows_of_nearly_one_length_share_an_attention_call() -> None:
    assert runs_of([7, 0, 5, 3], spared=20) == [(0, 4)]
    assert runs_of([0, 30, 30, 29, 0], spared=20) == [(0, 1), (1, 4), (4, 5)]
    assert runs_of([0, 30], spared=float("inf")) == [(0, 2)]


def test_half_precision_is_kept_as_float32_on_a_cpu() -> None:
    assert Shapes.seen([torch.zeros(1, 2, 4, dtype=torch.bfloat16)]).dtype == torch.float32


def test_a_step_that_skips_an_attention_call_is_an_error() -> None:
    rows = Rows(slots=1, longest=40)
    rows.enter(0, 3)
    rows.layout.arrange(1)
    rows.layout.open()
    with pytest.raises(RuntimeError, match="made 0 attention calls, reading a prompt made 1"):
        rows.layout.close()


@pytest.mark.parametrize("longest", [100, 700, 1100])
def test_a_store_never_takes_more_than_the_columns_it_is_said_to_have(longest: int) -> None:
    slots, entries, width = 16, 8, 64
    before = Process().memory_info().rss
    store = KVStore(
        Shapes(entries=((1, width),) * entries, dtype=torch.float32), slots=slots, longest=longest, device=CPU
    )
    for _ in range(2 * longest):
        store.make_room(slots, 0)
        for entry in store.entries:
            entry[:, :, store.now] = 1.0
        store.starts = [max(0, store.now - longest + 1)] * slots
        store.now += 1
    counted = columns_for(longest) * entries * slots * width * 4
    assert store.entries[0].shape[2] == columns_for(longest)
    assert Process().memory_info().rss - before == pytest.approx(counted, rel=0.05, abs=4e6)
