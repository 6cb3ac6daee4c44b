"""The ranking page in a real browser: answers are ordered by keys, buttons and drag; the store has what was meant."""

from __future__ import annotations

import pytest
from browsing import POOL, Serve, Visit, letters, press, question, row, spoken, submitted, tiers, unranked
from playwright.sync_api import Page

pytestmark = pytest.mark.medium
NINE = [f"Answer number {number}." for number in range(9)]


def texts(page: Page) -> dict[str, str]:
    """The text of each answer by its letter."""
    return {key: text for text, key in letters(page).items()}


def centre(page: Page, selector: str) -> tuple[float, float]:
    """The middle of an element, in pixels of the window."""
    box = page.locator(selector).bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page: Page, key: str, x: float, y: float) -> None:
    """Moves the head of an answer to a place, as a hand does: in steps."""
    page.mouse.move(*centre(page, f'[data-key="{key}"] .grip'))
    page.mouse.down()
    page.mouse.move(x, y, steps=6)
    page.mouse.up()


def drag_onto(page: Page, key: str, selector: str, *, at: float = 0.5) -> None:
    """Drops an answer on an element, `at` this share of its height."""
    box = page.locator(selector).bounding_box()
    assert box is not None
    drag(page, key, box["x"] + box["width"] / 2, box["y"] + box["height"] * at)


def test_four_answers_are_ranked_in_five_key_presses(serve: Serve, visit: Visit) -> None:
    served = serve()
    page = visit(served).enter_by_form("ann")
    text = texts(page)
    page.evaluate("() => { window.presses = 0; addEventListener('keydown', () => (window.presses += 1), true); }")
    submitted(page, "b d a c Enter")
    assert page.evaluate("() => window.presses") == 5
    assert served.ranked() == {text["b"]: 1, text["d"]: 2, text["a"]: 3, text["c"]: 4}


def test_answers_come_unranked_and_without_their_models(serve: Serve, visit: Visit) -> None:
    served = serve([row("Who?", ["I.", "You."], models=["tiny-7b", "huge-70b"])])
    page = visit(served).enter("ann")
    assert (tiers(page), sorted(unranked(page))) == ([], ["a", "b"])
    assert "tiny-7b" not in page.content()


def test_ties_and_what_is_left_out_are_ranked_as_such(serve: Serve, visit: Visit) -> None:
    served = serve()
    page = visit(served).enter("ann")
    text = texts(page)
    press(page, "c = a d")
    assert (tiers(page), unranked(page)) == ([["c", "a"], ["d"]], ["b"])
    submitted(page, "Enter")
    assert served.ranked() == {text["c"]: 1, text["a"]: 1, text["d"]: 2, text["b"]: None}


def test_backspace_goes_back_by_steps_also_over_a_tie(serve: Serve, visit: Visit) -> None:
    page = visit(serve()).enter("ann")
    press(page, "a b = c Backspace")
    assert tiers(page) == [["a"], ["b"]]
    press(page, "c Backspace Backspace Backspace d")
    assert tiers(page) == [["a"], ["d"]]


def test_an_answer_that_is_named_again_goes_to_the_end(serve: Serve, visit: Visit) -> None:
    page = visit(serve()).enter("ann")
    press(page, "a b c a")
    assert tiers(page) == [["b"], ["c"], ["a"]]


def test_one_answer_is_no_ranking_and_the_page_says_so(serve: Serve, visit: Visit) -> None:
    served = serve()
    page = visit(served).enter("ann")
    press(page, "a Enter")
    assert "at least two" in spoken(page)
    assert page.locator("#toast").is_visible()
    assert served.kinds() == []


def test_an_undo_brings_the_item_back_with_its_order_and_the_new_one_counts(serve: Serve, visit: Visit) -> None:
    served = serve()
    page = visit(served).enter("ann")
    asked, text = question(page), texts(page)
    submitted(page, "a b c d Enter")
    assert question(page) != asked
    with page.expect_response(lambda answer: "/api/item/" in answer.url):
        press(page, "u")
    page.wait_for_function("() => document.querySelectorAll('#tiers > li').length === 4")
    assert (question(page), tiers(page)) == (asked, [["a"], ["b"], ["c"], ["d"]])
    submitted(page, "a Enter")
    assert served.kinds() == ["rank", "undo", "rank"]
    assert served.ranked() == {text["b"]: 1, text["c"]: 2, text["d"]: 3, text["a"]: 4}


