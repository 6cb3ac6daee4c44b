"""Rows of tokens on disk: equal to what was written, decoded on access, whole or not there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rows_at_hand import conversations, rankings

from posttrain.data import store
from posttrain.data.arrow import GROUPS, RANKINGS, Row
from posttrain.data.examples import RankedItem
from posttrain.data.pack import pack, split_by_tokens
from posttrain.data.rankings import ranked_batch
from posttrain.data.store import Store, StoreWriter
from posttrain.data.views import Changed, Chosen, Joined
from posttrain.errors import DoesNotFit
from posttrain.types import PrefixGroup, Span


def written(path: Path, groups: Sequence[PrefixGroup]) -> Store[PrefixGroup]:
    with StoreWriter(path, GROUPS) as writer:
        writer.append(Row(group, number, 2**64 - 1 - number) for number, group in enumerate(groups))
    return Store(path, GROUPS)


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    groups = [*conversations(2_503), PrefixGroup(id="空 row", root=Span(tokens=(), trained=()))]
    found = written(tmp_path / "rows", groups)
    assert len(found) == 2_504
    assert list(found) == groups
    assert found[-1] == groups[-1]
    assert list(found[1_000:1_003]) == groups[1_000:1_003]
    assert found.lengths.tolist() == [len(group) for group in groups]
    assert found.prompts.tolist() == list(range(2_504))
    assert found.contents[3] == 2**64 - 4
    assert found.id_of(2_503) == "空 row"
    with pytest.raises(IndexError):
        found[2_504]


def test_types_are_those_of_python(tmp_path: Path) -> None:
    first = written(tmp_path / "rows", conversations(1))[0]
    assert {type(token) for token in first.root.tokens} == {int}
    assert {type(mark) for mark in first.root.trained} == {bool}


def test_rankings_come_back_with_ranks_weights_and_annotators(tmp_path: Path) -> None:
    items = rankings(30)
    items.append(RankedItem(group=items[0].group, ranks=(None, 1), weight=0.1, margin=0.3, annotator="Ann"))
    with StoreWriter(tmp_path / "rows", RANKINGS) as writer:
        writer.append(Row(item, 1, 2) for item in items)
    assert list(Store(tmp_path / "rows", RANKINGS)) == items


def test_nothing_is_a_store_of_no_rows(tmp_path: Path) -> None:
    found = written(tmp_path / "rows", [])
    assert (len(found), found.lengths.shape, found.prompts.dtype) == (0, (0,), np.uint64)


def test_batches_from_a_store_are_those_from_a_list(tmp_path: Path) -> None:
    groups = conversations(300)
    plain = [pack(run) for run in split_by_tokens(groups, 64, size=len)]
    stored = [pack(run) for run in split_by_tokens(written(tmp_path / "rows", groups), 64, size=len)]
    assert len(plain) == len(stored) > 20
    for ours, theirs in zip(plain, stored, strict=True):
        for name in ("tokens", "positions", "segment", "parent", "predictor", "trained"):
            assert getattr(ours, name).equal(getattr(theirs, name)), name


def test_ranked_batches_from_a_store_are_those_from_a_list(tmp_path: Path) -> None:
    items = rankings(20)
    with StoreWriter(tmp_path / "rows", RANKINGS) as writer:
        writer.append(Row(item, 1, 2) for item in items)
    ours = ranked_batch(items, ties="soft", pair_weight="prompt")
    theirs = ranked_batch(Store(tmp_path / "rows", RANKINGS), ties="soft", pair_weight="prompt")
    for name in ("responses", "prompt", "ranks", "pairs", "targets", "weights", "margins", "reference"):
        assert getattr(ours, name).equal(getattr(theirs, name)), name


def test_a_batch_ends_before_its_tokens_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BATCH_TOKENS", 100)
    long = Span.all(range(60), trained=True)
    written(tmp_path / "rows", [PrefixGroup(id=str(n), root=long) for n in range(7)])
    assert pa.ipc.open_file(pa.memory_map(str(tmp_path / "rows"))).num_record_batches == 4


def test_a_full_disk_is_said_in_bytes(tmp_path: Path) -> None:
    (tmp_path / "rows").symlink_to("/dev/full")
    with pytest.raises(DoesNotFit, match="MB are free\n  fix: free some space, or set POSTTRAIN_CACHE"):
        written(tmp_path / "rows", conversations(2_000))


# --- views ----------------------------------------------------------------------------------------------------------


def test_parts_joins_and_changes_of_a_store_copy_nothing_and_know_their_lengths(tmp_path: Path) -> None:
    groups = conversations(40)
    found = written(tmp_path / "rows", groups)
    part = Chosen(found, np.array([7, 3, 39]))
    both = Joined([part, found, [groups[5]]])
    named = Changed(both, lambda place, group: (place, group.id))
    expected = [groups[7], groups[3], groups[39], *groups, groups[5]]
    assert list(part) == expected[:3]
    assert list(both) == expected
    assert both[-1] == groups[5]
    assert list(both[2:5]) == expected[2:5]
    assert named[3] == (3, groups[0].id)
    assert store.lengths_of(both).tolist() == [len(group) for group in expected]
    assert store.lengths_of(Changed(part, lambda place, group: group)).tolist() == [
        len(group) for group in expected[:3]
    ]
    for view in (part, both, named):
        with pytest.raises(IndexError):
            view[len(view)]


def rewritten(path: Path, change: str) -> None:
    """The file with a batch whose columns do not fit together."""
    batch = pa.ipc.open_file(str(path)).get_batch(0)
    columns = {name: batch.column(name) for name in batch.schema.names}
    ends = np.asarray(columns["tokens"].offsets).copy()
    if change == "offsets outside the tokens":
        ends[1] = 10**9
        values = columns["tokens"].values
        buffers = [None, pa.py_buffer(ends)]
        columns["tokens"] = pa.Array.from_buffers(columns["tokens"].type, len(batch), buffers, children=[values])
    elif change == "spans of another length":
        columns["spans"] = pa.array([[1]] * len(batch), pa.list_(pa.int32()))
    else:
        columns["prompt"] = pa.array([None] * len(batch), pa.uint64())
    with pa.ipc.new_file(str(path), batch.schema) as out:
        out.write_batch(pa.RecordBatch.from_arrays([*columns.values()], schema=batch.schema))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("offsets outside the tokens", "Offset invariant failure"),
        ("spans of another length", "a row has another number of tokens than its parts"),
        ("nothing for a hash", "a row has nothing where something was written"),
    ],
)
def test_a_file_whose_columns_do_not_fit_together_is_never_read(tmp_path: Path, change: str, says: str) -> None:
    written(tmp_path / "rows", conversations(5))
    rewritten(tmp_path / "rows", change)
    with pytest.raises(ValueError, match=says):
        Store(tmp_path / "rows", GROUPS)
