"""The table of goals: what is met, what is missed, and what was not measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import flat, table
from benchmarks.table import Goal


def test_a_goal_is_met_from_its_bound_on() -> None:
    least = Goal(work="w", what="x", finding="f", key="k", least=5.0)
    most = Goal(work="w", what="x", finding="f", key="k", most=0.2)
    assert [least.met(4.9), least.met(5.0)] == ["**no**", "yes"]
    assert [most.met(0.21), most.met(0.2)] == ["**no**", "yes"]
    assert Goal(work="w", what="x", finding="f", key="k").met(1.0) == ""
    assert (least.asked, most.asked) == ("≥ 5x", "≤ 0.2x")


def test_a_line_says_what_was_measured_with_its_command_and_date(monkeypatch: pytest.MonkeyPatch) -> None:
    goals = [Goal(work="SFT", what="share", finding=name, key="gemm", least=0.6, unit="%") for name in ("one", "none")]
    monkeypatch.setattr(table, "GOALS", goals)
    finding = {"command": "python -m benchmarks sft", "date": "2026-01-31 12:00", "commit": "abc"}
    finding |= {"measured": {"gemm": 0.637}}
    _, _, there, absent = table.lines({"one": {"machine": "B", **finding}, "other": {"machine": "A", **finding}})
    assert there == "| SFT | share | ≥ 60% | 64% | yes | `python -m benchmarks sft` | 2026-01-31 12:00 | abc | 2 |"
    assert absent == "| SFT | share | ≥ 60% | not measured |  | | | | |"
    refused = table.lines({"one": {"machine": "B", **finding, "problems": ["other tokens"]}})[2]
    assert refused.startswith("| SFT | share | ≥ 60% | no fair comparison |  | `python")


def test_the_table_is_written_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", encoding="utf-8")
    (tmp_path / "flat.json").write_text(json.dumps({"machine": "one", "commit": "abc", "command": "c", "date": "d"}))
    monkeypatch.setattr(table, "README", page)
    monkeypatch.setattr("sys.argv", ["table", "--results", str(tmp_path), "--write"])
    assert table.main() == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{table.BEGIN}\n| work |")
    assert "old" not in text
    assert text.endswith(f"machine 1: one\n{table.END}\nafter\n")


def test_memory_is_flat_when_neither_bytes_nor_tensors_grow() -> None:
    resident = [50_000_000] * 1000
    assert flat.told({"resident": resident, "tensors": [9, 9]})["flat"]
    assert not flat.told({"resident": resident, "tensors": [9, 10]})["flat"]
    rising = [50_000_000 + 20_000 * step for step in range(1000)]
    assert not flat.told({"resident": rising, "tensors": [9, 9]})["flat"]
