"""Columns that are not recognised can be named."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from posttrain.data.readers import read
from posttrain.errors import DataError
from posttrain.types import ChatRecord, Kind, Message, RankedRecord


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


def test_a_column_may_be_named_twice(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"word": "echo", "prompt": "unused"}) + "\n")
    [record] = read(file, "chat", columns={"prompt": "word", "response": "word"}).records
    assert isinstance(record, ChatRecord)
    assert [message.content for message in record.messages] == ["echo", "echo"]


def test_a_column_that_no_row_has_is_named_with_those_there_are(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"frage": "What?", "antwort": "That."}) + "\n")
    with pytest.raises(DataError, match="columns names 'fragen', which no row has") as raised:
        read(file, "chat", columns={"prompt": "fragen"})
    assert "there are antwort, frage" in str(raised.value)


def offered(file: Path, kind: Kind) -> list[dict[str, str]]:
    """The mappings that the message offers, read from it as a shell and a YAML parser would."""
    with pytest.raises(DataError) as raised:
        read(file, kind)
    word = "--prompts" if kind == "prompt" else "--data"
    flags = [line[line.index(f"{word} ") :] for line in str(raised.value).splitlines() if f"{word} " in line]
    found: list[dict[str, str]] = []
    for flag in flags:
        name, setting = shlex.split(flag)
        loaded = YAML(typ="safe").load(setting)
        assert (name, loaded["path"]) == (word, str(file))
        found.append(loaded["columns"])
    return found


DIALOG = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
WINNER = {"prompt": "query", "chosen": "winner", "rejected": "loser"}
RATED = {"responses": "answers", "scores": "ratings"}
OFFERED: list[tuple[dict[str, object], Kind, dict[str, str]]] = [
    ({"query": "Q", "reply": "A"}, "chat", {"prompt": "query", "response": "reply"}),
    ({"input": "Q", "output": "A"}, "chat", {"prompt": "input", "response": "output"}),
    ({"the question": "Q", "it's: answer": "A"}, "chat", {"prompt": "the question", "response": "it's: answer"}),
    ({"instuction": "Q", "output": "A"}, "chat", {"instruction": "instuction", "output": "output"}),
    ({"dialog": DIALOG}, "chat", {"messages": "dialog"}),
    ({"story": "Once."}, "text", {"text": "story"}),
    ({"null": "Once."}, "text", {"text": "null"}),
    ({"query": "Q", "winner": "a", "loser": "b"}, "ranked", WINNER),
    ({"prompt": "Q", "answers": ["a", "b"], "ratings": [1, 2]}, "ranked", RATED),
    ({"query": "Q"}, "prompt", {"prompt": "query"}),
]


@pytest.mark.parametrize(("row", "kind", "mapping"), OFFERED)
def test_a_mapping_is_offered_that_reads_the_file(
    row: dict[str, object], kind: Kind, mapping: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "my rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    assert offered(file, kind) == [mapping]
    assert len(read(file, kind, columns=mapping).records) == 1


def test_each_reading_of_an_ambiguous_file_is_offered_and_chosen_by_its_mapping(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "Hi", "completion": "Hello", "response": "Hey"}) + "\n")
    readings = [read(file, "chat", columns=mapping).records[0] for mapping in offered(file, "chat")]
    assert [r.messages[-1].content for r in readings if isinstance(r, ChatRecord)] == ["Hello", "Hey"]
    file.write_text(json.dumps({"prompt": "Hi", "responses": ["a", "b", "c"], "ranking": [2, 0, 1]}) + "\n")
    rankings = [read(file, "ranked", columns=mapping).records[0] for mapping in offered(file, "ranked")]
    assert [r.ranks for r in rankings if isinstance(r, RankedRecord)] == [(3, 1, 2), (2, 3, 1)]


def test_readings_that_say_the_same_are_not_asked_about(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": "Hi", "completion": "Hello", "response": "Hello"}) + "\n")
    assert len(read(file, "chat").records) == 1


def test_a_mapping_wins_over_a_column_of_our_own_name(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": "real", "prompt": "other", "answer": "A"}) + "\n")
    [record] = read(file, "chat", columns={"prompt": "question", "response": "answer"}).records
    assert isinstance(record, ChatRecord)
    assert record.messages[0].content == "real"


def test_a_column_nearly_named_is_suggested(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"frage": "What?", "antwort": "That."}) + "\n")
    with pytest.raises(DataError, match="did you mean 'frage'"):
        read(file, "chat", columns={"prompt": "frgae", "response": "antwort"})


def test_two_layouts_that_read_the_same_are_no_question_even_with_a_bad_row(tmp_path: Path) -> None:
    rows = [
        {
            "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": answer}],
            "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": answer}],
        }
        for answer in ("A", "", *(f"B{n}" for n in range(30)))
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    data = read(file, "chat")
    assert (len(data.records), len(data.problems)) == (31, 1)


@pytest.mark.parametrize("answer", ['{"name": "Bob"}', "[1, 2]", "[]", '[{"a": 1}]', "{not JSON", '[{"a": NaN}]'])
def test_an_answer_in_a_table_may_be_json(answer: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    with file.open("w", newline="") as handle:
        csv.writer(handle).writerows([["prompt", "completion"], ["Q", answer]])
    [record] = read(file, "chat").records
    assert isinstance(record, ChatRecord)
    assert record.messages[1].content == answer


def test_a_cell_of_messages_is_read_as_such(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    with file.open("w", newline="") as handle:
        csv.writer(handle).writerows([["prompt", "completion"], [json.dumps(DIALOG[:1]), "A"]])
    [record] = read(file, "chat").records
    assert isinstance(record, ChatRecord)
    assert [message.content for message in record.messages] == ["Q", "A"]


def test_empty_cells_beside_a_pair_say_nothing(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("prompt,chosen,rejected,margin,weight,annotator,stopped\nQ,a,b,,,,\n")
    [record] = read(file, "ranked").records
    assert isinstance(record, RankedRecord)
    assert (record.margin, record.weight, record.annotator, record.stopped) == (None, 1.0, None, None)
