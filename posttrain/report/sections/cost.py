"""What a run took: time, tokens, memory, and what had been foreseen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from posttrain.report.facts import is_number, mapping, text
from posttrain.report.parts import Cell, Chart, Folded, Part, Section, Series, Table
from posttrain.report.reading import Read
from posttrain.report.shown import between, day, duration, size


def cost(run: Read) -> Section:
    """Time and tokens, the forecast beside what came, and the machine."""
    seconds = training_seconds(run)
    parts: list[Part] = [Table(columns=["", "took", "forecast"], rows=[*_time(run, seconds), *_room(run)])]
    parts.append(Table(columns=["machine", ""], rows=_machine(run)))
    if pace := _pace(run):
        parts.append(Folded(title="Pace", parts=[pace]))
    facts = {"seconds": seconds, "tokens": tokens_of(run), "steps": len(run.metrics)}
    return Section(id="cost", title="What it took", parts=parts, facts=facts)


def training_seconds(run: Read) -> float | None:
    """Seconds of training, over all times that the run went on; None before its first step."""
    known = [row["seconds"] for row in run.metrics if is_number(row.get("seconds"))]
    return max(known) if known else None


def tokens_of(run: Read) -> float | None:
    """Tokens that were trained on, or answers' tokens that were sampled; None where no step counted any."""
    known = [row["tokens"] for row in run.metrics if is_number(row.get("tokens"))]
    return sum(known) if known else None


def _time(run: Read, seconds: float | None) -> list[list[Cell]]:
    forecast = mapping(run.record, "forecast")
    foreseen, planned_steps = forecast.get("seconds"), forecast.get("steps")
    at_most = "at most " if forecast.get("at_most") else ""
    planned = at_most + duration(foreseen) if is_number(foreseen) else ""
    steps = len([row for row in run.metrics if row["step"]])
    rows: list[list[Cell]] = [
        ["started", day(run.record["started"]), ""],
        ["ended", day(text(run.record, "ended")) or f"not yet: {run.record['status']}", ""],
    ]
    whole = between(run.record["started"], text(run.record, "ended"))
    if whole is not None:
        rows.append(["from start to end", duration(whole), ""])
    rows.append(["training", "" if seconds is None else duration(seconds), planned])
    rows.append(["steps", steps, planned_steps if is_number(planned_steps) else None])
    if resumes := run.record.get("resumes"):
        rows.append(["times it went on after an interruption", len(resumes), ""])
    tokens = tokens_of(run)
    if tokens is not None:
        rows.append(["tokens", int(tokens), ""])
        if seconds:
            rows.append(["tokens a second", tokens / seconds, ""])
    return rows


def _room(run: Read) -> list[list[Cell]]:
    """Memory and disk as the forecast had them; what a part took is not measured."""
    forecast = mapping(run.record, "forecast")
    memory, disk = mapping(forecast, "memory"), mapping(forecast, "disk")
    rows: list[list[Cell]] = [
        [f"memory · {name}", "", size(taken)] for name, taken in memory.items() if is_number(taken)
    ]
    if is_number(growth := forecast.get("growth")):
        rows.append(["memory · beyond the weights, at its highest", "", size(growth)])
    return rows + [[f"disk · {name}", "", size(taken)] for name, taken in disk.items() if is_number(taken)]


def _machine(run: Read) -> list[list[Cell]]:
    found = {**mapping(run.record, "machine"), **mapping(run.record, "hardware")}
    return [[name, str(value)] for name, value in found.items()]


def _pace(run: Read) -> Chart | None:
    """Seconds a step, by the steps that follow one another."""
    rows: Sequence[tuple[int, float]] = [
        (row["step"], row["seconds"]) for row in run.metrics if is_number(row.get("seconds"))
    ]
    found = [(after[0], after[1] - before[1]) for before, after in pairwise(rows)]
    if not found:
        return None
    series = Series(name="seconds", x=[float(step) for step, _ in found], y=[taken for _, taken in found])
    return Chart(id="pace", title="seconds a step", series=[series], about="evaluation and saving included")
