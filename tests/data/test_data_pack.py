"""Packing lays groups end to end: nothing is lost or reordered, and a shared prefix is as good as a repeated one."""

from __future__ import annotations

import pytest
import torch
from architectures import groups, tiny_policy
from rows_at_hand import conversations

from posttrain.data.pack import pack, split_by_tokens
from posttrain.types import PrefixGroup, Span, TokenBatch, moved


def test_every_token_of_every_span_stands_in_the_stream_in_order() -> None:
    rows = groups()
    batch = pack(rows)
    spans = [span for row in rows for span in (row.root, *row.branches)]
    assert batch.tokens.tolist() == [token for span in spans for token in span.tokens]
    assert batch.trained.tolist() == [mark for span in spans for mark in span.trained]
    assert batch.segment.tolist() == [number for number, span in enumerate(spans) for _ in span.tokens]
    assert batch.parent.tolist() == [-1, 0, 0, 0, -1, -1, 5]
    assert all(getattr(batch, name).dtype == torch.int64 for name in ("tokens", "positions", "segment", "predictor"))


def test_positions_and_predictors_by_hand() -> None:
    root = Span.all([10, 11], trained=False)
    branches = (Span.all([20], trained=True), Span.all([30, 31], trained=True))
    batch = pack([PrefixGroup(id="a", root=root, branches=branches), PrefixGroup(id="b", root=root)])
    assert batch.positions.tolist() == [0, 1, 2, 2, 3, 0, 1]
    assert batch.predictor.tolist() == [-1, 0, 1, 1, 3, -1, 5]
    assert batch.trained.tolist() == [False, False, True, True, True, False, False]


def repeated(rows: list[PrefixGroup]) -> TokenBatch:
    """Every branch as a sequence of its own, its prefix repeated and not trained."""
    alone: list[PrefixGroup] = []
    for row in rows:
        for branch in row.branches:
            marks = (*(False for _ in row.root.tokens), *branch.trained)
            span = Span(tokens=(*row.root.tokens, *branch.tokens), trained=marks)
            alone.append(PrefixGroup(id=row.id, root=span))
        if not row.branches:
            alone.append(row)
    return pack(alone)


def test_a_shared_prefix_equals_repeated_prefixes() -> None:
    policy, rows = tiny_policy(), groups()
    shared, apart = pack(rows), repeated(rows)
    assert len(shared.tokens) < len(apart.tokens)
    with torch.no_grad():
        found = policy(shared).logprobs[shared.trained]
        expected = policy(apart).logprobs[apart.trained]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_no_token_sees_a_sibling_or_the_future_or_another_row() -> None:
    policy, rows = tiny_policy(), groups()
    batch = pack(rows)
    with torch.no_grad():
        before = policy(batch).logprobs
    for place in range(len(batch.tokens)):
        tokens = batch.tokens.clone()
        tokens[place] = (tokens[place] + 1) % 97
        changed = TokenBatch(
            tokens=tokens, positions=batch.positions, segment=batch.segment, parent=batch.parent,
            predictor=batch.predictor, trained=batch.trained,
        )  # fmt: skip
        with torch.no_grad():
            moved = (policy(changed).logprobs - before).abs() > 1e-5
        segment = int(batch.segment[place])
        heirs = (batch.segment == segment) | (batch.parent[batch.segment] == segment)
        allowed = heirs & (batch.positions >= batch.positions[place]) & batch.trained
        assert not (moved & ~allowed).any(), f"token {place}"
        assert (moved & allowed).any() or not allowed.any(), f"token {place}"


def test_runs_lose_and_reorder_nothing_and_keep_to_the_budget() -> None:
    rows = conversations(30)
    runs = list(split_by_tokens(rows, 25, size=len))
    assert [row for run in runs for row in run] == rows
    assert all(sum(map(len, run)) <= 25 for run in runs)
    assert len(runs) < len(rows)


def test_an_item_over_the_budget_stands_alone() -> None:
    assert list(split_by_tokens([3, 9, 2, 2], 4, size=lambda size: size)) == [[3], [9], [2, 2]]
    assert list(split_by_tokens([], 4, size=lambda size: size)) == []


def test_an_answer_without_a_prompt_is_refused() -> None:
    row = PrefixGroup(id="row 7", root=Span.all([], trained=False), branches=(Span.all([1], trained=True),))
    with pytest.raises(ValueError, match="row 7: the answers have no prompt to continue"):
        pack([row])


def test_a_trained_token_that_nothing_predicts_is_refused() -> None:
    with pytest.raises(ValueError, match="token 0 is trained but nothing predicts it"):
        pack([PrefixGroup(id="row", root=Span.all([1, 2], trained=True))])


def test_an_empty_answer_is_a_segment_without_tokens() -> None:
    root = Span.all([1, 2], trained=False)
    batch = pack([PrefixGroup(id="a", root=root, branches=(Span.all([], trained=True), Span.all([3], trained=True)))])
    assert batch.parent.tolist() == [-1, 0, 0]
    assert batch.segment.tolist() == [0, 0, 2]
    assert batch.predictor.tolist() == [-1, 0, 1]


def test_what_follows_from_a_batch_is_told_without_asking_its_device() -> None:
    batch = pack(groups())
    assert batch.places.tolist() == [place for place, trained in enumerate(batch.trained.tolist()) if trained]
    assert batch.lengths == tuple(batch.segment.tolist().count(number) for number in range(7))
    assert batch.parents == tuple(batch.parent.tolist())
    away = moved(batch, "meta")  # holds no numbers: to look at one is an error
    assert (away.lengths, away.parents) == (batch.lengths, batch.parents)
    assert (away.places.device.type, away.places.shape) == ("meta", batch.places.shape)


def test_no_groups_are_an_empty_batch() -> None:
    batch = pack([])
    assert (batch.lengths, batch.places.tolist(), batch.tokens.tolist()) == ((), [], [])
    assert batch.tokens.dtype == torch.int64