def test_flags_and_a_note_go_with_the_decision_and_an_undo_takes_back_the_decision(serve: Serve, visit: Visit) -> None:
    served = serve()
    page = visit(served).enter("ann")
    press(page, "b 1 4 a n")
    page.keyboard.type("b is about snow, so x u 1")
    page.keyboard.press("Escape")
    submitted(page, "Enter")
    flag, note, rank = served.events()
    assert (flag[0], flag[2]["flags"]) == ("flag", ["wrong", "broken"])
    assert (note[0], note[2]["text"]) == ("note", "b is about snow, so x u 1")
    assert rank[0] == "rank"
    with page.expect_response(lambda answer: "/api/item/" in answer.url):
        press(page, "u")
    page.wait_for_selector('[data-key="b"] .tag.flag')
    assert tiers(page) == [["b"], ["a"]]
    assert page.locator("#noted").is_visible()
    assert served.kinds() == ["flag", "note", "rank", "undo", "undo", "undo"]
    press(page, "b 1 4 a")  # neither flag stands any more
    submitted(page, "Enter")
    assert served.kinds()[6:] == ["note", "rank"]


@pytest.mark.parametrize(("key", "kind"), [("s", "skip"), ("x", "cant_judge")])
def test_what_is_not_ranked_is_skipped_or_cannot_be_judged(serve: Serve, visit: Visit, key: str, kind: str) -> None:
    served = serve()
    page = visit(served).enter("ann")
    asked = question(page)
    submitted(page, key)
    assert served.kinds() == [kind]
    assert question(page) != asked


def test_everything_is_done_by_buttons_too(serve: Serve, visit: Visit) -> None:
    served = serve()
    page = visit(served).enter("ann")
    page.get_by_role("button", name="Rank answer D next").click()
    page.get_by_role("button", name="Rank answer A next").click()
    page.get_by_role("button", name="Tie answer B with the last one that is ranked").click()
    assert tiers(page) == [["d"], ["a", "b"]]
    page.get_by_role("button", name="Move answer B up").click()
    page.get_by_role("button", name="Take answer D out of the order").click()
    assert (tiers(page), unranked(page)) == ([["b"], ["a"]], ["c", "d"])
    page.get_by_role("button", name="wrong").click()
    submitted(page, "Enter")  # the button that was just pressed does not take it
    assert served.kinds() == ["flag", "rank"]


def test_a_dragged_answer_ties_makes_a_tier_or_leaves_the_order(serve: Serve, visit: Visit) -> None:
    page = visit(serve()).enter("ann")
    drag_onto(page, "b", "#ranked")
    assert tiers(page) == [["b"]]
    drag_onto(page, "a", "#tiers > li", at=0.5)
    assert tiers(page) == [["b", "a"]]
    drag_onto(page, "c", "#tiers > li", at=0.03)
    assert tiers(page) == [["c"], ["b", "a"]]
    drag_onto(page, "a", "#unranked")
    assert (tiers(page), unranked(page)) == ([["c"], ["b"]], ["a", "d"])
    press(page, "Backspace")
    assert tiers(page) == [["c"], ["b", "a"]]


def test_escape_ends_a_drag_that_changes_nothing(serve: Serve, visit: Visit) -> None:
    page = visit(serve()).enter("ann")
    page.mouse.move(*centre(page, '[data-key="a"] .grip'))
    page.mouse.down()
    page.mouse.move(*centre(page, "#ranked"), steps=4)
    page.keyboard.press("Escape")
    page.mouse.up()
    assert tiers(page) == []
    assert page.locator(".ghost").count() == 0


def test_a_finger_drags_as_a_mouse_does(serve: Serve, visit: Visit) -> None:
    page = visit(serve(), has_touch=True, viewport={"width": 390, "height": 1400}).enter("ann")
    touch = page.context.new_cdp_session(page)
    (x, y), (to_x, to_y) = centre(page, '[data-key="c"] .grip'), centre(page, "#ranked .empty")
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for share in (0.2, 0.6, 1.0):
        point = {"x": x + (to_x - x) * share, "y": y + (to_y - y) * share}
        touch.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [point]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_selector("#tiers > li")
    assert tiers(page) == [["c"]]


