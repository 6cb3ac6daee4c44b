"""Files to records: every accepted layout and file type, and what is dropped and counted on the way."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain.data.readers import read
from posttrain.errors import DataError
from posttrain.types import ChatRecord, Kind, Message, PromptRecord, RankedRecord, TextRecord

USER, ANSWER = Message(role="user", content="Hi"), Message(role="assistant", content="Hello")
SYSTEM = Message(role="system", content="Be kind.")
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def lines(folder: Path, *rows: dict[str, Any], name: str = "rows.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


CHAT: dict[str, tuple[dict[str, Any], tuple[Message, ...]]] = {
    "messages": ({"messages": TALK}, (USER, ANSWER)),
    "messages with parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}, TALK[1]]},
        (USER, ANSWER),
    ),
    "sharegpt (conversations)": (
        {"system": "Be kind.", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        (SYSTEM, USER, ANSWER),
    ),
    "alpaca (instruction, input, output)": ({"instruction": "Hi", "input": "", "output": "Hello"}, (USER, ANSWER)),
    "alpaca (instruction, input, response)": (
        {"instruction": "Add", "input": "2, 2", "response": "4"},
        (Message(role="user", content="Add\n\n2, 2"), Message(role="assistant", content="4")),
    ),
    "self-instruct (instruction, instances)": (
        {"instruction": "Hi", "instances": [{"input": "", "output": "Hello"}]},
        (USER, ANSWER),
    ),
    "prompt/completion": ({"prompt": "Hi", "completion": "Hello"}, (USER, ANSWER)),
    "prompt/completion as messages": ({"prompt": TALK[:1], "completion": TALK[1:]}, (USER, ANSWER)),
    "prompt/response": ({"prompt": "Hi", "response": "Hello", "system": "Be kind."}, (SYSTEM, USER, ANSWER)),
    "question/answer": ({"question": "Hi", "answer": "Hello"}, (USER, ANSWER)),
    "alpaca (instruction, input, output) with a history": (
        {"instruction": "More", "output": "b", "history": [["Hi", "Hello"]], "system": "Be kind."},
        (SYSTEM, USER, ANSWER, Message(role="user", content="More"), Message(role="assistant", content="b")),
    ),
    "messages with an empty system": ({"messages": [{"role": "system", "content": ""}, *TALK]}, (USER, ANSWER)),
    "messages with a tool": (
        {"messages": [TALK[0], {"role": "tool", "content": "5", "name": "add"}, TALK[1]]},
        (USER, Message(role="tool", content="5"), ANSWER),
    ),
    "messages with a greeting": (
        {"messages": [{**TALK[1], "train": False}, *TALK]},
        (Message(role="assistant", content="Hello", train=False), USER, ANSWER),
    ),
    "messages with weights": (
        {"messages": [TALK[0], {**TALK[1], "weight": 0}, TALK[0], {**TALK[1], "weight": 1}]},
        (USER, Message(role="assistant", content="Hello", train=False), USER, ANSWER),
    ),
}


@pytest.mark.parametrize("layout", CHAT)
def test_a_conversation_is_read_from_every_layout(layout: str, tmp_path: Path) -> None:
    row, messages = CHAT[layout]
    data = read(lines(tmp_path, row), "chat")
    assert data.records == (ChatRecord(id="rows.jsonl:1", messages=messages),)
    assert data.format.startswith(layout.split(" as ")[0].split(" with ")[0])
    assert data.format.endswith("→ chat")


@pytest.mark.parametrize("layout", CHAT)
def test_a_conversation_serves_as_a_prompt_with_its_answer_as_reference(layout: str, tmp_path: Path) -> None:
    row, messages = CHAT[layout]
    [record] = read(lines(tmp_path, {**row, "level": 3}), "prompt").records
    assert isinstance(record, PromptRecord)
    assert record.messages == messages[:-1]
    assert record.columns["level"] == 3
    if layout != "prompt/completion as messages":
        assert record.columns["reference"] == messages[-1].content


HH = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: More\n\nAssistant: "
MORE = [*TALK, {"role": "user", "content": "More"}]
LONG = (USER, ANSWER, Message(role="user", content="More"))
RANKED: dict[str, tuple[dict[str, Any], tuple[Message, ...], tuple[str, ...], tuple[int | None, ...]]] = {
    "pair": ({"prompt": "Hi", "chosen": "Hello", "rejected": "No."}, (USER,), ("Hello", "No."), (1, 2)),
    "pair of messages": (
        {"prompt": TALK[:1], "chosen": TALK[1:], "rejected": [{"role": "assistant", "content": "No."}]},
        (USER,),
        ("Hello", "No."),
        (1, 2),
    ),
    "pair that shares its beginning": (
        {
            "chosen": [*MORE, {"role": "assistant", "content": "a"}],
            "rejected": [*MORE, {"role": "assistant", "content": "b"}],
        },
        LONG,
        ("a", "b"),
        (1, 2),
    ),
    "ultrafeedback, whose prompt stands in both answers too": (
        {"prompt": "Hi", "chosen": TALK, "rejected": [TALK[0], {"role": "assistant", "content": "No."}]},
        (USER,),
        ("Hello", "No."),
        (1, 2),
    ),
    "hh": ({"chosen": HH + "a\n\nb", "rejected": HH + "c"}, LONG, ("a\n\nb", "c"), (1, 2)),
    "hh with a prompt": ({"prompt": HH.rstrip(" "), "chosen": " a", "rejected": " b"}, LONG, (" a", " b"), (1, 2)),
    "ultrafeedback as it was collected": (
        {
            "instruction": "Hi",
            "completions": [
                {"response": "a", "overall_score": 3.5, "model": "m"},
                {"response": "b", "overall_score": 8.0},
                {"response": "c", "overall_score": None},
            ],
        },
        (USER,),
        ("a", "b", "c"),
        (2, 1, None),
    ),
    "ultrafeedback in pairs": (
        {
            "prompt": "Hi",
            "prompt_id": "f0",
            "messages": TALK,
            "chosen": TALK,
            "rejected": [TALK[0], {"role": "assistant", "content": "No."}],
            "score_chosen": 8.0,
            "score_rejected": 3.5,
        },
        (USER,),
        ("Hello", "No."),
        (1, 2),
    ),
    "pair beside its conversation": (
        {
            "messages": TALK[:1],
            "chosen": TALK[1],
            "rejected": {"role": "assistant", "content": "No."},
        },
        (USER,),
        ("Hello", "No."),
        (1, 2),
    ),
    "alpaca pair": (
        {"instruction": "Add", "input": "2, 2", "chosen": "4", "rejected": "5"},
        (Message(role="user", content="Add\n\n2, 2"),),
        ("4", "5"),
        (1, 2),
    ),
    "sharegpt pair": (
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Hello"},
            "rejected": {"from": "gpt", "value": "No."},
        },
        (USER,),
        ("Hello", "No."),
        (1, 2),
    ),
    "ranks": (
        {"prompt": "Hi", "responses": ["a", "b", "c", "d"], "ranks": [1, 2, 2, None]},
        (USER,),
        ("a", "b", "c", "d"),
        (1, 2, 2, None),
    ),
    "ranks from 0": (
        {"messages": MORE, "responses": ["a", "b", "c"], "ranks": [2, 0, 1]},
        LONG,
        ("a", "b", "c"),
        (3, 1, 2),
    ),
    "order": (
        {"prompt": "Hi", "responses": ["a", "b", "c", "d", "e"], "order": [2, 0, [1, 3]]},
        (USER,),
        ("a", "b", "c", "d", "e"),
        (2, 3, 1, 3, None),
    ),
    "scores": (
        {"prompt": "Hi", "responses": ["a", "b", "c"], "scores": [0.5, 7, None]},
        (USER,),
        ("a", "b", "c"),
        (2, 1, None),
    ),
    "labelled solutions": (
        {
            "question": "Hi",
            "ground_truth": "4",
            "small": {"is_correct": False, "solution": "5"},
            "large": {"is_correct": True, "solution": "4"},
        },
        (USER,),
        ("5", "4"),
        (2, 1),
    ),
}


@pytest.mark.parametrize("layout", RANKED)
def test_a_ranking_is_read_from_every_layout(layout: str, tmp_path: Path) -> None:
    row, prompt, responses, ranks = RANKED[layout]
    [record] = read(lines(tmp_path, row), "ranked").records
    assert record == RankedRecord(id="rows.jsonl:1", prompt=prompt, responses=responses, ranks=ranks)


@pytest.mark.parametrize("layout", RANKED)
def test_a_ranking_serves_as_a_prompt(layout: str, tmp_path: Path) -> None:
    row, prompt, _, _ = RANKED[layout]
    [record] = read(lines(tmp_path, row), "prompt").records
    assert isinstance(record, PromptRecord)
    assert record.messages == prompt


def test_a_pair_keeps_its_weight_margin_and_annotator(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "chosen": "a", "rejected": "b", "weight": 2, "margin": 0.5, "annotator": "ada"}
    [record] = read(lines(tmp_path, row), "ranked").records
    assert isinstance(record, RankedRecord)
    assert (record.weight, record.margin, record.annotator) == (2.0, 0.5, "ada")


def test_a_prompt_keeps_its_other_columns(tmp_path: Path) -> None:
    [record] = read(lines(tmp_path, {"id": "q1", "prompt": "Hi", "answer": [4]}), "prompt").records
    assert record == PromptRecord(id="q1", messages=(USER,), columns={"answer": [4]})


def test_text_is_a_text_or_a_prompt_to_continue(tmp_path: Path) -> None:
    file = lines(tmp_path, {"text": "Once upon"})
    assert read(file, "text").records == (TextRecord(id="rows.jsonl:1", text="Once upon"),)
    assert read(file, "prompt").records == (PromptRecord(id="rows.jsonl:1", text="Once upon"),)
    assert read(file, ("chat", "text")).format == "text → text"


def test_the_train_mark_of_a_message_is_kept(tmp_path: Path) -> None:
    marked = [{**TALK[0]}, {**TALK[1], "train": False}, *MORE[2:], {"role": "assistant", "content": "b", "train": True}]
    [record] = read(lines(tmp_path, {"messages": marked}), "chat").records
    assert isinstance(record, ChatRecord)
    assert [message.train for message in record.messages] == [None, False, None, True]


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("zipped", [False, True])
def test_every_file_type_reads_the_same(ending: str, zipped: bool, tmp_path: Path) -> None:
    rows = [{"prompt": 'Hi,\t"you"', "completion": "Hello\nthere\u2028\u0085"}, {"prompt": "你好", "completion": "好"}]
    file = tmp_path / f"rows{ending}"
    match ending:
        case ".jsonl":
            lines(tmp_path, *rows)
        case ".json":
            file.write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), file)
        case _:
            with file.open("w", encoding="utf-8", newline="") as handle:
                writer = csv.DictWriter(handle, list(rows[0]), delimiter="\t" if ending == ".tsv" else ",")
                writer.writeheader()
                writer.writerows(rows)
    if zipped:
        packed = tmp_path / f"rows{ending}.gz"
        packed.write_bytes(gzip.compress(file.read_bytes()))
        file = packed
    records = read(file, "chat").records
    contents = [[m.content for m in record.messages] for record in records if isinstance(record, ChatRecord)]
    assert contents == [[row["prompt"], row["completion"]] for row in rows]


def test_an_array_names_the_line_on_which_a_row_begins(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"text": "a"}, {"text": "b"}], indent=1))
    assert [record.id for record in read(file, "text").records] == ["rows.json:2", "rows.json:5"]


def test_an_object_that_holds_the_rows_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps({"version": 1, "data": [{"text": "a"}, {"text": "b"}]}, indent=1))
    assert len(read(file, "text").records) == 2


def test_a_table_of_text_holds_lists_spelt_in_json(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('prompt,responses,ranks\nHi,"[""a"", ""b""]","[2, 1]"\n')
    [record] = read(file, "ranked").records
    assert isinstance(record, RankedRecord)
    assert (record.responses, record.ranks) == (("a", "b"), (2, 1))


def test_running_text_is_cut_at_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_bytes(b"\xef\xbb\xbfOne\r\ntwo\r\n\r\n \r\nThree\tand\r\n")
    assert read(file, "text").records == (
        TextRecord(id="book.txt:1", text="One\ntwo"),
        TextRecord(id="book.txt:5", text="Three\tand"),
    )


def test_a_byte_order_mark_carriage_returns_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}\r\n')
    assert [(r.id, r.text) for r in read(file, "text").records if isinstance(r, TextRecord)] == [
        ("rows.jsonl:1", "a"),
        ("rows.jsonl:3", "b"),
    ]


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    lines(tmp_path, {"text": "b"}, name="b.jsonl")
    lines(tmp_path, {"text": "a"}, name="a.jsonl")
    (tmp_path / "README.md").write_text("not data")
    assert [record.id for record in read(tmp_path, "text").records] == ["a.jsonl:1", "b.jsonl:1"]


def test_ids_of_the_rows_own_are_kept_only_when_they_tell_rows_apart(tmp_path: Path) -> None:
    own = read(lines(tmp_path, {"id": "x", "text": "a"}, {"id": "y", "text": "b"}), "text")
    assert [record.id for record in own.records] == ["x", "y"]
    same = read(lines(tmp_path, {"id": "x", "text": "a"}, {"id": "x", "text": "b"}), "text")
    assert [record.id for record in same.records] == ["rows.jsonl:1", "rows.jsonl:2"]


def test_every_row_is_kept_bad_or_a_duplicate(tmp_path: Path) -> None:
    rows = [{"text": f"row {n}"} for n in range(38)] + [{"text": "row 0"}, {"text": " "}]
    data = read(lines(tmp_path, *rows), "text")
    assert (data.rows, len(data.records), data.duplicates, len(data.problems)) == (40, 38, 1, 1)
    assert str(data.problems[0]) == f"{data.path}:40  text is empty\n  fix: fill it, or delete the row"


def test_the_share_of_bad_rows_is_the_callers_choice(tmp_path: Path) -> None:
    file = lines(tmp_path, {"text": "a"}, {"text": ""})
    with pytest.raises(DataError):
        read(file, "text")
    assert len(read(file, "text", max_bad=0.5).records) == 1
    with pytest.raises(DataError):
        read(lines(tmp_path, {"text": ""}, {"text": ""}), "text", max_bad=1.0)


def test_a_layout_needs_half_of_the_first_rows_and_the_others_are_bad(tmp_path: Path) -> None:
    good, other = [{"text": f"row {n}"} for n in range(3)], [{"txt": f"row {n}"} for n in range(3)]
    data = read(lines(tmp_path, *good, *other), "text", max_bad=0.5)
    assert (len(data.records), len(data.problems)) == (3, 3)
    assert data.problems[0].what == "text is missing (keys: txt ← typo?)"
    with pytest.raises(DataError, match="no layout of text data fits its columns: text, txt"):
        read(lines(tmp_path, *good[:2], *other), "text", max_bad=0.9)


REAL: list[tuple[str, Kind, str, int]] = [
    ("tinystories/train.jsonl", "text", "text", 4042),
    ("gsm8k/test.jsonl", "chat", "question/answer", 1319),
    ("gsm8k/train.jsonl", "prompt", "question/answer", 7473),
    ("gsm8k/example_model_solutions.jsonl", "ranked", "labelled solutions", 1319),
    ("oasst/ranked.jsonl", "ranked", "ranked (responses, ranks)", 207),
    ("oasst/ranked.jsonl", "prompt", "messages", 207),
    ("self-instruct/seed_tasks.jsonl", "chat", "self-instruct (instruction, instances)", 175),
    ("gpteacher/roleplay.json", "chat", "alpaca (instruction, input, response)", 1923),
]


@pytest.mark.parametrize(("name", "kind", "layout", "rows"), REAL)
def test_real_files_are_recognised_and_whole(shared: Path, name: str, kind: Kind, layout: str, rows: int) -> None:
    data = read(shared / "data" / name, kind)
    assert (data.format, data.rows, len(data.records)) == (f"{layout} → {kind}", rows, rows)
    assert data.problems == ()


def test_every_real_file_is_recognised(shared: Path) -> None:
    kinds: tuple[Kind, ...] = ("target", "chat", "text", "ranked", "prompt")
    for file in sorted((shared / "data").rglob("*.*")):
        if file.suffix in (".md", "") or file.name == "readme.txt":
            continue
        assert len(read(file, kinds).records) > 0


def test_the_real_solutions_have_both_kinds_in_731_questions(shared: Path) -> None:
    data = read(shared / "data" / "gsm8k" / "example_model_solutions.jsonl", "ranked")
    assert sum(len(set(record.ranks)) == 2 for record in data.records if isinstance(record, RankedRecord)) == 731


def test_a_labelled_table_without_names_is_not_taken_for_text(shared: Path) -> None:
    with pytest.raises(
        DataError, match=r"looks like target data \(sentence with label\), expected text data\n  fix: classify takes"
    ):
        read(shared / "data" / "sentiment" / "imdb_labelled.txt", "text")
