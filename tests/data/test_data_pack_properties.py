"""Packing any groups loses nothing, reorders nothing, and lets every token be predicted by the one before it."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.data.pack import pack, split_by_tokens
from posttrain.types import PrefixGroup, Span

MANY = settings(max_examples=100, deadline=None, derandomize=True)


@st.composite
def spans(draw: st.DrawFn, *, smallest: int, predicted: bool) -> Span:
    """Any tokens with any mask; the first of a root is never trained, for nothing predicts it."""
    tokens = draw(st.lists(st.integers(0, 2**31), min_size=smallest, max_size=6))
    trained = draw(st.lists(st.booleans(), min_size=len(tokens), max_size=len(tokens)))
    return Span(tokens=tuple(tokens), trained=tuple(mark and (predicted or i > 0) for i, mark in enumerate(trained)))


@st.composite
def groups(draw: st.DrawFn) -> PrefixGroup:
    branches = draw(st.lists(spans(smallest=0, predicted=True), max_size=3))
    root = draw(spans(smallest=1 if branches else 0, predicted=False))
    return PrefixGroup(id="row", root=root, branches=tuple(branches))


GROUPS = st.lists(groups(), max_size=6)


@given(rows=GROUPS)
@MANY
def test_unpacking_gives_the_rows_back(rows: list[PrefixGroup]) -> None:
    batch = pack(rows)
    found: list[PrefixGroup] = []
    segment = 0
    for row in rows:
        parts: list[Span] = []
        for _ in (row.root, *row.branches):
            inside = batch.segment == segment
            parts.append(
                Span(tokens=tuple(batch.tokens[inside].tolist()), trained=tuple(batch.trained[inside].tolist()))
            )
            segment += 1
        found.append(PrefixGroup(id="row", root=parts[0], branches=tuple(parts[1:])))
    assert found == rows
    assert len(batch.tokens) == sum(map(len, rows))
    assert batch.segment.tolist() == sorted(batch.segment.tolist())


@given(rows=GROUPS)
@MANY
def test_every_token_is_predicted_by_the_one_before_it_in_its_own_sequence(rows: list[PrefixGroup]) -> None:
    batch = pack(rows)
    expected: list[tuple[int, int]] = []  # for each token in the stream: its position, and the place of its predictor
    start = 0
    for row in rows:
        size = len(row.root.tokens)
        expected += [(place, start + place - 1 if place else -1) for place in range(size)]
        offset = start + size
        for branch in row.branches:
            for place in range(len(branch.tokens)):
                before = offset + place - 1 if place else start + size - 1
                expected.append((size + place, before))
            offset += len(branch.tokens)
        start = offset
    assert list(zip(batch.positions.tolist(), batch.predictor.tolist(), strict=True)) == expected


@given(sizes=st.lists(st.integers(0, 40), max_size=30), budget=st.integers(1, 50))
@MANY
def test_a_budget_cuts_between_rows_and_keeps_all_of_them_in_order(sizes: list[int], budget: int) -> None:
    rows = list(enumerate(sizes))
    runs = list(split_by_tokens(rows, budget, size=lambda row: row[1]))
    assert [row for run in runs for row in run] == rows
    assert all(len(run) == 1 or sum(size for _, size in run) <= budget for run in runs)
    # a run could not have taken the first row of the next one as well
    for run, following in pairwise(runs):
        assert sum(size for _, size in run) + following[0][1] > budget
