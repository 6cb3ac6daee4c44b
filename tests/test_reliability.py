"""docs/reliability.md: every test that its tables name is there; and faults that only a whole command shows."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from commands import stopped_at_its_end
from killing import differing, remains
from stages import write_rows

from posttrain.cli import main
from posttrain.recipes import opening
from posttrain.run import Run, RunWriter

NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows_of(repository: Path, heading: str) -> list[list[str]]:
    """The cells of each row of the table under a heading of the page."""
    page = (repository / "docs" / "reliability.md").read_text(encoding="utf-8")
    lines = [line for line in page.partition(f"## {heading}")[2].partition("\n## ")[0].splitlines() if line[:2] == "| "]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


@pytest.mark.parametrize(("heading", "least", "cells"), [("Faults", 25, 4), ("What others wrote", 7, 3)])
def test_every_row_names_the_tests_that_provoke_it_and_each_is_there(
    heading: str, least: int, cells: int, repository: Path
) -> None:
    found = rows_of(repository, heading)
    assert len(found) >= least
    for row in found:
        assert len(row) == cells, row
        assert all(row), row
        tests = NAMED.findall(row[1])
        assert tests, f"no test is named: {row}"
        assert re.sub(NAMED, "", row[1]).strip(" ,") == "", row
        for file, name in tests:
            tree = ast.parse((repository / file).read_text(encoding="utf-8"))
            there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert name in there, f"{file} has no {name}"


def words(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    given = "--steps 6 --batch_size 4 --eval_data null --save_every 2 --quiet"
    return ["sft", "--model", str(model), "--data", str(data), "--out", str(out), *given.split(), *more]


def test_a_gradient_that_is_not_finite_ends_the_run_with_code_4_and_names_the_rows(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"{n} =", "response": str(n)} for n in range(16)])
    out = tmp_path / "run"
    assert main(words(tiny_model, rows, out, "--learning_rate", "1e38", "--weight_decay", "0")) == 4
    error = capsys.readouterr().err
    assert re.search(r"error: .* is not (a number|finite); nothing was updated", error), error
    named = re.search(r"\n  rows in the batch: (rows\.jsonl:\d+(?:, )?){4}\n", error)
    assert named, error
    assert "Traceback" not in error
    run = Run.open(out)
    assert run.status == "failed"
    assert all(row["loss"] is not None for row in run.metrics)
    assert not list(out.glob("*.safetensors"))


def test_a_file_that_was_cut_and_grew_since_is_refused_and_the_cut_one_goes_on(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"{n} =", "response": str(n)} for n in range(32)])
    whole = rows.read_bytes()
    cut = whole[: whole.rindex(b'"prompt"') + 12]  # in the middle of the last row
    rows.write_bytes(cut)
    assert main(words(tiny_model, rows, tmp_path / "plain")) == 0
    stopped_at_its_end(words(tiny_model, rows, tmp_path / "run"))
    problems = [json.loads(line) for line in (tmp_path / "run/run/problems.jsonl").read_text().splitlines()]
    assert [problem["place"] for problem in problems] == [f"{rows}:32"]
    rows.write_bytes(whole)
    capsys.readouterr()
    assert main(words(tiny_model, rows, tmp_path / "run")) == 2
    assert (
        f"holds another run; what differs (there -> here):\n    {rows}: its content changed" in capsys.readouterr().err
    )
    rows.write_bytes(cut)
    assert main(words(tiny_model, rows, tmp_path / "run")) == 0
    assert differing(remains(tmp_path / "plain"), remains(tmp_path / "run")) == []


def test_a_file_that_changes_between_its_reading_and_its_hash_ends_the_run_before_its_first_step(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"{n} =", "response": str(n)} for n in range(16)])
    create = opening.RunWriter.create

    def later(*given: Any, **named: Any) -> RunWriter:
        with rows.open("a") as file:
            file.write('{"prompt": "one more", "response": "row"}\n')
        return create(*given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(opening.RunWriter, "create", later)
        assert main(words(tiny_model, rows, tmp_path / "run")) == 2
    assert f"{rows}  the file changed while it was read: it was " in capsys.readouterr().err
    assert Run.open(tmp_path / "run").metrics == []
    assert main(words(tiny_model, rows, tmp_path / "run")) == 0
    assert "rows.jsonl: 17 rows" in (tmp_path / "run" / "run" / "log.txt").read_text()
