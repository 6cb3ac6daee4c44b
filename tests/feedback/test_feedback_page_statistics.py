"""The pages of figures and of disputes show what the store holds, and an order that settles a dispute counts."""

from __future__ import annotations

import pytest
from browsing import Serve, Visit, letters, press, ready, row, submitted, tiers
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.medium
ROWS = [row("Which is best?", ["One.", "Two.", "Three."])]


def rank(page: Page, best_first: list[str]) -> None:
    """Ranks the answers of the item on the page by their texts."""
    keys = letters(page)
    submitted(page, " ".join([*(keys[text] for text in best_first), "Enter"]))


def test_figures_are_those_of_the_store_and_follow_it(serve: Serve, visit: Visit) -> None:
    served = serve(ROWS, overlap=1)
    ann = visit(served)
    page = ann.enter("ann")
    statistics = ann.open("/statistics")
    expect(statistics.locator("#done")).to_have_text("0 of 1 items are ranked")
    rank(page, ["One.", "Two.", "Three."])
    expect(statistics.locator("#done")).to_have_text("1 of 1 items are ranked", timeout=20_000)
    rank(visit(served).enter("bob"), ["One.", "Three.", "Two."])
    # Of three pairs two are in the same order.
    agreement = statistics.locator("#measures tr", has_text="pairwise agreement")
    expect(agreement.locator("td").first).to_have_text("67 %", timeout=20_000)
    people = statistics.locator("#people tr")
    assert {people.nth(0).locator("th").text_content(), people.nth(1).locator("th").text_content()} == {"ann", "bob"}
    assert statistics.locator("#disputed a").text_content() == "Which is best?"


def test_a_dispute_shows_everyone_and_the_order_that_settles_it_counts(serve: Serve, visit: Visit) -> None:
    served = serve(ROWS, overlap=1)
    for name, order in {"ann": ["One.", "Two."], "bob": ["Three.", "Two.", "One."]}.items():
        rank(visit(served).enter(name), order)
    judge = visit(served)
    judge.enter("carol")
    page = judge.open("/adjudicate")
    ready(page)
    keys = letters(page)
    said = dict(
        zip(
            page.locator("#opinions dt").all_text_contents(),
            page.locator("#opinions dd").all_text_contents(),
            strict=True,
        )
    )
    names = {text: key.upper() for text, key in keys.items()}
    assert said["bob"] == f"{names['Three.']}, then {names['Two.']}, then {names['One.']}"
    assert said["ann"] == f"{names['One.']}, then {names['Two.']}; {names['Three.']} is not ranked"
    press(page, f"{keys['Two.']} {keys['One.']} = {keys['Three.']} Enter")
    page.wait_for_selector('body[data-state="nothing"]')
    assert page.get_by_role("heading", name="All settled").is_visible()
    kind, who, payload = served.events()[-1]
    assert (kind, who, payload["adjudicates"]) == ("rank", "carol", True)
    assert served.ranked() == {"Two.": 1, "One.": 2, "Three.": 2}
    assert page.locator("#disputed .tag").text_content() == "settled by carol"
    press(page, "u")
    page.wait_for_selector("#tiers > li")
    assert tiers(page) == [[keys["Two."]], [keys["One."], keys["Three."]]]
    assert served.kinds()[-1] == "undo"


def test_the_page_of_disputes_takes_back_no_ranking_that_was_made_elsewhere(serve: Serve, visit: Visit) -> None:
    served = serve(ROWS, overlap=1)
    rank(visit(served).enter("ann"), ["One.", "Two."])
    person = visit(served)
    rank(person.enter("bob"), ["Two.", "One."])
    page = person.open("/adjudicate")
    ready(page)
    press(page, "u s x 1")
    page.wait_for_timeout(200)
    assert served.kinds() == ["rank", "rank"]
