"""Two people at once never have the same item before them, and everything is ranked once."""

from __future__ import annotations

import pytest
from browsing import Serve, Visit, press, question, ready, row, submitted
from playwright.sync_api import Page

pytestmark = pytest.mark.medium
COUNT = 8
ROWS = [row(f"Question {number}?", [f"Yes {number}.", f"No {number}.", "Perhaps."]) for number in range(COUNT)]


def busy(page: Page) -> bool:
    """Whether a person has an item before them."""
    return page.evaluate("() => document.body.dataset.state") == "ranking"


def test_two_people_at_once_never_have_the_same_item(serve: Serve, visit: Visit) -> None:
    served = serve(ROWS)
    pages = {"ann": visit(served).enter("ann"), "bob": visit(served).enter("bob")}
    done: list[str] = []
    while any(busy(page) for page in pages.values()):
        shown = [question(page) for page in pages.values() if busy(page)]
        assert len(set(shown)) == len(shown)
        for page in pages.values():
            if busy(page):
                done.append(question(page))
                submitted(page, "a b Enter")
    assert sorted(done) == sorted(f"Question {number}?" for number in range(COUNT))
    assert served.kinds() == ["rank"] * COUNT
    assert {who for _, who, _ in served.events()} == {"ann", "bob"}


def test_who_waits_for_others_is_told_and_gets_what_they_give_back(serve: Serve, visit: Visit) -> None:
    served = serve(ROWS[:1])
    ann = visit(served).enter("ann")
    bob = visit(served).enter("bob")
    assert bob.get_by_role("heading", name="Nothing for you just now").is_visible()
    submitted(ann, "s")
    bob.wait_for_selector('body[data-state="ranking"]', timeout=20_000)
    assert question(bob) == "Question 0?"


def test_one_person_in_two_pages_ranks_an_item_once_or_corrects_it(serve: Serve, visit: Visit) -> None:
    served = serve(ROWS[:2])
    person = visit(served)
    first = person.enter("ann")
    second = person.open()
    ready(second)
    assert question(first) == question(second)
    submitted(first, "a b Enter")
    press(second, "c")
    submitted(second, "Enter") if len(second.query_selector_all("#tiers > li")) > 1 else submitted(second, "a Enter")
    assert served.kinds() == ["rank", "rank"]
