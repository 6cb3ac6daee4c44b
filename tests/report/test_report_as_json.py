"""A report as JSON: all numbers as they were logged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

from reported import wave, written

from posttrain.report.as_json import facts_of
from posttrain.report.parts import Chart, Section, Series
from posttrain.report.reading import read
from posttrain.report.report import Report, report_of


def test_no_number_is_thinned_out_and_none_is_more_than_json_has(tmp_path: Path) -> None:
    run = read(written(tmp_path / "run"))
    line = [*wave(5_000), math.nan, math.inf]
    chart = Chart(id="c", title="t", series=[Series(name="a", x=range(len(line)), y=line)], marks={3.0: "went on"})
    section = Section(id="s", title="S", parts=[chart], facts={"peak": max(line[:5_000])})
    facts: Any = facts_of(Report(title="run", line="", runs=[run], sections=[section]))
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    [found] = facts["sections"]
    assert found["facts"] == {"peak": max(line[:5_000])}
    assert found["parts"][0]["part"] == "chart"
    assert found["parts"][0]["series"][0]["y"] == [*line[:5_000], None, None]
    assert found["parts"][0]["marks"] == {"3.0": "went on"}


def test_the_runs_stand_with_what_they_came_to(tmp_path: Path) -> None:
    facts = facts_of(report_of(read(written(tmp_path / "run"))))
    [run] = cast("list[dict[str, object]]", facts["runs"])
    assert (run["path"], run["command"], run["status"]) == (str(tmp_path / "run"), "sft", "done")
    assert run["results"] == {"eval_loss": 0.5}
