"""A report as a file: a page, Markdown, or JSON, by the name of the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from posttrain.errors import ConfigError, FolderError, Problem, RunExists
from posttrain.report import scripts
from posttrain.report.as_json import facts_of
from posttrain.report.html import page
from posttrain.report.markdown import MARK, markdown
from posttrain.report.report import Report
from posttrain.run.record import write_whole

FILE = "report.html"
_WRITERS: dict[str, Callable[[Report], str]] = {
    ".html": page,
    ".md": markdown,
    ".json": lambda report: json.dumps(facts_of(report), ensure_ascii=False, indent=1) + "\n",
}
_SIGNS = {".html": '<meta name="generator" content="posttrain report">', ".md": MARK, ".json": '{\n "title"'}


def check_file(out: Path) -> None:
    """Raises ConfigError for a name of no kind of report, RunExists for a folder and for a file that is no report."""
    if out.is_dir():
        raise RunExists(f"{out} is a folder\n  fix: give the name of a file in it, such as --out {out / FILE}")
    if out.suffix not in _WRITERS:
        what = f"{out.name!r} is no kind of report; there are {', '.join(_WRITERS)}"
        raise ConfigError([Problem(place="--out", what=what, fix=f"name it {out.stem or 'report'}.html")])
    if out.exists() and not _is_report(out):
        raise RunExists(f"{out} exists and is no report\n  fix: give another --out, or remove it")


def write(report: Report, out: Path, *, linked: bool = False) -> Path:
    """Writes the report and returns its path. `linked`: plotly's script goes into a file beside a page, not into it.

    Raises what check_file raises, and FolderError where it cannot be written.
    """
    check_file(out)
    text = page(report, linked=linked) if out.suffix == ".html" else _WRITERS[out.suffix](report)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if linked and out.suffix == ".html":
            write_whole(out.parent / scripts.PLOTLY, scripts.plotly())
        write_whole(out, text)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise FolderError(f"{out} cannot be written: {why}\n  fix: give another --out") from error
    return out


def default_out(runs: Sequence[str | os.PathLike[str]]) -> Path:
    """Where a report goes unasked: into the folder of its run; a comparison into the working folder."""
    return Path(runs[0]) / FILE if len(runs) == 1 else Path(FILE)


def _is_report(file: Path) -> bool:
    """Whether a report wrote this file, so that another may take its place."""
    with suppress(OSError), file.open("rb") as opened:
        return _SIGNS[file.suffix].encode() in opened.read(1024)
    return False
