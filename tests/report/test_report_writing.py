"""Reports as files: the name says what they are, nothing but a report is written over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from read_at_hand import a_run

from posttrain.errors import ConfigError, FolderError, RunExists
from posttrain.report.parts import Prose, Section
from posttrain.report.report import Report
from posttrain.report.scripts import PLOTLY, plotly
from posttrain.report.writing import check_file, default_out, write

REPORT = Report(
    title="run", line="", runs=[a_run()], sections=[Section(id="s", title="S", parts=[Prose(text="é \ud800")])]
)


@pytest.mark.parametrize("name", ["report.html", "notes/report.md", "report.json"])
def test_a_report_is_written_and_written_over(tmp_path: Path, name: str) -> None:
    first = write(REPORT, tmp_path / name).read_bytes()
    assert write(REPORT, tmp_path / name).read_bytes() == first
    assert "é".encode() in first
    if name.endswith("json"):
        assert json.loads(first)["title"] == "run"


def test_plotly_stands_beside_a_linked_page(tmp_path: Path) -> None:
    assert write(REPORT, tmp_path / "report.html", linked=True).stat().st_size < 200_000
    assert (tmp_path / PLOTLY).read_text(encoding="utf-8") == plotly()


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("report.pdf", ConfigError, r"'report\.pdf' is no kind of report; there are \.html, \.md, \.json"),
        ("folder.html", RunExists, r"is a folder\n  fix: give the name of a file in it"),
        ("README.md", RunExists, r"exists and is no report"),
        ("page.html", RunExists, r"exists and is no report"),
        ("file/report.html", FolderError, r"cannot be written: "),
    ],
)
def test_what_is_no_report_is_left_alone(tmp_path: Path, name: str, error: type[Exception], says: str) -> None:
    (tmp_path / "folder.html").mkdir()
    for theirs in ("README.md", "page.html", "file"):
        (tmp_path / theirs).write_text("# Mine\n")
    with pytest.raises(error, match=says):
        write(REPORT, tmp_path / name)
    assert (tmp_path / "README.md").read_text() == (tmp_path / "page.html").read_text() == "# Mine\n"


def test_a_report_goes_into_its_run_and_a_comparison_into_the_working_folder() -> None:
    assert default_out(["runs/ppo"]) == Path("runs/ppo/report.html")
    assert default_out(["runs/ppo", "runs/dpo"]) == Path("report.html")
    check_file(Path("no/such/folder/report.html"))
