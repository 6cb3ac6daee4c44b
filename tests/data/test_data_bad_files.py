"""What files say that cannot be read as they are: the whole message, word for word."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from posttrain.data import encoding
from posttrain.data.readers import open_data, read
from posttrain.errors import DataError
from posttrain.types import Kind


def said(folder: Path, name: str, content: str | bytes, kind: Kind) -> str:
    """The message of the error that reading `content` raises, without the folder."""
    file = folder / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as caught:
        read(file, kind)
    return str(caught.value).replace(f"{folder}/", "")


GOLDEN: list[tuple[str, str | bytes, Kind, str]] = [
    (
        "rows.json",
        '[{"text": "a"},',
        "text",
        "rows.json:1  the file ends within its JSON\n  fix: it was cut off; write it again",
    ),
    (
        "rows.json",
        '[{"text": "a"}, {"text": "b',
        "text",
        "rows.json:1  the file ends within its JSON\n  fix: it was cut off; write it again",
    ),
    (
        "rows.json",
        '[{"text": "a"} {"text": "b"}]',
        "text",
        "rows.json:1  broken JSON in column 16: expecting ',' or ']'\n  fix: mend the file",
    ),
    (
        "rows.json",
        '[{"text": "a"}] x',
        "text",
        "rows.json:1  more stands after the end of the JSON\n"
        "  fix: one array, or one object a line: jq -c . rows.json > new.rows.json",
    ),
    (
        "rows.json",
        '[{"text": "a"}, 5]',
        "text",
        "rows.json:1  the row is a number, expected an object with named columns\n"
        '  fix: write rows as {"prompt": …, …}',
    ),
    (
        "rows.json",
        '{"data": [{"text": "a"}',
        "text",
        "rows.json:1  the file ends within its JSON\n  fix: it was cut off; write it again",
    ),
    (
        "rows.json",
        '["a", "b"]',
        "text",
        "rows.json:1  the row is text, expected an object with named columns   (1 more row has this)\n"
        '  fix: write rows as {"prompt": …, …}',
    ),
    (
        "rows.json",
        b'[{"text": "caf\xe9 au lait"}]',
        "text",
        "rows.json:1  byte 0xe9 is not UTF-8\n"
        "  fix: it is probably LATIN1: iconv -f LATIN1 -t UTF-8 rows.json > new.rows.json",
    ),
    (
        "rows.txt",
        (
            '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": '
            '"Hello"}]}\n'
            '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": '
            '"Hello"}]}\n'
        ),
        "text",
        "rows.txt  the file holds rows of JSON, not running text\n  fix: name it so: mv rows.txt rows.jsonl",
    ),
    (
        "rows.txt",
        (
            "[\n"
            '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": '
            '"Hello"}]},\n'
            '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": '
            '"Hello"}]}\n'
            "]"
        ),
        "text",
        "rows.txt  the file holds rows of JSON, not running text\n  fix: name it so: mv rows.txt rows.jsonl",
    ),
    (
        "rows.txt",
        "a\tyes\nb\tno\n",
        "text",
        "rows.txt  every line has 2 cells between tabs: this is a table, not running text; the "
        "first: a | yes\n"
        "  fix: is column 2, with no and yes, the answer? then name the columns, such as: (printf "
        "'prompt\\tcompletion\\n'; cat rows.txt) > rows.tsv",
    ),
    (
        "rows.txt",
        b"caf\xe9\n\nb\n",
        "text",
        "rows.txt:1  byte 0xe9 in column 4 is not UTF-8\n"
        "  fix: it is probably LATIN1: iconv -f LATIN1 -t UTF-8 rows.txt > new.rows.txt",
    ),
    (
        "rows.csv",
        "prompt;completion\nHi;Hello\n",
        "chat",
        "rows.csv:1  cells are separated by semicolons, expected commas\n  fix: save it with commas",
    ),
    (
        "rows.csv",
        "prompt\tcompletion\nHi\tHello\n",
        "chat",
        "rows.csv:1  cells are separated by tabs, expected commas\n  fix: name the file .tsv",
    ),
    (
        "rows.csv",
        "prompt,prompt\nHi,Hello\n",
        "chat",
        ("rows.csv:1  the column 'prompt' stands twice in the first line\n  fix: give each column its own name"),
    ),
    (
        "rows.csv",
        b"prompt,completion\nHi,caf\xe9\n",
        "chat",
        "rows.csv:2  byte 0xe9 in column 7 is not UTF-8\n"
        "  fix: it is probably LATIN1: iconv -f LATIN1 -t UTF-8 rows.csv > new.rows.csv",
    ),
    (
        "rows.csv",
        'prompt,completion\n"Hi,Hello\nx,y\n',
        "chat",
        (
            "rows.csv:2  broken CSV: unexpected end of data\n"
            "  fix: close every quote, and double the quotes inside a cell"
        ),
    ),
    (
        "rows.csv",
        'prompt,completion\n"Hi"x,Hello\n',
        "chat",
        "rows.csv:2  broken CSV: ',' expected after '\"'\n"
        "  fix: close every quote, and double the quotes inside a cell",
    ),
    (
        "rows.csv",
        "What is it that they wanted from all of us in those days of old?,0\nHi there my good friend,1\n",
        "chat",
        "rows.csv  no layout of chat data fits its columns: What is it that they wanted from all "
        "of us in those days of…, 0\n"
        "  these look like a row, not like the names of columns\n"
        "  fix: write the names of the columns above it, such as prompt,completion",
    ),
    (
        "rows.parquet",
        b"PAR1xxxxPAR1",
        "text",
        "rows.parquet  not a Parquet file that can be read: Parquet file size is 12 bytes, smaller "
        "than the size reported by footer's (2021161080bytes)\n"
        "  fix: write it again",
    ),
    (
        "rows",
        b"x",
        "text",
        "rows  files of type '(none)' are not read\n"
        "  fix: convert it to one of .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .txt (each may "
        "be gzipped)",
    ),
    (
        "rows.db",
        b"x",
        "ranked",
        "rows.db  this is no SQLite database\n  fix: give a ranking store, or a file such as .jsonl",
    ),
]


@pytest.mark.parametrize(
    ("name", "content", "kind", "expected"), GOLDEN, ids=[f"{n} {i}" for i, (n, *_) in enumerate(GOLDEN)]
)
def test_a_file_says_what_is_wrong_with_it(
    name: str, content: str | bytes, kind: Kind, expected: str, tmp_path: Path
) -> None:
    assert said(tmp_path, name, content, kind) == expected


def test_a_line_of_ten_megabytes_is_a_bad_row(tmp_path: Path) -> None:
    long = json.dumps({"text": "a" * (10 << 20)})
    assert said(tmp_path, "rows.jsonl", long, "text") == (
        "rows.jsonl:1  the line is longer than 8 MB\n  fix: write one row a line, or cut the text into several rows"
    )
    rows = [json.dumps({"text": f"row {n}"}) for n in range(40)]
    file = tmp_path / "some.jsonl"
    file.write_text("\n".join([*rows[:20], long, *rows[20:]]))
    data = read(file, "text")
    assert [problem.place for problem in data.problems] == [f"{file}:21"]
    assert [record.id for record in data.records][-1] == "some.jsonl:41"


def test_a_cell_of_ten_megabytes_is_a_bad_row(tmp_path: Path) -> None:
    table = "prompt,completion\n" + "".join(f"q{n},a\n" for n in range(40)) + f'q,"{"a" * (10 << 20)}"\nlast,a\n'
    file = tmp_path / "rows.csv"
    file.write_text(table)
    data = read(file, "chat")
    assert [problem.what for problem in data.problems] == ["a cell is longer than 8 MB"]


def test_a_row_nested_a_hundred_thousand_times_is_a_bad_row(tmp_path: Path) -> None:
    deep = '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}"
    assert said(tmp_path, "rows.jsonl", deep, "text") == (
        "rows.jsonl:1  the row is nested too deeply\n  fix: flatten it, or delete it"
    )


def test_a_truncated_gzip_names_the_last_line_that_it_still_had(tmp_path: Path) -> None:
    whole = gzip.compress("\n".join(json.dumps({"text": f"{n * 7919}"}) for n in range(50_000)).encode())
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(whole[: len(whole) // 2])
    reading = open_data(file, "text")
    with pytest.raises(DataError) as caught:
        list(reading)
    last = reading.tally.rows
    assert str(caught.value) == (
        f"{file}:{last}  the gzip file is damaged after this line: "
        "Compressed file ended before the end-of-stream marker was reached\n  fix: copy or compress it again"
    )
    assert 10_000 < last < 40_000


def test_one_bad_line_in_a_utf8_file_is_not_taken_for_the_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes('{"text": "déjà"}\n{"text": "été"}\n'.encode() + b'{"text": "caf\xe9"}\n')
    [problem] = read(file, "text", max_bad=0.5).problems
    assert problem.fix == "write this line again as UTF-8, as most lines are, or delete it"


def test_a_folder_of_arrow_files_says_how_to_make_parquet_of_them(tmp_path: Path) -> None:
    for name in ("state.json", "dataset_info.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError) as caught:
        read(tmp_path, "text")
    assert str(caught.value) == (
        f"{tmp_path}  this folder was saved by `datasets` as Arrow files\n"
        f"  fix: datasets.load_from_disk('{tmp_path}').to_parquet('rows.parquet')"
    )


def test_the_command_for_a_table_called_txt_makes_a_file_that_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rows.tsv"
    file.write_text('prompt\tcompletion\nGood.\t1\n"Bad, he said.\t0\nSo "so".\t0\n" Fine.\t1\n')
    contents = [record.messages[0].content for record in read(file, "chat").records]  # pyright: ignore[reportAttributeAccessIssue]
    assert contents == ["Good.", '"Bad, he said.', 'So "so".', '" Fine.']


@pytest.mark.parametrize("opening", ["[", '{"a": '])
def test_a_row_of_more_than_a_hundred_levels_is_a_bad_row_however_it_is_written(tmp_path: Path, opening: str) -> None:
    ends = {"[": "]", '{"a": ': "}"}[opening]
    row = f'{{"text": "a", "more": {opening * 101}1{ends * 101}}}'
    fine = f'{{"text": "b", "more": {opening * 98}1{ends * 98}, "even": [[1], [2], {{}}]}}'
    (tmp_path / "rows.jsonl").write_text(f"{row}\n{fine}\n{row.replace('1', 'NaN')}\n")
    found = read(tmp_path / "rows.jsonl", "text", max_bad=0.9)
    assert (found.rows, len(found.records)) == (3, 1)
    assert [str(problem) for problem in found.problems] == [
        f"{tmp_path}/rows.jsonl:{line}  the row is nested too deeply\n  fix: flatten it, or delete it"
        for line in (1, 3)
    ]
    assert said(tmp_path, "rows.json", f"[{fine},\n{row}]", "text").startswith(
        "rows.json:2  broken JSON in column 1: nested too deeply"
    )


def test_a_number_of_more_digits_than_python_reads_is_a_bad_row(tmp_path: Path) -> None:
    row = f'{{"text": "a", "n": {"9" * 5000}}}'
    assert said(tmp_path, "rows.jsonl", row, "text") == (
        "rows.jsonl:1  a number has more digits than can be read\n  fix: write it as text, in quotes, or delete the row"
    )
    assert "rows.json:1  broken JSON in column 2: a number has too many digits" in said(
        tmp_path, "rows.json", f"[{row}]", "text"
    )


def test_a_line_of_forty_megabytes_in_a_table_is_a_bad_row_and_the_lines_after_it_are_counted_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "rows.csv").write_text(f"prompt,response\na,b\n{'x' * (40 << 20)},c\nd,e\nf\n")
    found = read(tmp_path / "rows.csv", "chat", max_bad=0.9)
    assert [record.id for record in found.records] == ["rows.csv:2", "rows.csv:4"]
    assert [problem.place for problem in found.problems] == [f"{tmp_path}/rows.csv:{line}" for line in (3, 5)]
    assert found.problems[0].what == "a cell is longer than 8 MB"
    assert said(tmp_path, "one.csv", "x" * (40 << 20), "chat").startswith("one.csv:1  a cell is longer than 8 MB")


def test_a_table_whose_lines_end_in_carriage_returns_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b"prompt,response\ra,b\rc,d\r")
    assert len(read(tmp_path / "rows.csv", "chat").records) == 2


def test_names_of_columns_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    assert said(tmp_path, "rows.csv", b"prompt,r\xe9ponse\na,b\n", "chat").startswith(
        "rows.csv:1  byte 0xe9 in column 9 is not UTF-8"
    )


def test_a_pipe_is_no_file_of_rows(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        open_data(tmp_path / "rows.jsonl", "text")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "c", "weight": 10**400}, "weight is inf, which ranks nothing"),
        ({"text": "a", "label": 10**400}, "label is a number of more digits than can be read"),
    ],
)
def test_a_number_beyond_what_is_computed_with_is_not_taken_for_another(
    tmp_path: Path, row: dict[str, object], says: str
) -> None:
    kind: Kind = "target" if "label" in row else "ranked"
    assert f"rows.jsonl:1  {says}" in said(tmp_path, "rows.jsonl", json.dumps(row), kind)


def test_half_a_character_in_the_only_row_of_a_file_is_a_bad_row(tmp_path: Path) -> None:
    assert said(tmp_path, "rows.json", '{\n "text": "a \\ud83d"\n}', "text").startswith(
        "rows.json:1  \\ud83d is half of a character (a lone surrogate)"
    )


def test_the_encoding_of_a_file_is_told_once_however_many_lines_are_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    likely = encoding.likely
    monkeypatch.setattr(encoding, "likely", lambda data: asked.append(len(data)) or likely(data))
    (tmp_path / "rows.txt").write_bytes("caf\xe9 du coin\n\n".encode("latin-1") * 200)
    assert "it is probably LATIN1: iconv" in said(tmp_path, "rows.txt", (tmp_path / "rows.txt").read_bytes(), "text")
    assert len(asked) == 1
