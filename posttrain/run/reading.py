"""The JSON of a run folder as it is read: whole, of the right kinds, or said to be damaged with file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from posttrain.errors import DataError, Problem
from posttrain.run.fingerprints import FIX, json_lines

_NEEDED: dict[str, type] = {"command": str, "status": str, "started": str, "parents": dict}
_ALSO: dict[str, type] = {
    **dict.fromkeys(("data", "files", "results", "versions", "hardware", "machine", "automatic"), dict),
    "id": str,
    "resumes": list,
}
_STATUSES = ("running", "done", "failed", "interrupted")


def checked_record(file: Path) -> dict[str, Any]:
    """What run.json says. Raises DataError for what is no JSON, lacks what every run writes, or is of another kind."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise _damaged(str(file), f"cannot be read: {(error.strerror or str(error)).lower()}") from error
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(str(file), f"is not JSON: {str(error).partition(';')[0]}") from error
    if not isinstance(found, dict):
        raise _damaged(str(file), f"is no object, but a {type(found).__name__}")
    record = cast("dict[str, Any]", found)
    for name, kind in {**_NEEDED, **_ALSO}.items():
        if not isinstance(record.get(name, kind()), kind):
            raise _damaged(str(file), f"{name} is not what a run writes: {record[name]!r:.40}")
    if not all(isinstance(each, dict) for each in record.get("resumes", [])):
        raise _damaged(str(file), "resumes is not what a run writes")
    for name in _NEEDED.keys() - record.keys():
        raise _damaged(str(file), f"has no {name}")
    if record["status"] not in _STATUSES:
        raise _damaged(str(file), f"status is {record['status']!r:.40}, expected one of {', '.join(_STATUSES)}")
    if not all(isinstance(parent, dict) for parent in record["parents"].values()):
        raise _damaged(str(file), "parents is not what a run writes")
    return record


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON lines, each with its step; none when there is no file.

    A last line that a kill cut short is left out. Raises DataError, with the line, for any other that is damaged.
    """
    for _, row in _numbered(file):
        yield row


def read_metrics(file: Path) -> dict[int, dict[str, Any]]:
    """The metrics of every step that has some; the lines of a step, which is written as one, are put together.

    Raises DataError, with the line, as read_lines and for a metric that stands there for a step already.
    """
    steps: dict[int, dict[str, Any]] = {}
    for number, row in _numbered(file):
        known = steps.setdefault(row["step"], {})
        if twice := [name for name in row if name in known and name not in ("step", "seconds")]:
            raise _damaged(f"{file}:{number}", f"step {row['step']} has {twice[0]!r:.40} a second time")
        known.update(row)
    return steps


def _numbered(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in json_lines(file):
        if type(row.get("step")) is not int:
            raise _damaged(f"{file}:{number}", f"step is {row.get('step')!r:.40}, expected a whole number")
        yield number, row


def _damaged(place: str, what: str) -> DataError:
    return DataError([Problem(place=place, what=f"damaged: {what}", fix=FIX)])
