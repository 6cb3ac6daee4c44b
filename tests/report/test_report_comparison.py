"""Several runs side by side: what was set differently stands on top, curves and answers share a place."""

from __future__ import annotations

from pathlib import Path

from read_at_hand import charts, said, tables
from reported import change, written

from posttrain.report.comparison import comparison_of, names_of
from posttrain.report.html import page
from posttrain.report.parts import Answers, Folded, Section, Table
from posttrain.report.reading import read
from posttrain.report.report import Report


def section(report: Report, name: str) -> Section:
    return next(section for section in report.sections if section.id == name)


def test_names_are_as_long_as_it_takes_to_tell_runs_apart() -> None:
    assert names_of([Path("/a/ppo"), Path("/a/dpo")]) == ["ppo", "dpo"]
    assert names_of([Path("/a/x/ppo"), Path("/b/x/ppo")]) == ["a/x/ppo", "b/x/ppo"]
    assert names_of([Path("/a/ppo"), Path("/a/ppo")]) == ["ppo (1)", "ppo (2)"]


def test_two_runs_of_one_method_differ_in_what_was_set(tmp_path: Path) -> None:
    say = [{"step": 3, "prompt": "Hi", "answer": "a", "stopped": True}]
    first = read(written(tmp_path / "a", seed=1, samples=say))
    second = read(change(written(tmp_path / "b", seed=2, learning_rate=0.1, samples=say), data={"x.jsonl": "f" * 64}))
    report = comparison_of([first, second])
    assert report.title == "a · b"
    _, settings, others = tables(section(report, "differing"))
    assert settings.columns == ["setting", "a", "b"]
    assert sorted(map(str, settings.rows)) == ["['learning_rate', 'auto', '0.1']", "['seed', '1', '2']"]
    assert [*others.rows] == [["data x.jsonl", None, "ffffffffffff"]]
    assert [line.name for line in charts(section(report, "curves"))["curve-loss"].series] == ["a", "b"]
    [answers] = section(report, "answers").parts
    assert isinstance(answers, Answers)
    assert [answer.label for answer in answers.answers] == ["a", "b"]
    assert [row[:4] for row in tables(section(report, "cost"))[0].rows] == [
        [name, "done", 20, tables(section(report, "cost"))[0].rows[place][3]] for place, name in enumerate("ab")
    ]
    assert "posttrain runs diff" in said(section(report, "reproduce"))


def test_runs_of_different_methods_share_what_they_can(tmp_path: Path) -> None:
    runs = [read(written(tmp_path / name, name)) for name in ("sft", "reward", "ppo", "dpo")]
    first = Section(id="first", title="First", parts=[])
    report = comparison_of(runs, title="All", first=[first])
    assert (report.title, report.line, report.sections[0]) == ("All", "4 runs side by side", first)
    folded = [part for part in section(report, "differing").parts if isinstance(part, Folded)]
    assert folded[0].title.endswith("settings that only some of them have")
    inner = folded[0].parts[0]
    assert isinstance(inner, Table)
    assert ["whiten", None, None, "true", None] in [*map(list, inner.rows)]
    assert {line.name for line in charts(section(report, "curves"))["curve-loss"].series} == {"sft", "reward", "dpo"}
    assert section(report, "results").facts["ppo"] == {"eval_loss": 0.5}
    assert "All" in page(report)


def test_runs_without_steps_or_with_nothing_in_common_have_a_page_too(tmp_path: Path) -> None:
    runs = [read(written(tmp_path / name, name, steps=0, ending="running")) for name in ("sft", "ppo")]
    report = comparison_of(runs)
    assert {"curves", "answers", "results"} & {section.id for section in report.sections} == set()
    assert page(report)
    same = comparison_of([runs[0], runs[0]])
    assert "All settings that they share are the same." in said(section(same, "differing"))
