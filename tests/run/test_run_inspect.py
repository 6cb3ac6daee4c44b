"""Files of the token inspector: what is written is read, whole or as it was before."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posttrain.errors import DataError
from posttrain.run import inspect
from posttrain.run.inspect import Heading, add, file_name, heading_of, lists, table_of, write

HEADING = Heading(
    method="ppo", step=10, pieces={7: "\n", 300: " 你", 2: '"<0xE2>'}, settings={"beta": 0.1, "clip": None}
)
NUMBERS = np.array([0.1, -2.5, 3e-8], np.float32)
RATIO = {"ratio": lists(NUMBERS + 1, [1, 0, 2]), "clipped": lists(np.array([True, False, True]), [1, 0, 2])}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of three answers, of which the second is empty and has no alternatives."""
    path = tmp_path / "inspect" / file_name(10)
    top = np.arange(15, dtype=np.int32).reshape(3, 5)
    write(path, table_of(HEADING, {"old": lists(NUMBERS, [1, 0, 2]), "actor_top": lists(top, [1, None, 2])}))
    return path


def test_numbers_and_their_heading_are_read_as_they_were_written(file: Path) -> None:
    assert file.name == "step-000010.parquet"
    assert heading_of(file) == HEADING
    rows = pq.ParquetFile(file).read().to_pylist()
    assert [row["old"] for row in rows] == [[float(NUMBERS[0])], [], [float(NUMBERS[1]), float(NUMBERS[2])]]
    assert [row["actor_top"] for row in rows] == [[[0, 1, 2, 3, 4]], None, [[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]]


def test_columns_that_come_later_stand_beside_the_others_and_twice_is_once(file: Path) -> None:
    add(file, RATIO)
    once = file.read_bytes()
    table = pq.ParquetFile(file).read()
    assert table.column_names == ["old", "actor_top", "ratio", "clipped"]
    assert table["clipped"].to_pylist() == [[True], [], [False, True]]
    assert heading_of(file) == HEADING
    add(file, RATIO)
    assert file.read_bytes() == once


def test_a_write_that_fails_leaves_the_file_as_it_was(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def half(path: Path, table: pa.Table) -> None:
        path.write_bytes(b"PAR1")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(inspect, "_put", half)
    with pytest.raises(OSError, match="No space left"):
        add(file, RATIO)
    assert [item.name for item in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == before


def test_a_folder_is_not_taken_for_a_column(tmp_path: Path) -> None:
    path = tmp_path / "lr=0.1" / file_name(1)
    write(path, table_of(HEADING, {"old": lists(NUMBERS, [3])}))
    add(path, {"ratio": lists(NUMBERS, [3])})
    assert pq.ParquetFile(path).read().column_names == ["old", "ratio"]


def test_a_file_of_an_earlier_version_has_no_heading(tmp_path: Path) -> None:
    path = tmp_path / file_name(1)
    pq.write_table(pa.table({"old": [[0.1]]}), path)
    assert heading_of(path) is None


def test_a_damaged_file_is_named(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"step-000010\.parquet.*damaged"):
        heading_of(file)
    with pytest.raises(OSError, match="damaged"):
        add(file, RATIO)


def test_a_heading_of_another_format_is_refused(file: Path) -> None:
    table = pq.ParquetFile(file).read().replace_schema_metadata({inspect.KEY: b'{"format": 2}'})
    pq.write_table(table, file)
    with pytest.raises(DataError, match="its format is 2, known is 1"):
        heading_of(file)
