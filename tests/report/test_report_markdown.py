"""A report as Markdown: the same parts, and text that is nothing but text."""

from __future__ import annotations

import pytest
from read_at_hand import a_run
from reported import HOSTILE

from posttrain.inert import inert
from posttrain.measures.finding import Finding
from posttrain.report.markdown import MARK, fenced, markdown, plain, table
from posttrain.report.parts import (
    Answer,
    Answers,
    Chart,
    Code,
    Folded,
    Inspector,
    Prose,
    Section,
    Series,
    Table,
    Warned,
)
from posttrain.report.report import Report


def test_every_part_is_there() -> None:
    finding = Finding(name="kl", state="watch", sentence="KL is 12.", rule="watch over 10")
    series = Series(name="training", x=[1, 2, 3], y=[3.0, None, 1.5])
    parts = [
        Prose(text="Some *words*."),
        Code(text="posttrain sft"),
        Table(columns=["a|b", "n"], rows=[["x", 12345], [None, 0.5]], caption="rows"),
        Chart(
            id="c",
            title="loss",
            series=[series],
            marks={2: "went on"},
            finding=finding,
            about="falls",
            link="docs/x.md#a",
        ),
        Answers(prompt="Hi", answers=[Answer(label="before", text="a\nb", stopped=False, note="score 1")]),
        Warned(finding=finding),
        Inspector(data={}),
        Folded(title="more", parts=[Prose(text="inside")]),
    ]
    text = markdown(
        Report(title="ppo_1", line="done", runs=[a_run()], sections=[Section(id="s", title="S", parts=parts)])
    )
    assert text == (
        f"{MARK}\n\n# ppo\\_1\n\ndone\n\n## S\n\nSome \\*words\\*.\n\n```text\nposttrain sft\n```\n\n"
        "rows\n\n| a\\|b | n |\n| --- | --- |\n| x | 12,345 |\n|  | 0.5 |\n\n"
        "### loss\n\n**watch**: KL is 12. (watch over 10)\n\nfalls · `docs/x.md#a`\n\n"
        "| loss | first | last | lowest | highest | points |\n| --- | --- | --- | --- | --- | --- |\n"
        "| training | 3 | 1.5 | 1.5 | 3 | 3 |\n\nwent on at 2\n\n"
        "- prompt:\n\n  ```text\n  Hi\n  ```\n\n"
        "- before, score 1, cut at the length limit:\n\n  ```text\n  a\n  b\n  ```\n\n\n"
        "**watch**: KL is 12. (watch over 10)\n\n"
        "The token inspector is part of the page, `report.html`.\n\n**more**\n\ninside\n"
    )


@pytest.mark.parametrize("text", [*HOSTILE, "``` ````\n# heading", "| a | b |"])
def test_text_of_data_and_models_ends_no_block(text: str) -> None:
    assert plain(text).count("\n") == 0
    assert table(["a"], [[text]]).count("\n") == 2
    fence, *body, end = fenced(text).split("\n")
    assert (fence.removesuffix("text"), "\n".join(body)) == (end, inert(text))
    assert end not in text


def test_text_steers_no_terminal_that_shows_the_report() -> None:
    text = "gone\x1b[2J\u202e"
    assert plain(text) == r"gone\\u001b\[2J\\u202e"
    assert fenced(text) == "```text\ngone\\u001b[2J\\u202e\n```"
