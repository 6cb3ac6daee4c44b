"""Planted faults: the list does not rot, each fault is seen by a test, and one that no test sees is told."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from planted import FAULTS, Fault


def faults(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.faults", *words]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=1800)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_fault_is_of_a_line_that_stands_once_and_its_tests_exist(fault: Fault, repository: Path) -> None:
    text = (repository / "posttrain" / fault.file).read_text(encoding="utf-8")
    lines = [line.strip() for line in text.splitlines()]
    assert lines.count(fault.before) == 1, "the line has changed: look at the fault again"
    assert fault.after != fault.before
    assert fault.tests
    assert all((repository / "tests" / test).is_file() for test in fault.tests)


def test_the_faults_are_many_and_over_all_rooms_that_compute() -> None:
    rooms = Counter(fault.file.split("/")[0].removesuffix(".py") for fault in FAULTS)
    assert len(FAULTS) >= 24
    assert {"ops", "models", "data", "rollout", "objectives", "loop", "engine", "recipes"} <= set(rooms)
    assert len({fault.what for fault in FAULTS}) == len(FAULTS)


@pytest.mark.medium
def test_some_faults_are_seen(repository: Path) -> None:
    done = faults(repository, "ragged", "ops/kl")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "whitening does not centre\n      seen by ops/test_ops_ragged.py::" in done.stdout
    assert done.stdout.endswith("5 of 5 faults are seen\n")


def test_words_that_no_fault_has_are_an_error(repository: Path) -> None:
    done = faults(repository, "nothing like it")
    assert done.returncode == 2
    assert "no fault has nothing like it in its file or description" in done.stderr


@pytest.mark.slow
def test_every_fault_is_seen(repository: Path) -> None:
    done = faults(repository)
    assert done.returncode == 0, done.stdout + done.stderr
