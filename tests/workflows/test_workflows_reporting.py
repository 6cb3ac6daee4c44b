"""Reports on demand and at the end of runs: a page for what ended, and no run that fails for its page."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from reported import change, written

import posttrain as pt
from posttrain.cli import main
from posttrain.console import Console, Lines
from posttrain.console.speaker import Terminal
from posttrain.errors import ModelError, RunExists
from posttrain.run import Run
from posttrain.workflows import reporting


@pytest.fixture
def said() -> io.StringIO:
    """What a console says."""
    return io.StringIO()


def console(said: io.StringIO) -> Console:
    return Console(Lines(Terminal(file=said, soft_wrap=True)))


def test_a_training_ends_with_its_page_and_as_well_without_one(
    tiny_model: Path, tmp_path: Path, pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"{n} + {n} =", "completion": str(2 * n)} for n in range(12)]
    data, out = tmp_path / "train.jsonl", tmp_path / "run"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {
        "model": str(tiny_model),
        "data": str(data),
        "out": str(out),
        "steps": 2,
        "batch_size": 4,
    }
    pt.sft(**settings, quiet=True)
    page = out / "report.html"
    assert "sft from" in page.read_text(encoding="utf-8")
    first = page.stat().st_mtime_ns
    pt.sft(**settings, quiet=True)  # it is done already
    assert page.stat().st_mtime_ns == first
    page.unlink()
    pt.sft(**settings, quiet=True)
    assert page.is_file()
    page.unlink()

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reporting, "ended", denied)
    monkeypatch.setattr(reporting, "failed", denied)
    assert pt.sft(**settings, quiet=True).status == "done"
    with pytest.raises(RunExists, match="another run"):
        pt.sft(**{**settings, "steps": 3}, quiet=True)
    monkeypatch.setitem(sys.modules, "posttrain.workflows.reporting", None)  # as if it were deleted
    assert pt.sft(**settings, quiet=True).status == "done"
    assert not page.exists()


def test_a_run_that_failed_has_a_page_and_one_of_another_process_is_left_alone(
    tmp_path: Path, pages: None, said: io.StringIO
) -> None:
    run = written(tmp_path / "run", "ppo", ending="failed")
    reporting.failed(str(run), console(said))
    assert "report: " in said.getvalue()
    assert " · failed · " in (run / "report.html").read_text(encoding="utf-8")
    (run / "report.html").unlink()
    for other in (change(run, process=1), tmp_path / "none", written(tmp_path / "live", ending="running")):
        reporting.failed(str(other), console(said))
        assert not (other / "report.html").exists()
    reporting.failed(None, console(said))


def test_what_goes_wrong_with_a_page_is_said_and_ends_nothing(
    tmp_path: Path, pages: None, said: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = written(tmp_path / "run")
    (run / "report.html").mkdir()
    reporting.ended(Run(run), console(said))
    assert "no report.html: " in said.getvalue()
    assert "is a folder; posttrain report" in said.getvalue()

    def broken(*_: object, **__: object) -> None:
        raise KeyError("score")

    monkeypatch.setattr(reporting, "made", broken)
    other = written(tmp_path / "other")
    reporting.at_end(other, console(said))
    reporting.together([other], tmp_path, console(said), title="both")
    assert said.getvalue().count("KeyError('score')") == 3
    reporting.ended({"accuracy": 1}, console(said))  # of a command that trains nothing


def test_runs_together_have_a_page_each_and_one_that_compares_them(
    tmp_path: Path, pages: None, said: io.StringIO
) -> None:
    runs = [written(tmp_path / name, name) for name in ("sft", "dpo")]
    reporting.together(runs, tmp_path, console(said), title="The two")
    assert [run.joinpath("report.html").is_file() for run in runs] == [True, True]
    assert "2 runs side by side" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_command_writes_a_page_or_what_its_name_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (written(Path("runs") / name) for name in ("odd $(name)", "b"))
    assert main(["report", str(first)]) == 0
    assert capsys.readouterr().out == "wrote runs/odd $(name)/report.html\n"
    assert main(["report", str(first), str(second), "--out", "both.md", "--quiet"]) == 0
    assert capsys.readouterr().out == "both.md\n"
    assert main(["report", str(second), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "b"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["both.md", "runs"]
    assert not (second / "report.html").exists()
    assert pt.report_of(second, out="b.html", link=True) == Path("b.html")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "error: report  needs a run folder\n  fix: posttrain report RUN\n"),
        (["none"], "error: none is no run folder: it has no run/run.json\n"),
        (["runs"], "error: runs is no run folder: it has no run/run.json\n  fix: posttrain report runs/a\n"),
        (["runs/a", "--out", "runs"], "error: runs is a folder\n  fix: give the name of a file in it, such as --out "),
        (["runs/a", "--linked"], "error: --linked  unknown flag; did you mean --link?\n"),
    ],
)
def test_what_is_asked_wrong_is_told(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    written(Path("runs/a"), steps=1)
    assert main(["report", *words]) == 2
    assert capsys.readouterr().err.startswith(says)


def test_a_damaged_run_is_told_in_python_too(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no run folder"):
        pt.report_of(tmp_path)
