"""Rows with a label: which layouts have one, and what may stand as one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.messages import BadRow
from posttrain.data.readers import read
from posttrain.data.recognise import spelled
from posttrain.data.targets import label_of
from posttrain.errors import DataError
from posttrain.types import TargetRecord


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("spam", ("spam", False)), (" spam ", ("spam", False)), (True, ("true", False)),
        (1, ("1", True)), (1.0, ("1", True)), ("1", ("1", True)), ("1.0", ("1", True)), (0, ("0", True)),
        (0.25, ("0.25", True)), ("-3", ("-3", True)), ("1_000", ("1_000", False)), ("1e3", ("1000", True)),
    ],
)  # fmt: skip
def test_a_label_is_text_or_a_number_however_it_is_written(value: Any, label: tuple[str, bool]) -> None:
    assert label_of(value) == label


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (None, "label is null"), ("", "label is empty"), ("  ", "label is empty"), (math.nan, "label is NaN"),
        ("nan", 'label is "nan"'), (math.inf, "label is Infinity"), ([1], "label is a list, expected text or a number"),
        ({}, "label is an object"), ("x" * 201, "label has 201 characters"),
    ],
)  # fmt: skip
def test_what_is_no_label_is_said(value: Any, what: str) -> None:
    with pytest.raises(BadRow) as bad:
        label_of(value)
    assert bad.value.what.startswith(what)
    assert bad.value.fix


@pytest.mark.parametrize(
    ("row", "layout", "reading"),
    [
        ({"text": "Good.", "label": 1}, "text with label", '"Good." → label "1"'),
        ({"sentence": "Good.", "label": "pos", "idx": 7}, "sentence with label", '"Good." → label "pos"'),
        (
            {"sentence1": "A.", "sentence2": "B.", "label": 0.5},
            "sentence1, sentence2 with label",
            '"A.\\nB." → label "0.5"',
        ),
        ({"premise": "A.", "hypothesis": "B.", "label": 2}, "premise, hypothesis with label", '"A.\\nB." → label "2"'),
        ({"prompt": "Hi", "label": "greeting"}, "prompt with label", 'user "Hi" → label "greeting"'),
        (
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No."}], "label": "rude"},
            "messages with label",
            'user "Hi" → assistant "No." → label "rude"',
        ),
    ],
)
def test_the_layouts_of_labelled_rows(row: dict[str, Any], layout: str, reading: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    data = read(file, ("target", "chat", "text", "prompt"))
    assert data.format == f"{layout} → target"
    assert [spelled(record) for record in data.records] == [reading]


def test_a_label_beside_an_answer_is_the_answers_and_text_stays_text(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "Hi", "completion": "Hello", "label": True}) + "\n")
    assert read(file, ("target", "chat")).format == "prompt/completion → chat"
    file.write_text(json.dumps({"text": "Hi", "label": 1}) + "\n")
    assert read(file, ("chat", "text")).format == "text → text"


def test_bad_labels_are_bad_rows_with_place_and_fix(tmp_path: Path) -> None:
    rows = [{"text": f"{n}", "label": n % 2} for n in range(20)]
    rows[4]["label"], rows[7] = None, {"text": "7"}  # type: ignore[typeddict-item]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read(file, "target", max_bad=0.2)
    assert [(problem.place, problem.what) for problem in found.problems] == [
        (f"{file}:5", "label is null"),
        (f"{file}:8", "label is missing (keys: text)"),
    ]
    with pytest.raises(DataError, match="2 of 20 rows cannot be used"):
        read(file, "target", max_bad=0.05)


def test_other_names_of_columns_are_asked_about_with_a_mapping(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("review,stars\nGood.,5\nBad.,1\n")
    with pytest.raises(DataError, match=r"columns: \{sentence: review, label: stars\}"):
        read(file, "target")
    data = read(file, "target", columns={"sentence": "review", "label": "stars"})
    assert [record.label for record in data.records if isinstance(record, TargetRecord)] == ["5", "1"]
