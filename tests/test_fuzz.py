"""Mutated files: those that once broke something do no more, and new ones are accepted or refused in our own words."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fuzzing.cases import Case, cases
from fuzzing.doors import Broken, Kind, Told, through
from fuzzing.guard import Guard, guarded
from fuzzing.kinds import KINDS
from fuzzing.mutators import mutated, mutators_of
from fuzzing.shrinking import shrunk

from posttrain.errors import DataError


@pytest.mark.parametrize("path", list(cases()), ids=lambda path: path.stem)
def test_an_input_that_broke_something_is_accepted_or_refused_by_name(path: Path, tmp_path: Path) -> None:
    case = Case.read(path)
    assert case.showed
    through(KINDS[case.kind], case.files, tmp_path)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_what_inputs_are_made_of_is_of_use_before_it_is_changed(kind: Kind, tmp_path: Path) -> None:
    seeds = kind.seeds()
    used = 0
    for number, files in enumerate([seeds[0], seeds[-1]]):
        (tmp_path / str(number)).mkdir()
        used += through(kind, files, tmp_path / str(number))
    assert used


def fuzz(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "tests.fuzz", *words]
    return subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=3600)


@pytest.mark.medium
def test_hundreds_of_mutated_inputs_are_accepted_or_refused_in_our_own_words(repository: Path, tmp_path: Path) -> None:
    done = fuzz(repository, "--count", "300", "--seed", "0", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["kind", *KINDS, "all"]


@pytest.mark.slow
def test_ten_thousand_mutated_inputs_are_accepted_or_refused_in_our_own_words(repository: Path, tmp_path: Path) -> None:
    done = fuzz(repository, "--count", "10000", "--seed", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    total = int(done.stdout.splitlines()[-1].split()[1].replace(",", ""))
    assert total >= 10_000


# --- the fuzzer itself ----------------------------------------------------------------------------------------------


def kind_of(what: BaseException | str) -> Kind:
    """A kind whose door does as it is told."""

    def door(folder: Path, told: Told) -> bool:
        if isinstance(what, DataError):
            told.attempt(lambda: (_ for _ in ()).throw(what))
            return False
        if isinstance(what, BaseException):
            raise what
        return True

    return Kind(name="made", seeds=lambda: [{"a.txt": b"x"}], door=door)


def test_an_error_of_another_kind_goes_through_and_one_of_ours_must_name_the_file(tmp_path: Path) -> None:
    files = {"a.txt": b"x"}
    assert through(kind_of(""), files, tmp_path)
    assert not through(kind_of(DataError("a.txt:3  is wrong")), files, tmp_path)
    with pytest.raises(Broken, match="names none of"):
        through(kind_of(DataError("it is wrong")), files, tmp_path)
    with pytest.raises(KeyError):
        through(kind_of(KeyError("x")), files, tmp_path)


def test_the_same_seed_changes_a_file_in_the_same_way(tmp_path: Path) -> None:
    seeds = KINDS["settings"].seeds()
    first, again = (
        [mutated(seeds[0], seeds, random.Random(number), fixed=frozenset()) for number in range(50)] for _ in range(2)
    )
    assert first == again
    assert len({str(files) for files in first}) > 40


@pytest.mark.parametrize(
    "name", ["x.jsonl", "x.json", "x.yaml", "x.csv", "x.txt", "x.safetensors", "x.db", "x.parquet"]
)
def test_every_mutator_takes_every_content(name: str) -> None:
    for content in (b"", b"\xff\x00", b'{"a": [1, {"b": null}]}\n{"a": 2}\n', b"a: 1\nb: [x]\n"):
        for number, change in enumerate(mutators_of(name)):
            assert isinstance(change(content, random.Random(number)), bytes)


def test_work_that_hangs_dies_or_fills_the_memory_is_told_and_the_rest_goes_on() -> None:
    def work(number: int) -> str:
        if number == 1:
            while True:
                pass
        if number == 2:
            os.kill(os.getpid(), 9)
        if number == 3:
            try:
                return str(len(bytearray(1 << 40)))
            except MemoryError:
                return "no memory"
        return "fine"

    told = dict(guarded(work, 5, Guard(seconds=0.2)))
    hangs, killed = "Hangs: it takes too long", "killed by SIGKILL"
    assert told == {0: "fine", 1: hangs, 2: killed, 3: "no memory", 4: "fine"}


@pytest.mark.medium
def test_work_that_waits_for_ever_is_told() -> None:
    def work(number: int) -> str:
        time.sleep(600)
        return "fine"

    assert dict(guarded(work, 1, Guard(patience=3.0))) == {0: "Hangs: no answer"}


def test_a_case_comes_back_as_it_was_written(tmp_path: Path) -> None:
    case = Case(kind="data", showed="KeyError", files={"a/b.txt": "é\u2028".encode(), "c.bin": b"\xff\x00", "d/": b""})
    case.write(tmp_path / "case.json")
    assert Case.read(tmp_path / "case.json") == case


def test_an_input_is_shrunk_to_what_breaks() -> None:
    files = {"a": b"some text\n" * 20 + b"BREAKS" + b"\nmore" * 30, "b": b"x" * 100, "c/": b""}
    small = shrunk(files, lambda files: b"BREAKS" in files.get("a", b""))
    assert list(small) == ["a"]
    assert b"BREAKS" in small["a"]
    assert len(small["a"]) < 40
