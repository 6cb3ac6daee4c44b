"""Reading in one pass: what it counts, what it holds in memory, and what tells one content from another."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from posttrain.data import json_window, opening, readers
from posttrain.data.readers import Tally, open_data, read
from posttrain.errors import DataError
from posttrain.types import ChatRecord, Message, PromptRecord, RankedRecord, Record, TextRecord


def written(file: Path, texts: Iterator[str] | list[str]) -> Path:
    with file.open("w") as handle:
        handle.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return file


def test_a_reading_says_what_it_is_before_a_pass_and_what_it_found_after(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl", [f"row {n}" for n in range(38)] + ["row 0", " "])
    reading = open_data(file, ("chat", "text"))
    assert (reading.path, reading.format, reading.kind) == (str(file), "text → text", "text")
    assert reading.identity == hashlib.sha256(file.read_bytes()).hexdigest()
    assert reading.size == file.stat().st_size
    assert reading.tally == Tally()
    for _ in range(2):
        assert sum(1 for _ in reading) == 38
        tally = reading.tally
        assert (tally.rows, tally.records, tally.duplicates, tally.bad, len(tally.problems)) == (40, 38, 1, 1, 1)


def test_an_unknown_layout_is_refused_before_a_pass(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": [1]}\n')
    with pytest.raises(DataError, match="no layout of text data fits its columns: a"):
        open_data(file, "text")


def test_bad_rows_stop_a_pass_at_its_end(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl", [f"row {n}" for n in range(300)] + [""] * 30)
    rows = iter(open_data(file, "text"))
    assert len(list(itertools.islice(rows, 300))) == 300
    with pytest.raises(DataError, match=r"rows.jsonl:301  text is empty   \(29 more rows have this\)"):
        next(rows)


def test_only_so_many_problems_are_kept_but_all_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_KEPT_PROBLEMS", 3)
    data = open_data(
        written(tmp_path / "rows.jsonl", [*(f"row {n}" for n in range(20)), *[""] * 7]), "text", max_bad=0.5
    )
    assert len(list(data)) == 20
    assert (data.tally.bad, len(data.tally.problems)) == (7, 3)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.jsonl.gz", "rows.txt", "rows.csv"])
def test_memory_does_not_grow_with_the_rows_but_for_their_hashes(name: str, tmp_path: Path) -> None:
    """Ten times the rows of a kilobyte each may cost at most 200 bytes a row more."""

    def peak(count: int) -> int:
        file = tmp_path / name
        rows = [f"{n:06d} {'x' * 1000}" for n in range(count)]
        lines = [json.dumps({"text": row}) for row in rows]
        whole = {".json": "[" + ",\n".join(lines) + "]", ".txt": "\n\n".join(rows), ".csv": "text\n" + "\n".join(rows)}
        content = whole.get(file.suffix, "\n".join(lines)).encode()
        file.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        del rows, lines, whole, content
        reading = open_data(file, "text")
        tracemalloc.start()
        assert sum(1 for _ in reading) == count
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    few, many = peak(1_000), peak(6_000)
    assert many - few < 5_000 * 200 + (1 << 20)


def test_a_row_cut_by_the_reading_window_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": f"row {n} é好\\n " + '"[{]}' * n} for n in range(30)]
    file = tmp_path / "rows.json"
    for indent, wrapped in itertools.product((None, 2), (False, True)):
        whole = {"version": -12.5e30, "data": rows, "count": 30} if wrapped else rows
        file.write_text(json.dumps(whole, indent=indent, ensure_ascii=False))
        for size in (1, 7, 64):
            monkeypatch.setattr(json_window, "_CHUNK", size)
            records = read(file, "text").records
            assert [r.text for r in records if isinstance(r, TextRecord)] == [row["text"] for row in rows]


@pytest.mark.parametrize("names", [("train", "test"), ("validation", "train"), ("data", "rows")])
def test_rows_under_two_names_of_one_object_are_not_half_read(names: tuple[str, str], tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps({"version": 1, **{name: [{"text": name}] for name in names}}))
    with pytest.raises(DataError, match=f"rows stand under '{names[0]}' and under '{names[1]}'"):
        read(file, "text")


def test_an_object_that_is_cut_after_its_rows_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text('{"data": [{"text": "a"}], "count": [')
    with pytest.raises(DataError, match="the file ends within its JSON"):
        read(file, "text")


def test_a_line_at_the_limit_is_read_and_one_beyond_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "ROW_LIMIT", 64)
    line = '{"text": "' + "a" * (64 - 13) + '"}\n'
    assert len(line) == 64
    file = tmp_path / "rows.jsonl"
    file.write_text(line + line.replace("a", "bb", 1) + line.replace("a", "b", 1))
    data = read(file, "text", max_bad=0.5)
    assert [problem.place for problem in data.problems] == [f"{file}:2"]
    assert [record.id for record in data.records] == ["rows.jsonl:1", "rows.jsonl:3"]


ASK, ANSWER = Message(role="user", content="a"), Message(role="assistant", content="b")
PAIR = RankedRecord(id="", prompt=(ASK,), responses=("b", "c"), ranks=(1, 2))
DIFFERENT: list[Record] = [
    ChatRecord(id="", messages=(ASK, ANSWER)),
    ChatRecord(id="", messages=(ASK, replace(ANSWER, train=False))),
    ChatRecord(id="", messages=(replace(ASK, content="ab"), ANSWER)),
    ChatRecord(id="", messages=(replace(ASK, role="tool"), ANSWER)),
    TextRecord(id="", text="a"),
    PromptRecord(id="", text="a", columns={"x": 1}),
    PromptRecord(id="", text="a", columns={"x": 2}),
    PromptRecord(id="", text="a", columns={"x": 2**70}),
    PAIR,
    replace(PAIR, ranks=(2, 1)),
    replace(PAIR, weight=2.0),
    replace(PAIR, annotator="ada"),
]


def test_records_of_different_content_are_not_duplicates() -> None:
    contents = [readers._content(record) for record in DIFFERENT]  # pyright: ignore[reportPrivateUsage]
    assert len(set(contents)) == len(contents)


def test_prompts_with_the_same_columns_in_another_order_are_duplicates(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"prompt": "Hi", "a": 1, "b": [2]}\n{"b": [2], "prompt": "Hi", "a": 1}\n{"prompt": "Hi", "a": 2}\n'
    )
    data = read(file, "prompt")
    assert (len(data.records), data.duplicates) == (2, 1)


def test_the_identity_of_a_folder_follows_names_and_contents(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", ["a"])
    before = open_data(tmp_path, "text").identity
    (tmp_path / "README.md").write_text("not data")
    assert open_data(tmp_path, "text").identity == before
    (tmp_path / "a.jsonl").rename(tmp_path / "b.jsonl")
    assert open_data(tmp_path, "text").identity != before


def test_an_id_that_comes_again_later_gives_way_to_its_place(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    names = [f"n{n}" for n in range(201)]
    rows = [{"id": name, "text": name} for name in names] + [{"id": "n3", "text": "again"}, {"text": "without"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [record.id for record in read(file, "text").records] == [*names, "rows.jsonl:202", "rows.jsonl:203"]


def test_broken_rows_after_the_first_two_hundred_are_bad_rows(tmp_path: Path) -> None:
    file = written(tmp_path / "rows.jsonl", [f"row {n}" for n in range(300)])
    with file.open("ab") as handle:
        handle.write(b'["a"]\n{"text": NaN}\n{"text": "\xff"}\n{"text"\n')
    data = read(file, "text")
    assert [problem.what for problem in data.problems] == [
        "the row is a list, expected an object with named columns",
        "text is a number (nan), expected text",
        "byte 0xff in column 11 is not UTF-8",
        "broken JSON in column 8: expecting ':' delimiter",
    ]


def test_half_a_character_in_an_array_or_a_cell_is_not_passed_on(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([{"text": "whole \U0001f600"}, {"text": "half \ud83d"}]))
    data = read(file, "text", max_bad=0.5)
    assert [r.text for r in data.records if isinstance(r, TextRecord)] == ["whole \U0001f600"]
    assert data.problems[0].what == "\\ud83d is half of a character (a lone surrogate)"
    table = tmp_path / "rows.csv"
    table.write_text('text\n"[""\\ud83d""]"\n')
    assert [r.text for r in read(table, "text").records if isinstance(r, TextRecord)] == ['["\\ud83d"]']


def test_hidden_files_of_a_folder_are_not_read(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", ["a"])
    (tmp_path / ".cache").mkdir()
    written(tmp_path / ".cache" / "b.jsonl", ["b"])
    written(tmp_path / ".c.jsonl", ["c"])
    assert [record.id for record in read(tmp_path, "text").records] == ["a.jsonl:1"]
