"""Columns that are not recognised can be named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.data.readers import read
from posttrain.errors import DataError
from posttrain.types import ChatRecord, Message


def test_columns_give_the_files_names_for_ours(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"frage": "What?", "antwort": "That."}) + "\n")
    found = read(file, "chat", columns={"prompt": "frage", "response": "antwort"})
    assert found.records == (
        ChatRecord(
            id="rows.jsonl:1",
            messages=(Message(role="user", content="What?"), Message(role="assistant", content="That.")),
        ),
    )


def test_a_column_that_no_row_has_is_named_with_those_there_are(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"frage": "What?", "antwort": "That."}) + "\n")
    with pytest.raises(DataError, match="columns names 'fragen', which no row has") as raised:
        read(file, "chat", columns={"prompt": "fragen"})
    assert "there are antwort, frage" in str(raised.value)
