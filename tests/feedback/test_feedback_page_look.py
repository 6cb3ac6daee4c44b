"""The page fits a phone and a wide screen, is readable in light and dark, says what each control is, and is light."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browsing import POOL, Serve, Visit, press, row
from contrast import FAINT
from playwright.sync_api import Page

import posttrain

pytestmark = pytest.mark.medium
LIMIT = 150_000  # bytes of everything that a page loads
LONG = "Incomprehensibilities" * 12 + " https://example.org/" + "a/" * 200
ROWS = [row(LONG, [LONG, "Short.", "```\n" + "wide " * 60 + "\n```", "| a | b |\n" * 30])]


def wide(page: Page) -> int:
    """How many pixels a page is wider than its window."""
    return int(page.evaluate("() => document.documentElement.scrollWidth - innerWidth"))


@pytest.mark.parametrize("width", [320, 360, 1280, 2560])
def test_no_page_is_wider_than_its_window(serve: Serve, visit: Visit, width: int) -> None:
    person = visit(serve(ROWS), viewport={"width": width, "height": 740})
    first = person.open()
    assert wide(first) <= 0
    page = person.enter_by_form("ann")
    assert wide(page) <= 0
    cut = "(texts) => texts.filter((text) => text.scrollWidth > text.clientWidth).map((text) => text.textContent)"
    assert page.locator("#prompt .text, .card > .text").evaluate_all(cut) == []
    press(page, "a b = c 1 2 3 4")
    assert wide(page) <= 0
    press(page, "?")
    assert wide(page) <= 0
    for path in ("/statistics", "/adjudicate"):
        other = person.open(path)
        other.wait_for_load_state("networkidle")
        assert wide(other) <= 0, path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(serve: Serve, visit: Visit, scheme: str) -> None:
    person = visit(serve(POOL), color_scheme=scheme)
    assert person.open().evaluate(FAINT) == []
    page = person.enter("ann")
    assert page.evaluate(FAINT) == []
    press(page, "a b = 1")
    assert page.evaluate(FAINT) == []
    press(page, "?")
    assert page.evaluate(FAINT) == []
    ground = page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(int(part) for part in re.findall(r"\d+", ground)[:3]) < 200) == (scheme == "dark")


def test_every_control_has_a_name_and_every_region_a_heading(serve: Serve, visit: Visit) -> None:
    person = visit(serve(POOL))
    pages = [person.open(), person.enter("ann"), person.open("/statistics"), person.open("/adjudicate")]
    press(pages[1], "a b")
    for page in pages:
        page.wait_for_load_state("networkidle")
        snapshot = page.locator("body").aria_snapshot()
        nameless = re.findall(r"^\s*- (?:button|link|checkbox|textbox|region|dialog)\s*(?:\[.*\])?:?$", snapshot, re.M)
        assert nameless == [], snapshot
    assert '- button "Move answer A up"' in pages[1].locator("body").aria_snapshot()
    press(pages[1], "?")
    assert '- dialog "Keys"' in pages[1].locator("body").aria_snapshot()


def test_what_has_the_focus_is_seen(serve: Serve, visit: Visit) -> None:
    page = visit(serve(POOL)).enter("ann")
    for _ in range(12):
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        if focused.count():
            style, width = focused.evaluate(
                "(it) => [getComputedStyle(it).outlineStyle, parseFloat(getComputedStyle(it).outlineWidth)]"
            )
            assert style == "solid"
            assert width >= 2


def test_cards_glide_unless_motion_is_unwelcome(serve: Serve, visit: Visit) -> None:
    served = serve(POOL)
    counted = (
        "() => { const animate = Element.prototype.animate; window.glides = 0;"
        "Element.prototype.animate = function (...how) { window.glides += 1; return animate.apply(this, how); }; }"
    )
    for motion, moving in (("reduce", False), ("no-preference", True)):
        page = visit(served, reduced_motion=motion).enter(motion)
        page.evaluate(counted)
        press(page, "b")
        assert page.evaluate("() => window.glides > 0") == moving


def test_a_page_with_all_that_it_loads_is_under_150_kb(serve: Serve, visit: Visit) -> None:
    page = visit(serve(POOL)).enter("ann")
    page.wait_for_load_state("networkidle")
    sizes: dict[str, int] = page.evaluate(
        "() => Object.fromEntries(performance.getEntries().filter((each) => each.decodedBodySize)"
        ".map((each) => [each.name, each.decodedBodySize]))"
    )
    assert len(sizes) > 20
    assert sum(sizes.values()) < LIMIT, sizes


def test_everything_that_pages_are_made_of_is_under_150_kb_and_our_own(repository: Path) -> None:
    folder = Path(posttrain.__file__).parent / "feedback"
    files = [*(folder / "static").iterdir(), *(folder / "templates").iterdir()]
    assert sum(file.stat().st_size for file in files) < LIMIT
    assert {file.suffix for file in files} == {".js", ".css", ".svg", ".html"}
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", ""), file.name
        assert "https://" not in text, file.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            file.name
        )
        assert not re.search(r"<style|<script>|\sstyle=|\son[a-z]+=\"", text), file.name
