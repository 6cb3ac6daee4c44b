"""Each word of the page is explained in one line, and its heading stands in docs/methods.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from posttrain.report.terms import TERMS, of_metric, term


def anchors(page: str) -> set[str]:
    """The headings of a page of Markdown as the anchors that they get."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_heading_that_the_page_names_is_there(repository: Path) -> None:
    there = anchors((repository / "docs" / "methods.md").read_text(encoding="utf-8"))
    assert {name: term.anchor for name, term in TERMS.items() if term.anchor not in there} == {}


def test_every_term_is_one_short_line() -> None:
    assert [name for name, term in TERMS.items() if not 10 < len(term.about) < 100 or "\n" in term.about] == []
    assert term("kl").link == "docs/methods.md#kl"


def test_metrics_are_explained_as_far_as_they_have_a_term() -> None:
    found = of_metric("explained_variance")
    assert found is not None
    assert found.anchor == "value"
    assert of_metric("bleu") is None
    with pytest.raises(KeyError):
        term("no such word")
