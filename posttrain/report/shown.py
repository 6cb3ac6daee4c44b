"""Numbers and cells as people read them."""

from __future__ import annotations

from datetime import datetime, timedelta

from posttrain.report.parts import Cell


def shown(cell: Cell) -> str:
    """A cell as text: numbers with four digits, thousands apart; nothing for None."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    return number(cell) if isinstance(cell, float) else cell


def number(value: float) -> str:
    """Four digits: `0.8026`, `12.5`, `12,345`, `5.6e-05`."""
    if value.is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """`41 s`, `6 min 48 s`, `3 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, hours = whole // 60, whole // 3600
    return f"{minutes} min {whole % 60} s" if hours == 0 else f"{hours:,} h {minutes % 60} min"


def size(taken: float) -> str:
    """Bytes: `930 MB`, `21.3 GB`."""
    return f"{taken / 1e9:,.1f} GB" if taken >= 1e9 else f"{taken / 1e6:,.4g} MB"


def day(time: str) -> str:
    """A time of run.json to the minute; as it stands where it is none."""
    try:
        return f"{datetime.fromisoformat(time):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return time


def between(start: str, end: str) -> float | None:
    """Seconds between two times of run.json; None where one is none."""
    try:
        return (datetime.fromisoformat(end) - datetime.fromisoformat(start)) / timedelta(seconds=1)
    except (ValueError, TypeError):
        return None
