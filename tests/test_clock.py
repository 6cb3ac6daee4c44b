"""A clock of the machine that leaps, back and forth: durations, time left and results do not notice."""

from __future__ import annotations

import ast
import datetime
import io
import json
import re
import time
from itertools import cycle
from pathlib import Path

import pytest
from killing import differing, remains
from rich.console import Console as Terminal
from stages import write_rows

import posttrain
from posttrain.console import Console, Lines, progress
from posttrain.run import record, writer

PACKAGE = Path(__file__).resolve().parent.parent / "posttrain"
LEAPS = (0.0, 86_400.0, -86_400.0, 3e9, -1e9)
"""Seconds by which the clock is wrong, one look after another."""
TOLD = {
    "run/record.py",
    "run/writer.py",
    "console/progress.py",
    "data/cache.py",
    "feedback/desk.py",
    "feedback/ledger.py",
    "feedback/statistics.py",
    "feedback/server.py",
}
"""Who asks the clock of the machine: for times that are written or shown, and for the age of what a kill left.

Of the ranking page: until when an item is held for a person (`ledger`, whose clock `desk` and `server` pass on), and
the pace that people are told (`statistics`). A wrong clock hands an item out twice or late; it loses no ranking.
"""


class Leaping(datetime.datetime):
    """A clock that is wrong by another amount at every look."""

    wrong = cycle(LEAPS)

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Leaping:
        return cls.fromtimestamp(time.monotonic() + 1e9 + next(cls.wrong), tz)


def test_only_what_is_told_to_people_asks_the_clock_of_the_machine() -> None:
    asking = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "datetime.now", "time.localtime")
    }
    assert asking <= TOLD


def test_the_time_left_is_never_negative_and_the_time_of_day_may_be_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "datetime", Leaping)
    text = io.StringIO()
    console = Console(Lines(Terminal(file=text, width=200, soft_wrap=True)))
    console.start("sft", 20)
    for step in range(1, 21):
        console.step(step, {"loss": 1.0, "tokens": 10.0})
    lines = [line for line in text.getvalue().splitlines() if " left " in line]
    assert len(lines) == 19
    assert all(re.search(r" \d+:\d\d left \(done \d\d:\d\d\)", line) for line in lines)


@pytest.mark.medium
def test_a_run_under_a_leaping_clock_is_the_run_under_a_steady_one(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"{n} =", "response": str(n)} for n in range(16)])
    settings = {"steps": 6, "batch_size": 4, "eval_data": "25%", "eval_every": 2, "save_every": 2, "quiet": True}
    posttrain.sft(model=tiny_model, data=rows, out=tmp_path / "steady", **settings)  # type: ignore[arg-type]
    wrong, real = cycle(LEAPS), time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(wrong))
    for module in (record, writer, progress):
        monkeypatch.setattr(module, "datetime", Leaping)
    run = posttrain.sft(model=tiny_model, data=rows, out=tmp_path / "leaping", **settings)  # type: ignore[arg-type]
    assert differing(remains(tmp_path / "steady"), remains(tmp_path / "leaping")) == []
    seconds = [row["seconds"] for row in run.metrics]
    assert seconds == sorted(seconds)
    assert 0.0 <= seconds[0] <= seconds[-1] < 3600.0
    facts = json.loads((tmp_path / "leaping" / "run" / "run.json").read_text())
    assert facts["status"] == "done"
