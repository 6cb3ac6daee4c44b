"""Small files that unpack to gigabytes: read as a stream, within a limit of memory that is real, or refused."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain.data import tables
from posttrain.data.readers import open_data
from posttrain.errors import DataError, DoesNotFit

PIECE = 32 << 20
READER = """
import resource, sys
from posttrain.data.readers import open_data
from posttrain.errors import PosttrainError
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 500_000_000, used + 500_000_000))
try:
    reading = open_data(sys.argv[1], ("chat", "text"), max_bad=1.0)
    print(sum(1 for _ in reading), reading.tally.bad, reading.tally.problems[0])
except PosttrainError as error:
    print(error)
"""
CHAT = json.dumps({"prompt": "Say 1", "response": "1"}).encode()
OTHER = json.dumps({"prompt": "Say 2", "response": "2"}).encode()


def bomb(file: Path, before: bytes, filler: bytes, after: bytes, gigabytes: int) -> Path:
    """A gzip file whose middle is so many GB of one character; a MB of it takes some hundred bytes."""
    piece = gzip.compress(filler * PIECE)
    with file.open("wb") as handle:
        handle.write(gzip.compress(before))
        for _ in range((gigabytes << 30) // PIECE):
            handle.write(piece)
        handle.write(gzip.compress(after))
    return file


@pytest.mark.medium
@pytest.mark.parametrize(
    ("name", "before", "filler", "after", "says"),
    [
        (
            "line.jsonl.gz",
            CHAT + b"\n",
            b"a",
            b"\n" + CHAT[:-2] + b'2"}\n',
            "2 1 {file}:2  the line is longer than 8 MB",
        ),
        ("array.json.gz", b"[" + CHAT + b', {"prompt": "', b"a", b'"}]', "{file}:1  broken JSON"),
        ("deep.json.gz", b"", b"[", b"", "{file}:1  broken JSON in column 2: nested too deeply"),
        pytest.param(
            "cell.csv.gz",
            b"prompt,response\na,b\n",
            b"a",
            b",b\nc,d\n",
            "2 1 {file}:3  a cell is longer than 8 MB",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "quote.tsv.gz",
            b"prompt\tresponse\na\tb\n",
            b"a",
            b"\tb\nc\td\n",
            "2 1 {file}:3  a cell is longer than 8 MB",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "page.txt.gz",
            b"hello\n\n",
            b"a",
            b"\n\nbye\n",
            "2 1 {file}:3  the text without a blank line is longer",
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda given: given if isinstance(given, str) and given.endswith("gz") else "",
)
def test_two_gigabytes_in_a_small_file_are_read_within_half_a_gigabyte(
    name: str, before: bytes, filler: bytes, after: bytes, says: str, tmp_path: Path
) -> None:
    file = bomb(tmp_path / name, before, filler, after, 2)
    assert file.stat().st_size < 12_000_000
    done = subprocess.run([sys.executable, "-c", READER, str(file)], capture_output=True, text=True, timeout=600)
    assert done.stdout.startswith(says.format(file=file)), done.stdout + done.stderr
    assert done.returncode == 0


def test_gzipped_parquet_takes_no_more_than_half_of_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bomb(tmp_path / "rows.parquet.gz", b"PAR1", b"\0", b"PAR1", 1)
    room = SimpleNamespace(free=20_000_000)

    def usage(folder: Path) -> SimpleNamespace:
        return room

    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(DoesNotFit, match=r"rows\.parquet\.gz: unpacked it takes more than 0\.0 GB, half of what"):
        open_data(file, "chat")


def rows_at_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of rows that a table is read by from now on, as they come."""
    sizes: list[int] = []
    plain = tables.plain_rows

    def watched(batch: Any) -> list[tables.Row]:
        sizes.append(batch.num_rows)
        return plain(batch)

    monkeypatch.setattr(tables, "plain_rows", watched)
    return sizes


def test_a_long_value_that_a_dictionary_repeats_is_read_a_few_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = "a" * (4 << 20)
    table = pa.table({"prompt": [long] * 200, "response": [str(number) for number in range(200)]})
    pq.write_table(table, tmp_path / "rows.parquet", compression="zstd")
    assert (tmp_path / "rows.parquet").stat().st_size < 20_000
    sizes = rows_at_once(monkeypatch)
    assert sum(1 for _ in open_data(tmp_path / "rows.parquet", "chat")) == 200
    assert max(sizes) * len(long) <= tables._AT_ONCE  # pyright: ignore[reportPrivateUsage]
    assert sizes[0] > 100


def test_rows_of_parquet_over_the_limit_are_refused(tmp_path: Path) -> None:
    table = pa.table({"prompt": ["a" * (9 << 20)], "response": ["b"]})
    pq.write_table(table, tmp_path / "rows.parquet", compression="zstd")
    with pytest.raises(DataError, match=r"rows\.parquet  a row of row group 1 is longer than 8 MB"):
        open_data(tmp_path / "rows.parquet", "chat")


def test_ordinary_parquet_is_read_hundreds_of_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"prompt": [f"Say {n}" for n in range(2000)], "response": ["yes"] * 2000})
    pq.write_table(table, tmp_path / "rows.parquet")
    sizes = rows_at_once(monkeypatch)
    assert sum(1 for _ in open_data(tmp_path / "rows.parquet", "chat")) == 2000
    assert max(sizes) == 512


def test_carriage_returns_end_the_rows_of_a_table_too(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(b'prompt,response\ra,"b\rc"\rd,e\r')
    assert [record.messages[-1].content for record in open_data(tmp_path / "rows.csv", "chat")] == ["b\rc", "e"]  # type: ignore[union-attr]
