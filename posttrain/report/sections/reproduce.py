"""How to come to the same run again: commands, settings, automatic choices, versions, hashes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress

from posttrain.records import JSON
from posttrain.report.facts import mapping, text
from posttrain.report.parts import Cell, Code, Folded, Part, Prose, Section, Table
from posttrain.report.reading import Read


def reproduce(run: Read) -> Section:
    """The commands that run it again and compare, then everything that its numbers depend on."""
    parts: list[Part] = [Code(text=commands(run)), Prose(text=_promise(run))]
    if automatic := mapping(run.record, "automatic"):
        rows = [[name, "null" if value is None else str(value)] for name, value in automatic.items()]
        parts.append(Table(columns=["chosen automatically", "came to"], rows=rows))
    versions: list[list[Cell]] = [[name, str(value)] for name, value in mapping(run.record, "versions").items()]
    seeds: list[list[Cell]] = [[name, str(value)] for name, value in mapping(run.record, "seeds").items()]
    parts.append(Table(columns=["version", ""], rows=[*versions, *seeds, ["run", text(run.record, "id")]]))
    if hashes := _hashes(run):
        parts.append(Folded(title="Hashes of what it read", parts=[Table(columns=["", "sha256"], rows=hashes)]))
    if settings := _settings(run):
        parts.append(Folded(title="All settings (run/config.yaml)", parts=[Code(text=settings)]))
    for name, source in mapping(run.record, "functions").items():
        parts.append(Folded(title=f"Code of {name}", parts=[Code(text=str(source))]))
    facts: dict[str, JSON] = {"commands": [*commands(run).split("\n")]}
    return Section(id="reproduce", title="How to run it again", parts=parts, facts=facts)


def commands(run: Read) -> str:
    """What to type, in the folder where the run was started."""
    out = str(run.settings.get("out") or run.path)
    again = f"{out.rstrip('/')}-again"
    words = [
        ["posttrain", run.command, f"{out}/run/config.yaml", "--out", again],
        ["posttrain", "runs", "diff", out, again],
    ]
    return "\n".join(shlex.join(each) for each in words)


def _promise(run: Read) -> str:
    """What the second run will be."""
    if "shortage" in run.record:
        return (
            "Memory ran out on the way, and micro-batches were halved from there on: running the settings again gives "
            "this run but for rounding."
        )
    where = text(mapping(run.record, "machine"), "where")
    return f"The same versions, threads and kind of machine{f' ({where})' if where else ''} give the same bits."


def _hashes(run: Read) -> list[list[Cell]]:
    files: Mapping[str, object] = {**mapping(run.record, "data"), **mapping(run.record, "files")}
    rows: list[list[Cell]] = [[name, str(found)] for name, found in files.items()]
    for role in mapping(run.record, "parents"):
        parent = mapping(run.record, "parents", role)
        if "content" in parent:
            rows.append([f"{role}: {text(parent, 'name')}", text(parent, "content")])
    return rows


def _settings(run: Read) -> str:
    """The settings as they stand in the run folder; nothing where they are gone since."""
    with suppress(OSError, UnicodeDecodeError):
        return (run.path / "run" / "config.yaml").read_text(encoding="utf-8").strip()
    return ""
