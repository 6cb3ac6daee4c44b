"""Steps in fixed memory: what a row sees is its own history, whatever lies in other rows and columns."""

from __future__ import annotations

import pytest
import torch

from posttrain.models.attention import AttentionTerms
from posttrain.rollout.cache import DecodeLayout, KVStore, Shapes
from posttrain.rollout.static import StaticLayout

CPU = torch.device("cpu")
HEADS, WIDTH = 2, 4
TERMS = {
    "plain": AttentionTerms(scaling=None, window=None, softcap=None, sinks=None),
    "window": AttentionTerms(scaling=0.3, window=5, softcap=None, sinks=None),
    "softcap": AttentionTerms(scaling=None, window=4, softcap=0.5, sinks=None),
    "sinks": AttentionTerms(scaling=None, window=6, softcap=None, sinks=torch.tensor([0.5, -1.0, 2.0, 0.0])),
}


def store_of(lengths: tuple[int, ...], slots: int) -> KVStore:
    """A store in which rows of these lengths end at one column, the same each time."""
    generator = torch.Generator().manual_seed(3)
    shapes = Shapes.seen([torch.zeros(1, HEADS, WIDTH)] * 2)
    store = KVStore(shapes, slots=slots, longest=40, device=CPU)
    store.make_room(1, max(lengths))
    for slot, length in enumerate(lengths):
        store.enter(slot, list(torch.randn(2, length, HEADS, WIDTH, generator=generator)), length)
    return store


@pytest.mark.parametrize("terms", TERMS.values(), ids=TERMS)
def test_outputs_are_those_of_a_layout_that_is_arranged_anew(terms: AttentionTerms) -> None:
    lengths = (3, 12, 7)
    moving, fixed = store_of(lengths, 4), store_of(lengths, 4)
    anew, static = DecodeLayout(moving), StaticLayout(fixed, rows=4, columns=32)
    static.now.fill_(fixed.now)
    static.starts.copy_(torch.tensor([*fixed.starts[:3], fixed.now]))
    for _ in range(9):
        query, key, value = torch.randn(4, 2 * HEADS, WIDTH), torch.randn(4, HEADS, WIDTH), torch.randn(4, HEADS, WIDTH)
        anew.arrange(3)
        for layout in (anew, static):
            layout.open()
            layout.calls += 1
        expected = anew.attend(query[:3], key[:3], value[:3], terms)
        found = static.attend(query, key, value, terms)
        torch.testing.assert_close(found[:3], expected, atol=1e-6, rtol=1e-6)
        assert bool(found.isfinite().all())
        anew.close()
        static.close()


def test_a_step_that_skips_an_attention_call_is_an_error() -> None:
    layout = StaticLayout(store_of((3,), 1), rows=1, columns=32)
    layout.open()
    with pytest.raises(RuntimeError, match="made 0 attention calls, reading a prompt made 1"):
        layout.close()


def test_a_store_keeps_its_tensors() -> None:
    store = store_of((3,), 2)
    before = list(store.entries)
    while not store.make_room(1, 0, steps=8):
        store.now += 8
    assert all(one is other for one, other in zip(store.entries, before, strict=True))
