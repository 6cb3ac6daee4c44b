"""Files that change under a reading are refused, at whichever moment they change."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.data.readers import Reading, open_data
from posttrain.errors import DataError


def row(number: int) -> str:
    return json.dumps({"prompt": f"Say {number}", "response": str(number)}) + "\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Three hundred rows: more than are looked at to know the layout."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(map(row, range(300))))
    return path


def grown(file: Path) -> None:
    with file.open("a") as handle:
        handle.write(row(300))


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - len(row(299)))


def rewritten(file: Path) -> None:
    facts = file.stat()
    file.write_text(file.read_text().replace("Say 299", "Ask 299"))
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))


def replaced(file: Path) -> None:
    facts, other = file.stat(), file.with_name("other")
    other.write_text(file.read_text())
    os.utime(other, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    other.replace(file)


CHANGES = [
    (grown, "was .* bytes, and is .* bytes"),
    (cut, "was .* bytes, and is .* bytes"),
    (rewritten, "while it was read\n"),
    (replaced, "while it was read\n"),
]


@pytest.mark.parametrize(("change", "says"), CHANGES, ids=["grown", "cut", "rewritten", "replaced"])
@pytest.mark.parametrize("known", [True, False], ids=["after its hash", "in the middle"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    known: bool, change: Callable[[Path], None], says: str, file: Path
) -> None:
    reading = open_data(file, "chat")
    if known:
        assert reading.identity
        change(file)
    records = iter(reading)
    next(records)
    if not known:
        change(file)
    with pytest.raises(DataError, match=says) as caught:
        list(records)
    assert str(caught.value).startswith(f"{file}  the file changed while it was read")
    assert "fix: start again when nothing writes to it" in str(caught.value)


def test_a_file_that_is_added_to_a_folder_while_it_is_read_is_named(file: Path) -> None:
    reading = open_data(file.parent, "chat")
    records = iter(reading)
    next(records)
    (file.parent / "more.jsonl").write_text(row(500))
    with pytest.raises(DataError, match=r"more\.jsonl  the file changed while it was read: it was absent, and is"):
        list(records)


def test_a_change_after_the_reading_is_found_when_it_is_asked_for(file: Path) -> None:
    reading: Reading = open_data(file, "chat")
    reading.refuse_changes()
    assert reading.identity
    assert len(list(reading)) == 300
    reading.refuse_changes()
    grown(file)
    with pytest.raises(DataError, match="the file changed while it was read"):
        reading.refuse_changes()
