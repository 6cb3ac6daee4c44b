"""Files that grow by lines, with and without room on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from limits import no_file_above

from posttrain.run.growing import Growing


def test_lines_that_find_no_room_wait_and_come_in_order(tmp_path: Path) -> None:
    growing = Growing(tmp_path)
    growing.append("a", "first")
    with no_file_above(9):
        growing.append("a", "second")  # of which three bytes still fit
        growing.append("a", "third")
        growing.append("b", "other")
        assert (tmp_path / "a").read_text() == "first\nsec"
        assert growing.waiting == ["a"]
        assert growing.size("a") == len("first\nsecond\nthird\n")
        with pytest.raises(OSError, match="File too large") as caught:
            growing.flush(["a", "b"])
        assert caught.value.filename == str(tmp_path / "a")
    growing.flush(["a", "b", "none"])
    assert growing.waiting == []
    assert (tmp_path / "a").read_text() == "first\nsecond\nthird\n"
    assert (tmp_path / "b").read_text() == "other\n"


def test_a_folder_that_is_gone_is_no_full_disk_and_the_line_is_not_lost(tmp_path: Path) -> None:
    growing = Growing(tmp_path / "run")
    with pytest.raises(FileNotFoundError):
        growing.append("a", "first")
    (tmp_path / "run").mkdir()
    growing.append("a", "second")
    assert (tmp_path / "run" / "a").read_text() == "first\nsecond\n"


@pytest.mark.parametrize("size", [0, 3, 6, 9, 13])
def test_a_file_is_cut_back_wherever_its_end_lies(tmp_path: Path, size: int) -> None:
    growing = Growing(tmp_path)
    growing.append("a", "first")
    with no_file_above(6):
        growing.append("a", "second")
        growing.cut("a", size)
        growing.cut("none", 0)
        assert growing.size("a") == size
    growing.write()
    assert (tmp_path / "a").read_text() == "first\nsecond\n"[:size]
