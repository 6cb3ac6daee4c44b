"""The cache of tokens: whole entries or none, bounded, and safe to share between processes."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.data.cache import Cache, cache_home


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    (tmp_path / "cache").mkdir()
    return Cache(tmp_path / "cache")


def silent(line: str) -> None:
    raise AssertionError(f"nothing should be said: {line}")


def names(cache: Cache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from posttrain.data.arrow import GROUPS, RANKINGS, Row
from posttrain.data.cache import Cache

def make(folder):
    (folder / "rows.arrow").write_bytes(b"half")
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

Cache(Path(sys.argv[1])).build("key", make)
"""


def test_a_kill_while_an_entry_is_written_leaves_none_and_the_next_build_clears_up(cache: Cache) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(cache.folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert Path(done.stdout.strip()).is_dir()
    assert cache.find("key") is None
    cache.build("key", lambda folder: None)
    assert names(cache) == ["key"]


def fill(folder: Path) -> None:
    (folder / "rows").write_bytes(bytes(100))


def test_the_least_recently_used_entries_go_first_and_none_that_is_in_use(tmp_path: Path) -> None:
    cache = Cache(tmp_path, largest=350)
    for age, key in enumerate("abc"):
        cache.build(key, fill).release()
        os.utime(tmp_path / key / "lock", (1_000 + age, 1_000 + age))
    held = cache.find("a")
    assert held is not None
    held.release()
    os.utime(tmp_path / "b" / "lock", (900, 900))
    in_use = cache.find("b")
    os.utime(tmp_path / "b" / "lock", (900, 900))
    cache.build("d", fill)
    assert names(cache) == ["a", "b", "d"]
    assert in_use is not None


@pytest.mark.parametrize("leap", [-(10.0**9), -7200.0, 7200.0, 10.0**9])
def test_a_clock_that_leaps_costs_no_entry_in_use_and_leaves_no_draft(leap: float, tmp_path: Path) -> None:
    cache, now = Cache(tmp_path, largest=250), time.time()
    (tmp_path / ".draft-of-a-kill").mkdir()
    os.utime(tmp_path / ".draft-of-a-kill", (now + leap, now + leap))
    in_use = cache.build("used", fill)
    cache.build("other", fill).release()
    os.utime(tmp_path / "used" / "lock", (now + leap, now + leap))
    for key in ("third", "fourth"):
        cache.build(key, fill).release()
    assert in_use.path.is_dir()
    assert {"used", "fourth"} <= set(names(cache))
    assert len(names(cache)) == 2  # bounded, whichever of the others the times made older


def test_of_two_builders_of_one_entry_both_have_it_and_one_stays(cache: Cache) -> None:
    def slower(folder: Path) -> None:
        (folder / "rows").write_text("mine")
        cache.build("key", faster)

    def faster(folder: Path) -> None:
        (folder / "rows").write_text("theirs")

    entry = cache.build("key", slower)
    assert (entry.path / "rows").read_text() == "mine"
    assert (cache.folder / "key" / "rows").read_text() == "theirs"
    del entry
    assert names(cache) == ["key"]


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Before the next lock is taken, another process acts."""
    real = fcntl.flock

    def acted(lock: int, kind: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        act()
        real(lock, kind)

    monkeypatch.setattr(fcntl, "flock", acted)


def test_a_draft_just_begun_is_not_cleared_away_by_another_process(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, lambda: Cache(cache.folder).build("other", fill))
    cache.build("key", fill)
    assert names(cache) == ["key", "other"]


def test_an_entry_that_is_removed_and_built_anew_while_it_is_found_is_not_held_by_its_old_lock(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replaced() -> None:
        shutil.rmtree(cache.folder / "key")
        Cache(cache.folder).build("key", fill)

    cache.build("key", fill).release()
    meanwhile(monkeypatch, replaced)
    assert cache.find("key") is None
    assert cache.find("key") is not None


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("POSTTRAIN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_home() == tmp_path / ".cache" / "posttrain"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_home() == Path("/x/posttrain")
    monkeypatch.setenv("POSTTRAIN_CACHE", "/own")
    assert cache_home() == Path("/own")
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "new"))
    assert Cache.open(silent).folder == tmp_path / "new" / "tokens"


def test_a_cache_that_cannot_be_written_is_said_and_one_for_the_process_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "file"))
    said: list[str] = []
    cache = Cache.open(said.append)
    assert f"cache: {tmp_path}/file/tokens cannot be used (Not a directory); tokens are kept in" in said[0]
    folder = cache.folder
    entry = cache.build("key", lambda folder: None)
    del cache
    assert entry.path.is_dir()
    del entry
    assert not folder.exists()


def test_a_file_that_is_no_entry_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    Cache(tmp_path, largest=0).build("a", lambda folder: None)
    assert (tmp_path / "notes.txt").read_text() == "mine"
