"""What a benchmark found: a table on the screen, and JSON in a folder, where `python -m benchmarks table` reads it.

A finding has a name (`sft-15m-fp32`), whatever facts it likes, and under `measured` the numbers that goals are about
(`benchmarks.table.GOALS`), by key.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.frame.alternate import ROOT

RESULTS = Path(__file__).resolve().parents[1] / "results"


def machine() -> str:
    """Processor and number of cores, as Linux tells them."""
    import os  # noqa: PLC0415 - beside its only use

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"


def commit() -> str:
    """The commit that was measured, with a `+` where the tree has other changes than findings."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=ROOT).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", f":(exclude){RESULTS.relative_to(ROOT)}")
    return (git("describe", "--always", "--exclude=*") or "unknown") + ("+" if changed else "")


def keep(name: str, facts: Mapping[str, Any], file: Path | None = None) -> Path:
    """Writes a finding with command, date, machine and commit into `file`, or where the table looks for it."""
    target = file or RESULTS / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "name": name,
        "command": " ".join(sys.argv),
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        "machine": machine(),
        "commit": commit(),
    }
    target.write_text(json.dumps({**about, **facts}, indent=1, default=_plain) + "\n", encoding="utf-8")
    return target


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """Rows under their keys, columns as wide as they need to be."""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    cells = [heads, *([str(row.get(head, "")) for head in heads] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(heads))]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(type(value).__name__)
