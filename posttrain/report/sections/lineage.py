"""Where a run comes from: the models that it starts from and theirs, and its data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from posttrain.report.facts import mapping, text
from posttrain.report.parts import Cell, Code, Part, Prose, Section, Table
from posttrain.report.reading import Read
from posttrain.report.shown import day
from posttrain.run.folder import Facts


def lineage(run: Read) -> Section:
    """The chain of runs that led here, every model that took part, and the data by their content."""
    chain = [*reversed([_called(parent) for parent in _starts(run.record)]), f"{_name(run.path)} ({run.command})"]
    parts: list[Part] = [Code(text=" → ".join(chain))]
    if models := list(_models(run.record)):
        parts.append(Table(columns=["as", "model", "made by", "on", "content"], rows=models))
    files = {**mapping(run.record, "data"), **mapping(run.record, "files")}
    rows: list[list[Cell]] = [[name, str(found)[:12]] for name, found in files.items()]
    if rows:
        parts.append(Table(columns=["data and code", "content"], rows=rows))
    else:
        parts.append(Prose(text="No data file: what it learnt from are its own answers, or rows given in memory."))
    return Section(id="lineage", title="Where it comes from", parts=parts, facts={"chain": [*chain]})


def _starts(record: Facts) -> Iterator[Facts]:
    """The model that a run started from, and the one that that started from."""
    parent = mapping(record, "parents", "model")
    while parent:
        yield parent
        parent = mapping(parent, "parents", "model")


def _models(record: Facts, depth: int = 0, seen: set[str] | None = None) -> Iterator[list[Cell]]:
    """A row a model, those that it comes from below it; what a model comes from stands once."""
    seen = set[str]() if seen is None else seen
    for role in mapping(record, "parents"):
        parent = mapping(record, "parents", role)
        name, made, started = (text(parent, key) for key in ("name", "command", "started"))
        known = name in seen and bool(mapping(parent, "parents"))
        when = day(started) if started else ""
        yield ["· " * depth + role, name, f"{made}, as above" if known else made, when, text(parent, "content")[:12]]
        seen.add(name)
        if not known:
            yield from _models(parent, depth + 1, seen)


def _called(parent: Facts) -> str:
    made = text(parent, "command")
    return _name(Path(text(parent, "name"))) + (f" ({made})" if made else "")


def _name(path: Path) -> str:
    return path.name or str(path)
