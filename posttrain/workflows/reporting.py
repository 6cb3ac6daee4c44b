"""Reports of runs, asked for or at a run's end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from posttrain.console import Console
from posttrain.errors import ModelError, PosttrainError
from posttrain.records import JSON
from posttrain.report.as_json import facts_of
from posttrain.report.comparison import comparison_of
from posttrain.report.parts import Section
from posttrain.report.reading import Read, read
from posttrain.report.report import Report, report_of
from posttrain.report.shown import size
from posttrain.report.writing import FILE, check_file, default_out, write
from posttrain.run import Run


def report(runs: Sequence[str | os.PathLike[str]], *, out: str = "", link: bool = False) -> Path:
    """The file with the report of a run, or of several side by side. `link`: plotly's script stands beside it.

    Raises ModelError for what is no run, DataError for a damaged file of one, and what `writing.write` raises.
    """
    target = Path(out) if out else default_out(runs)
    check_file(target)
    return write(made(runs), target, linked=link)


def facts(runs: Sequence[str | os.PathLike[str]]) -> dict[str, JSON]:
    """The same as plain JSON, every number as it was logged."""
    return facts_of(made(runs))


def made(runs: Sequence[str | os.PathLike[str]], *, title: str = "", first: Sequence[Section] = ()) -> Report:
    """The report of one run, or that compares several. `title` and the sections of `first` are of a comparison."""
    found = [_opened(run) for run in runs]
    if len(found) == 1 and not first:
        return report_of(found[0])
    return comparison_of(found, title=title, first=first)


def _opened(path: str | os.PathLike[str]) -> Read:
    """What is in a run folder. Raises ModelError for what is none, with the runs that it holds."""
    try:
        return read(path)
    except ModelError as error:
        within = sorted(record.parent.parent for record in Path(path).glob("**/run/run.json"))
        if Run(Path(path)).exists() or not within:
            raise
        shown = " ".join(str(run) for run in within[:8])
        raise ModelError(f"{error}\n  fix: posttrain report {shown}") from error


def ended(result: object, console: Console) -> None:
    """Writes the page of what a command returns, where that is a run that has none yet or has just been done."""
    if isinstance(result, Run) and _has_no_page(result):
        at_end(result.path, console)


def failed(out: str | None, console: Console) -> None:
    """Writes the page of a run that this process began in `out`, and that has failed."""
    if out is None or not Run(Path(out)).exists():
        return
    with suppress(PosttrainError):  # a damaged run is no matter here: what was raised is told
        record = Run(Path(out)).record
        if record["status"] == "failed" and record.get("process") == os.getpid():
            at_end(Path(out), console)


def _has_no_page(run: Run) -> bool:
    """Whether the page of a run is missing, or older than what run.json says of it."""
    page, record = run.path / FILE, run.path / "run" / "run.json"
    return not page.is_file() or page.stat().st_mtime_ns < record.stat().st_mtime_ns


def at_end(path: Path, console: Console) -> None:
    """Writes the page of a run that has just ended. Whatever goes wrong with it is said, and ends nothing."""
    try:
        written = report([path])
    except Exception as error:  # a run is worth more than its page: a fault of ours may not fail it
        console.say(f"no {FILE}: {_why(error)}; posttrain report {path} tries again")
        return
    console.say(f"report: {written} ({size(written.stat().st_size)}, opens offline)")


def together(
    runs: Sequence[Path], folder: Path, console: Console, *, title: str, first: Sequence[Section] = ()
) -> None:
    """Writes a page for each run and, into `folder`, one that compares them; what goes wrong is said."""
    for run in runs:
        at_end(run, console)
    try:
        write(made(runs, title=title, first=first), folder / FILE)
    except Exception as error:  # as above
        console.say(f"no {folder / FILE}: {_why(error)}")
        return
    console.say(f"report: {folder / FILE} compares them")


def _why(error: Exception) -> str:
    return str(error).split("\n")[0] if isinstance(error, PosttrainError | OSError) else repr(error)
