"""The page as text: every part is in it, text of data and models is nothing else, and scripts go by their hashes."""

from __future__ import annotations

import base64
import json
import re
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from read_at_hand import a_run
from reported import HOSTILE, SETTINGS, written

from posttrain.measures.finding import Finding
from posttrain.report import scripts
from posttrain.report.html import charts_in, data_block, page, summary_of
from posttrain.report.parts import (
    Answer,
    Answers,
    Chart,
    Code,
    Folded,
    Inspector,
    Part,
    Prose,
    Section,
    Series,
    Table,
    Warned,
)
from posttrain.report.reading import read
from posttrain.report.report import SECTIONS, Report, report_of


class Tags(HTMLParser):
    """The tags of a page with their attributes, its texts, and what stands in its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = attributes, before + data
        elif self._within != "style":
            self.text += data


def everything(text: str) -> list[Part]:
    """Each kind of part with `text` wherever a text can be."""
    finding = Finding(name=text, state="watch", sentence=text, rule=text)
    line = Series(name=text, x=[1, 2], y=[1.0, None])
    return [
        Prose(text=text),
        Code(text=text),
        Table(columns=[text], rows=[[text], [0.123456], [None]], caption=text),
        Chart(id="chart", title=text, series=[line, line], marks={1: text}, finding=finding, about=text, link=text),
        Answers(
            prompt=text, answers=[Answer(label=text, text=text, stopped=False, note=text), Answer(label="", text="")]
        ),
        Warned(finding=finding),
        Folded(title=text, parts=[Prose(text=text)]),
        Inspector(data={"text": text}),
    ]


def report(*parts: Part, title: str = "run") -> Report:
    return Report(title=title, line=title, runs=[a_run()], sections=[Section(id="s", title=title, parts=parts)])


def policy_of(text: str) -> dict[str, str]:
    """The content security policy by directive."""
    [content] = [dict(attrs)["content"] for tag, attrs in Tags(text).tags if attrs.get("http-equiv")]
    return dict(rule.split(" ", 1) for rule in (content or "").split("; "))


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_data_and_models_is_text_wherever_it_stands(text: str) -> None:
    plain, hostile = (Tags(page(report(*everything(each), title=each))) for each in ("plain", text))
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in plain.tags]
    assert [sorted(attrs) for _, attrs in hostile.tags] == [sorted(attrs) for _, attrs in plain.tags]
    assert hostile.text.count(text) == plain.text.count("plain") > 10
    blocks = {
        attrs["id"]: json.loads(body) for attrs, body in hostile.scripts if attrs.get("type") == "application/json"
    }
    assert blocks["inspection"] == {"text": text}
    assert blocks["figures"]["chart"]["series"][0]["name"] == text


def test_only_our_scripts_run_and_nothing_is_asked() -> None:
    text = page(report(*everything("x")))
    found = Tags(text)
    running = [body for attrs, body in found.scripts if attrs.get("type") != "application/json"]
    assert running[0] == scripts.plotly()
    hashes = [f"'sha256-{base64.b64encode(sha256(body.encode()).digest()).decode()}'" for body in running]
    policy = policy_of(text)
    assert policy["script-src"] == " ".join(hashes)
    assert policy["default-src"] == "'none'"
    assert "connect-src" not in policy
    assert not [attrs for _, attrs in found.tags if {"src", "onerror", "onclick"} & {*attrs}]
    assert [attrs["href"] for tag, attrs in found.tags if tag == "a"] == ["#content", "#s"]


def test_plotly_may_stand_beside_the_page_and_a_served_page_may_ask_its_server() -> None:
    linked = page(report(), linked=True)
    assert len(linked) < 200_000
    assert ("script", {"src": scripts.PLOTLY}) in Tags(linked).tags
    assert policy_of(page(report(), served=True))["connect-src"] == "'self'"


def test_our_script_is_one_without_imports_and_names_nothing_twice() -> None:
    script = scripts.own_script()
    assert not re.search(r"^(import|export) ", script, re.MULTILINE)
    assert "</script" not in script
    assert "<!--" not in script
    names = re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", script, re.MULTILINE)
    assert sorted(names) == sorted(set(names))


def test_a_data_block_holds_what_was_given() -> None:
    facts: dict[str, Any] = {"a": "</script><!--", "b": [1.5, None], "c": "\u2028 \ud800"}
    assert "<" not in data_block(facts)
    assert json.loads(data_block(facts)) == facts


def test_a_chart_is_told_in_words_too() -> None:
    def line(name: str, *values: float | None) -> Series:
        return Series(name=name, x=range(len(values)), y=values)

    assert summary_of(Chart(id="c", title="t", series=[line("a", None, 2.0, 1.0)])) == "2 → 1"
    assert summary_of(Chart(id="c", title="t", series=[line("a", 1.0), line("b", 0.5, 0.25)])) == "a: 1; b: 0.5 → 0.25"
    assert summary_of(Chart(id="c", title="t", series=[line("a", None)])) == ""


def test_every_section_that_the_page_names_is_made_by_a_file_of_its_name(repository: Path) -> None:
    folder = repository / "posttrain" / "report" / "sections"
    assert {file.stem for file in folder.glob("*.py")} - {"__init__"} == {*SECTIONS}


@pytest.mark.parametrize("command", SETTINGS)
@pytest.mark.parametrize("ending", ["done", "failed", "running"])
def test_a_run_of_any_command_has_a_page(command: str, ending: str, tmp_path: Path) -> None:
    found = report_of(read(written(tmp_path / "run", command, steps=12, ending=ending)))
    ids = [section.id for section in found.sections]
    assert {"lineage", "curves", "cost", "reproduce"} <= {*ids}
    assert [name for name in SECTIONS if name in ids] == ids
    charts = [chart.id for section in found.sections for chart in charts_in(section.parts)]
    assert sorted(charts) == sorted(set(charts))
    assert page(found, linked=True)


def test_a_run_without_anything_has_a_page() -> None:
    found = report_of(a_run("sft", status="running", data={}, files={}))
    assert [section.id for section in found.sections if section.id in ("lineage", "cost", "reproduce")]
    assert found.line == "sft from runs/sft · running · 2026-01-02"
    assert len({section.id for section in found.sections}) == len(found.sections)
    assert page(found)
