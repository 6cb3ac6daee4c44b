"""The shape of the house: a file answers one question, a function fits on a screen, a name says what a thing is."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ["posttrain", "tests", "benchmarks", "examples"]
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "manager", "base"}


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def files_in(folder: str) -> Sequence[Path]:
    """The Python files of a folder, which are some."""
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found
    return found


class Shape(NamedTuple):
    """What the rules of the house ask of a file: its length, whether it says what it is, and of its functions."""

    lines: int
    bare: bool
    long_functions: Sequence[str]
    bare_names: Sequence[str]


@cache
def shape(file: Path) -> Shape:
    """The shape of a file, which is parsed once for all tests."""
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [(node, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions]
    at = name_of(file)
    return Shape(
        lines=len(text.splitlines()),
        bare=bool(text.strip()) and not ast.get_docstring(tree),
        long_functions=[f"{at}:{node.lineno} {node.name} has {lines} lines" for node, lines in lengths if lines > 60],
        bare_names=[
            f"{at}:{node.lineno} {node.name}"
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
        ],
    )


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_file_is_under_400_lines_and_its_functions_under_60(folder: str) -> None:
    long = {name_of(file): shape(file).lines for file in files_in(folder) if shape(file).lines >= 400}
    assert long == {}, "they answer more than one question: look for the second"
    assert [function for file in files_in(folder) for function in shape(file).long_functions] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_file_says_what_it_is_for_and_has_a_name_that_says_so_too(folder: str) -> None:
    files = files_in(folder)
    assert [file for file in files if EMPTY_NAMES & {*file.relative_to(ROOT).with_suffix("").parts}] == []
    assert [file for file in files if shape(file).bare] == []


def test_test_files_have_unique_names_because_their_folders_are_no_packages() -> None:
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_public_functions_and_classes_of_the_package_say_what_they_are() -> None:
    assert [name for file in files_in("posttrain") for name in shape(file).bare_names] == []
