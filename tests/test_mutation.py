"""Mutation testing: of one small module here, of all of `ops` in the slow suite and by `make mutation`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def mutation(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.mutation", *words]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=7200)


@pytest.mark.medium
def test_every_small_change_of_a_module_is_seen(repository: Path) -> None:
    done = mutation(repository, "ensemble")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changes are seen: 100.0%" in done.stdout


def test_a_module_that_there_is_not_is_an_error(repository: Path) -> None:
    done = mutation(repository, "nothing")
    assert done.returncode == 2
    assert "no module of ops is named nothing; there are credit, " in done.stderr


@pytest.mark.slow
def test_nine_of_ten_changes_of_ops_are_seen(repository: Path) -> None:
    done = mutation(repository)
    assert done.returncode == 0, done.stdout + done.stderr
