"""Rows with a label of good or bad: the layouts that are read, and what rankings say of single answers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.examples import Lost, labelled_fitted, labelled_of
from posttrain.data.readers import open_data, read
from posttrain.data.recognise import spelled
from posttrain.errors import DataError
from posttrain.types import LabelledRecord, Message, PrefixGroup, RankedRecord, Span

ASKED = (Message(role="user", content="Say 1"),)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Say 1", "completion": "one", "label": True},
        {"prompt": "Say 1", "response": "one", "label": 1},
        {"question": "Say 1", "answer": "one", "feedback": "thumbs_up"},
        {"prompt": "Say 1", "response": "one", "thumb": "👍"},
        {"prompt": [{"role": "user", "content": "Say 1"}], "completion": [{"role": "assistant", "content": "one"}],
         "label": "yes"},
        {"instruction": "Say 1", "input": "", "output": "one", "kto_tag": True},
        {"messages": [{"role": "user", "content": "Say 1"}, {"role": "assistant", "content": "one"}], "liked": True},
        {"conversations": [{"from": "human", "value": "Say 1"}, {"from": "gpt", "value": "one"}], "kto_tag": True},
    ],
)  # fmt: skip
def test_a_labelled_answer_is_read_from_any_layout_of_an_answer(row: dict[str, Any], tmp_path: Path) -> None:
    [record] = read(write(tmp_path / "rows.jsonl", [row]), ("labelled", "ranked")).records
    assert isinstance(record, LabelledRecord)
    assert (record.prompt, record.responses, record.labels) == (ASKED, ("one",), (True,))
    assert spelled(record) == 'user "Say 1" → good: "one"'


@pytest.mark.parametrize("word", [False, 0, -1, "thumbs-down", "Bad", "no", "dislike"])
def test_what_says_that_an_answer_is_bad(word: object, tmp_path: Path) -> None:
    rows = [{"prompt": "Say 1", "completion": "dunno", "label": word, "weight": 2.0, "stopped": False}]
    [record] = read(write(tmp_path / "rows.jsonl", rows), "labelled").records
    assert isinstance(record, LabelledRecord)
    assert (record.labels, record.weight, record.stopped) == ((False,), 2.0, (False,))


def test_a_column_of_another_name_is_mapped(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"prompt": "Say 1", "completion": "one", "verdict": False}])
    [record] = read(file, "labelled", columns={"label": "verdict"}).records
    assert isinstance(record, LabelledRecord)
    assert record.labels == (False,)


def test_a_row_that_says_neither_good_nor_bad_is_bad(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"Say {n}", "completion": "one", "label": True} for n in range(3)]
    file = write(tmp_path / "rows.jsonl", [*rows, {"prompt": "Say 9", "completion": "one", "label": None}])
    found = read(file, "labelled", max_bad=0.5)
    assert len(found.records) == 3
    assert "label is null, which says neither good nor bad" in str(found.problems[0])


def test_labelled_rows_are_told_as_such_where_others_are_asked_for(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"prompt": "Say 1", "completion": "one", "label": True}])
    with pytest.raises(DataError, match=r"labelled data .*expected ranked data(.|\n)*dpo --loss kto takes this file"):
        read(file, "ranked")


def test_a_label_that_finetuning_would_not_read_is_noticed(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"Say {n}", "completion": "one", "liked": n % 2 == 0} for n in range(4)]
    file = write(tmp_path / "rows.jsonl", rows)
    assert open_data(file, ("chat", "text")).unread_label == "liked"
    assert open_data(file, ("labelled", "ranked")).unread_label is None
    plain = write(tmp_path / "plain.jsonl", [{"prompt": "Say 1", "completion": "one"}])
    assert open_data(plain, ("chat", "text")).unread_label is None


def test_of_a_ranking_the_first_tier_is_good_and_the_last_bad_and_the_rest_is_counted() -> None:
    lost = Lost()
    record = RankedRecord(
        id="row", prompt=ASKED, responses=("a", "b", "c", "d", "e"), ranks=(2, 1, 3, None, 3),
        stopped=(True, False, True, True, True), weight=2.0,
    )  # fmt: skip
    found = labelled_of(record, lost)
    assert found is not None
    assert (found.responses, found.labels, found.stopped) == (
        ("b", "c", "e"),
        (True, False, False),
        (False, True, True),
    )
    assert (found.weight, lost.counts) == (2.0, Counter({"answers between best and worst": 2}))
    tied = RankedRecord(id="row", prompt=ASKED, responses=("a", "b"), ranks=(1, 1))
    assert labelled_of(tied, lost) is None
    assert lost.counts["rankings without a strict pair"] == 1


def test_labelled_answers_that_are_too_long_are_dropped_or_cut_and_counted() -> None:
    record = LabelledRecord(id="row", prompt=ASKED, responses=("a", "b"), labels=(False, True))
    branches = (Span.all([7] * 5, trained=True), Span.all([8], trained=True))
    group = PrefixGroup(id="row", root=Span.all([3, 4], trained=False), branches=branches)
    lost = Lost()
    dropped = labelled_fitted(record, group, 4, "drop", lost)
    cut = labelled_fitted(record, group, 4, "truncate", lost)
    assert dropped is not None
    assert cut is not None
    assert (dropped.labels, len(dropped.group.branches)) == ((True,), 1)
    assert (cut.labels, [len(branch.tokens) for branch in cut.group.branches]) == ((False, True), [2, 1])
    assert labelled_fitted(record, group, 2, "drop", lost) is None
    assert lost.counts == Counter({"answers too long": 1, "answers truncated": 1, "prompts too long": 1})
