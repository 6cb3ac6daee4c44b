"""The shape of the house: a file answers one question, a function fits on a screen, a name says what a thing is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ["posttrain", "tests", "benchmarks", "examples"]
FILES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "manager", "base"}


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_is_under_400_lines_and_its_functions_under_60(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400, f"{name_of(file)} answers more than one question: look for the second"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= 60, f"{name_of(file)}:{node.lineno} {node.name} has {lines} lines"


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_says_what_it_is_for_and_has_a_name_that_says_so_too(file: Path) -> None:
    assert not EMPTY_NAMES & {*file.relative_to(ROOT).with_suffix("").parts}
    text = file.read_text(encoding="utf-8")
    assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{name_of(file)} has no docstring"


def test_test_files_have_unique_names_because_their_folders_are_no_packages() -> None:
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_public_functions_and_classes_of_the_package_say_what_they_are() -> None:
    bare = [
        f"{name_of(file)}:{node.lineno} {node.name}"
        for file in (ROOT / "posttrain").rglob("*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not bare