def test_an_order_is_made_with_the_tab_key_arrows_and_space_and_every_step_is_spoken(
    serve: Serve, visit: Visit
) -> None:
    page = visit(serve()).enter("ann")
    page.locator('[data-key="a"]').focus()
    press(page, "ArrowDown Space")
    assert (tiers(page), spoken(page)) == ([["b"]], "B is number 1.")
    assert page.evaluate("() => document.activeElement.dataset.key") == "b"
    press(page, "ArrowDown Space Shift+ArrowUp")
    assert (tiers(page), spoken(page)) == ([["b", "a"]], "A is number 1, tied with B.")
    press(page, "Shift+ArrowUp Home Space")
    assert (tiers(page), spoken(page)) == ([["b"]], "A is not ranked.")
    label = page.locator('[data-key="b"]').get_attribute("aria-label")
    assert label == "Answer B, place 1 of 1"


def test_the_tab_key_stops_at_one_answer_only(serve: Serve, visit: Visit) -> None:
    page = visit(serve([row("Which?", NINE)])).enter("ann")
    stops = page.evaluate("() => [...document.querySelectorAll('.card')].filter((card) => card.tabIndex === 0).length")
    assert stops == 1


def test_nine_answers_have_letters_and_the_guidelines_another_key(serve: Serve, visit: Visit) -> None:
    page = visit(serve([row("Which?", NINE)])).enter("ann")
    press(page, "i h g f e d c b a")
    assert tiers(page) == [[key] for key in "ihgfedcba"]
    press(page, "?")
    assert page.locator("#guidelines-key").text_content() == "Shift + G"
    press(page, "a Escape Shift+G")
    page.wait_for_selector("#guidelines[open]")
    assert tiers(page)[-1] == ["a"]


def test_guidelines_are_shown_as_text(serve: Serve, visit: Visit, tmp_path: object) -> None:
    file = f"{tmp_path}/guidelines.md"
    with open(file, "w", encoding="utf-8") as handle:
        handle.write("# Truth first\n<b>Then brevity.</b>\n")
    page = visit(serve(POOL, "--guidelines", file)).enter("ann")
    press(page, "g")
    page.wait_for_function("() => document.querySelector('#guidelines-text').textContent.includes('Truth')")
    assert "<b>Then brevity.</b>" in (page.locator("#guidelines-text").text_content() or "")


def test_single_keys_can_be_switched_off(serve: Serve, visit: Visit) -> None:
    page = visit(serve()).enter("ann")
    press(page, "?")
    page.get_by_label("Single keys are commands").uncheck()
    press(page, "Escape a s")
    assert tiers(page) == []
    page.locator('[data-key="a"]').focus()
    press(page, "Space ArrowDown Space")
    assert len(tiers(page)) == 2


def test_the_middle_of_a_long_conversation_is_folded_until_it_is_asked_for(serve: Serve, visit: Visit) -> None:
    turns = [{"role": ("user", "assistant")[n % 2], "content": f"turn {n}"} for n in range(7)]
    page = visit(serve([{"messages": turns, "responses": ["Yes.", "No."]}])).enter("ann")
    shown = "() => [...document.querySelectorAll('#prompt .text')].map((text) => text.textContent)"
    assert page.evaluate(shown) == ["turn 0", "turn 5", "turn 6"]
    assert page.get_by_text("4 messages folded").is_visible()
    press(page, "v")
    assert page.evaluate(shown) == [f"turn {n}" for n in range(7)]


def test_when_all_is_ranked_the_page_says_so_and_the_last_decision_can_still_be_taken_back(
    serve: Serve, visit: Visit
) -> None:
    served = serve(POOL[:1])
    page = visit(served).enter("ann")
    submitted(page, "a b Enter")
    assert page.get_by_role("heading", name="All done").is_visible()
    with page.expect_response(lambda answer: "/api/item/" in answer.url):
        press(page, "u")
    page.wait_for_selector("#tiers > li")
    assert tiers(page) == [["a"], ["b"]]
