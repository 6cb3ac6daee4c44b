"""What bad files say: the whole message, word for word."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from posttrain.data.readers import read
from posttrain.errors import DataError
from posttrain.types import Kind

TALK = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}'
PAIR = '{"prompt": "Hi", "chosen": "a", "rejected": "b"}'


def said(folder: Path, content: str | bytes, kind: Kind, name: str = "rows.jsonl") -> str:
    """The message of the error that reading `content` raises, without the folder."""
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        read(file, kind)
    return str(caught.value).replace(f"{folder}/", "")


GOLDEN: dict[str, tuple[str | bytes, Kind, str]] = {
    "broken JSON": (
        f'{TALK}\n{{"messages": [}}\n',
        "chat",
        "rows.jsonl:2  broken JSON in column 15: expecting value\n"
        "  fix: mend the line; every line is one JSON object on its own",
    ),
    "a line cut off": (
        '{"text": "a"}\n{"text": "b',
        "text",
        "rows.jsonl:2  broken JSON in column 10: unterminated string starting at\n"
        "  fix: mend the line; every line is one JSON object on its own",
    ),
    "empty": ("\n \n", "chat", "rows.jsonl  the file is empty\n  fix: check how it was written"),
    "not UTF-8": (
        b'{"text": "a"}\n{"text": "caf\xe9"}\n',
        "text",
        "rows.jsonl:2  byte 0xe9 in column 14 is not UTF-8\n"
        "  fix: it is probably LATIN1: iconv -f LATIN1 -t UTF-8 rows.jsonl > new.rows.jsonl",
    ),
    "UTF-16": (
        '{"text": "a"}'.encode("utf-16"),
        "text",
        "rows.jsonl  the file is UTF-16, expected UTF-8\n  fix: iconv -f UTF-16 -t UTF-8 rows.jsonl > new.rows.jsonl",
    ),
    "rows that are no objects": (
        '"Hi"\n',
        "text",
        'rows.jsonl:1  the row is text, expected an object with named columns\n  fix: write rows as {"prompt": …, …}',
    ),
    "chat data for a reward model": (
        TALK,
        "ranked",
        "rows.jsonl  this looks like chat data (messages), expected ranked data\n"
        '  fix: sft takes this file; here give {"prompt": …, "chosen": …, "rejected": …} '
        'or {"prompt": …, "responses": […], "ranks": […]}',
    ),
    "pairs for finetuning": (
        PAIR,
        "chat",
        "rows.jsonl  this looks like ranked data (pairs (chosen, rejected)), expected chat data\n"
        "  fix: reward or dpo takes this file; here give "
        '{"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}',
    ),
    "a key misspelt": (
        '{"instuction": "Hi", "input": "", "output": "Hello"}',
        "chat",
        "rows.jsonl  no layout of chat data fits its columns: instuction, input, output\n"
        "  fix: is it alpaca (instruction, input, output), with 'instuction' \"Hi\" as 'instruction'? "
        "then give --data '{path: rows.jsonl, columns: {instruction: instuction, output: output}}'",
    ),
    "columns of nothing": (
        '{"a": 1}',
        "text",
        'rows.jsonl  no layout of text data fits its columns: a\n  fix: rename the columns: {"text": …}',
    ),
    "two layouts at once": (
        '{"prompt": "Hi", "completion": "Hello", "response": "Hey"}',
        "chat",
        "rows.jsonl:1  the rows can be read in 2 ways\n"
        '  prompt/completion: user "Hi" → assistant "Hello"\n'
        '  prompt/response: user "Hi" → assistant "Hey"\n'
        "  fix: name the columns that are meant:\n"
        "       for prompt/completion give "
        "--data '{path: rows.jsonl, columns: {prompt: prompt, completion: completion}}'\n"
        "       for prompt/response give --data '{path: rows.jsonl, columns: {prompt: prompt, response: response}}'",
    ),
    "an unknown role": (
        TALK.replace('"user"', '"usr"'),
        "chat",
        "rows.jsonl:1  messages[0].role is 'usr', which is no role\n  fix: did you mean 'user'?",
    ),
    "an empty answer": (
        TALK.replace("Hello", " "),
        "chat",
        "rows.jsonl:1  messages[1].content is empty\n  fix: fill it, or delete the row",
    ),
    "a conversation that waits for an answer": (
        TALK.replace('"assistant"', '"user"'),
        "chat",
        "rows.jsonl:1  messages[-1].role is 'user', expected 'assistant'\n"
        "  fix: let the conversation end with an answer, or delete its last message",
    ),
    "nothing to train": (
        TALK.replace('"Hello"', '"Hello", "train": false'),
        "chat",
        'rows.jsonl:1  messages has no message that is trained\n  fix: take "train": false from one of the answers',
    ),
    "a rejected answer by the user": (
        '{"prompt": "Hi", "chosen": [{"role": "assistant", "content": "a"}], '
        '"rejected": [{"role": "user", "content": "b"}]}',
        "ranked",
        "rows.jsonl:1  rejected[-1].role is 'user', expected 'assistant'\n"
        '  fix: change the role, or give plain text: "rejected": "No."',
    ),
    "one answer twice": (
        PAIR.replace('"b"', '"a"'),
        "ranked",
        "rows.jsonl:1  both answers are the same text\n  fix: delete the row, or give two different answers",
    ),
    "a pair without a prompt": (
        '{"chosen": "a", "rejected": "b"}',
        "ranked",
        'rows.jsonl:1  chosen stands without a prompt\n  fix: add a "prompt" column, or write it as a list of messages',
    ),
    "ranks not as many as responses": (
        '{"prompt": "Hi", "responses": ["a", "b", "c"], "ranks": [1, 2]}',
        "ranked",
        "rows.jsonl:1  3 responses but 2 ranks\n  fix: give one for each response; null is not ranked",
    ),
    "ranks that are no numbers": (
        '{"prompt": "Hi", "responses": ["a", "b"], "ranks": [1, NaN]}',
        "ranked",
        "rows.jsonl:1  ranks[1] is nan, which ranks nothing\n  fix: write null for what is not ranked",
    ),
    "one rank": (
        '{"prompt": "Hi", "responses": ["a", "b"], "ranks": [1, null]}',
        "ranked",
        "rows.jsonl:1  1 of 2 responses ranked, expected at least 2\n  fix: rank more, or delete the row",
    ),
    "all equal": (
        '{"prompt": "Hi", "responses": ["a", "b"], "ranks": [1, 1]}',
        "ranked",
        "rows.jsonl  no two answers are ranked differently in any of 1 prompt\n"
        "  fix: a ranking needs at least one answer above another",
    ),
    "an order beyond the responses": (
        '{"prompt": "Hi", "responses": ["a", "b"], "order": [1, 2]}',
        "ranked",
        "rows.jsonl:1  order[1] is 2, but the 2 responses are counted 0 to 1\n"
        "  fix: give the places of responses, from 0",
    ),
    "an order that repeats itself": (
        '{"prompt": "Hi", "responses": ["a", "b"], "order": [1, [0, 1]]}',
        "ranked",
        "rows.jsonl:1  order names response 1 twice\n  fix: name each response once",
    ),
    "a bare ranking": (
        '{"prompt": "Hi", "responses": ["a", "b", "c"], "ranking": [2, 0, 1]}',
        "ranked",
        "rows.jsonl:1  'ranking': [2, 0, 1] can mean two things\n"
        '  as ranks (lowest is best): response 0 "a" has rank 2, response 1 "b" has rank 0, response 2 "c" has rank 1\n'
        '  as order (best first): response 2 "c", then response 0 "a", then response 1 "b"\n'
        "  fix: for ranks give --data '{path: rows.jsonl, columns: {ranks: ranking}}'\n"
        "       for order give --data '{path: rows.jsonl, columns: {order: ranking}}'",
    ),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_a_bad_file_says_where_what_and_how_to_mend_it(case: str, tmp_path: Path) -> None:
    content, kind, expected = GOLDEN[case]
    assert said(tmp_path, content, kind) == expected


def test_where_every_kind_will_do_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": [1]}')
    with pytest.raises(DataError, match="no layout fits its columns: a\n"):
        read(tmp_path / "rows.jsonl", ("labelled", "target", "chat", "text", "ranked", "prompt"))


def test_a_missing_file_names_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(TALK)
    with pytest.raises(DataError) as caught:
        read(tmp_path / "trian.jsonl", "chat")
    assert str(caught.value) == (
        f"{tmp_path}/trian.jsonl  there is no such file or folder\n  fix: did you mean {tmp_path}/train.jsonl?"
    )
    assert caught.value.exit_code == 2


def test_a_missing_folder_is_found_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=f"fix: did you mean {tmp_path}/data"):
        read(tmp_path / "dta" / "train.jsonl", "chat")
    with pytest.raises(DataError, match="this folder holds no data files"):
        read(tmp_path / "data", "chat")


def test_all_problems_are_listed_and_equal_ones_folded(tmp_path: Path) -> None:
    rows = [TALK, *[TALK.replace("Hello", "") for _ in range(3)], TALK.replace('"user"', '"bot"')]
    assert said(tmp_path, "\n".join(rows), "chat") == (
        "3 problems\n"
        "  rows.jsonl  4 of 5 rows cannot be used (80%, at most 5% may be)\n"
        "  rows.jsonl:2  messages[1].content is empty   (2 more rows have this)\n"
        "    fix: fill it, or delete the row\n"
        "  rows.jsonl:5  messages[0].role is 'bot', which is no role\n"
        "    fix: did you mean 'assistant'?"
    )


def test_broken_lines_are_bad_rows_like_others(tmp_path: Path) -> None:
    message = said(tmp_path, "\n".join("{" for _ in range(7)), "chat")
    assert message.startswith("rows.jsonl:1  broken JSON in column 2")
    assert "(6 more rows have this)" in message
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"".join(b'{"text": "row %d"}\n' % n for n in range(40)) + b'{"text": "\xe9"}\n{"text": \n')
    data = read(file, "text")
    assert (data.rows, len(data.records)) == (42, 40)
    assert [problem.what for problem in data.problems] == [
        "byte 0xe9 in column 11 is not UTF-8",
        "broken JSON in column 10: expecting value",
    ]


def test_an_array_that_is_cut_off_or_broken_is_refused(tmp_path: Path) -> None:
    whole = json.dumps([{"text": "a"}, {"text": "b"}], indent=1)
    assert "rows.json:8  the file ends within its JSON" in said(tmp_path, whole[:-1], "text", "rows.json")
    assert "rows.json:3  broken JSON in column 2" in said(tmp_path, '[\n {"text": "a"},\n x\n]', "text", "rows.json")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("rows.xlsx", b"PK", "rows.xlsx  files of type '.xlsx' are not read"),
        ("rows.parquet", b"text", "rows.parquet  not a Parquet file that can be read"),
        ("rows.jsonl.gz", gzip.compress(b'{"text": "a"}', mtime=0)[:-9], "rows.jsonl.gz  the gzip file is damaged"),
        ("rows.csv", b"prompt,completion\nHi,Hello,you\n", "rows.csv:2  the row has more cells than the 2 columns"),
        ("rows.csv", b"prompt,completion\nHi\n", "rows.csv:2  the row has fewer cells than the 2 columns"),
        ("rows.csv", b'prompt,completion\n"Hi,Hello\n', "rows.csv:2  broken CSV: unexpected end of data"),
        ("rows.csv", b"prompt,completion\n", "rows.csv  there are no rows in it"),
    ],
)
def test_files_that_cannot_be_read_say_why(name: str, content: bytes, expected: str, tmp_path: Path) -> None:
    assert said(tmp_path, content, "chat", name).startswith(expected)
