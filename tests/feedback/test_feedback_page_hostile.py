"""Text of models and people stays text: it runs nothing, loads nothing, moves nothing, and can be read."""

from __future__ import annotations

import json

import pytest
from browsing import Serve, Served, Visit, letters, press, ready, row, submitted
from playwright.sync_api import Page, Route

pytestmark = pytest.mark.medium
MARKUP = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'><svg onload='window.hacked = 3'></svg>"
    "<a href='javascript:window.hacked = 4'>here</a> [there](javascript:window.hacked=5) "
    "<iframe src='https://example.org/'></iframe><style>* { display: none }</style> {{ 7 * 7 }} {% raw %} ${1}"
)
RIGHT_TO_LEFT = "שלום עולם، مرحبا"
CODE = "Like so:\n```python\nif a:\n\treturn  1\n```\nand done."
HUGE = "x" * 100_000
EMOJI = "👩‍👩‍👧‍👦 🏳️‍🌈 é क्षि"
STEERING = "safe \u202etxt.exe\u2066 \u0000 \u001b[2J \u009b \ud83d \udc00 \ufffd end"
READABLE = "safe ⟨U+202E⟩txt.exe⟨U+2066⟩ ␀ ␛[2J ⟨U+009B⟩ ⟨U+D83D⟩ ⟨U+DC00⟩ \ufffd end"


def texts(page: Page) -> set[str]:
    """What the cards show."""
    return set(letters(page))


def harmless(page: Page) -> None:
    """Nothing of the text became an element that does something, and nothing ran."""
    page.wait_for_timeout(100)  # an image that is missing would fail by now
    assert page.evaluate("() => window.hacked ?? null") is None
    assert page.evaluate("() => document.querySelectorAll('.text :not(div, p, pre, code)').length") == 0
    assert page.evaluate("() => document.querySelectorAll('script, style, iframe, img').length") == 1  # our own module


def stored(served: Served, page: Page, prompt: str, answers: list[str]) -> None:
    """Shows an item that no door would let in, as a damaged store might hold it."""
    shown = [{"key": key, "text": text, "stopped": True} for key, text in zip("abcdefghi", answers, strict=False)]
    item = {"id": "odd", "prompt": [{"role": "user", "content": prompt}], "answers": shown}
    body = json.dumps({"item": item, "lock": {"seconds": 60}, "progress": {"done": 0, "of": 1, "mine": 0}})

    def answer(route: Route) -> None:
        route.fulfill(status=200, content_type="application/json", body=body)

    page.route("**/api/next", answer)
    page.reload()
    ready(page)
    assert served.kinds() == []


def test_markup_in_prompt_and_answers_is_shown_and_does_nothing(serve: Serve, visit: Visit) -> None:
    served = serve([row(MARKUP, [MARKUP + " one", MARKUP + " two"])])
    page = visit(served).enter("ann")
    assert texts(page) == {MARKUP + " one", MARKUP + " two"}
    assert page.locator("#prompt .text").text_content() == MARKUP
    page.mouse.click(300, 300)
    harmless(page)
    submitted(page, "a b Enter")
    harmless(page)
    assert served.kinds() == ["rank"]


def test_a_name_of_markup_is_a_name(serve: Serve, visit: Visit) -> None:
    page = visit(serve()).enter("<img src=x onerror=hacked=1>\"'&amp;")
    assert page.locator(".who").text_content() == "<img src=x onerror=hacked=1>\"'&amp;"
    press(page, "a")
    harmless(page)


def test_characters_that_steer_are_spelt_out(serve: Serve, visit: Visit) -> None:
    served = serve()
    page = visit(served).enter("ann")
    stored(served, page, STEERING, [STEERING, "fine"])
    assert texts(page) == {READABLE, "fine"}
    harmless(page)


def test_emoji_and_scripts_from_right_to_left_stay_as_they_are_each_in_its_direction(
    serve: Serve, visit: Visit
) -> None:
    page = visit(serve([row("Greet.", [EMOJI, RIGHT_TO_LEFT])])).enter("ann")
    assert texts(page) == {EMOJI, RIGHT_TO_LEFT}
    directions = page.evaluate(
        "() => Object.fromEntries([...document.querySelectorAll('.card .prose')]"
        ".map((text) => [text.textContent, getComputedStyle(text).direction]))"
    )
    assert directions == {EMOJI: "ltr", RIGHT_TO_LEFT: "rtl"}


def test_code_keeps_its_white_space_and_its_fences(serve: Serve, visit: Visit) -> None:
    page = visit(serve([row("Show me.", [CODE, "No."])])).enter("ann")
    code = page.locator(".card pre")
    assert code.text_content() == "```python\nif a:\n\treturn  1\n```"
    assert code.evaluate("(pre) => getComputedStyle(pre).whiteSpace") == "pre"
    assert page.locator(".card .prose", has_text="Like so:").count() == 1


def test_a_hundred_thousand_characters_scroll_within_their_card_and_can_be_unfolded(serve: Serve, visit: Visit) -> None:
    page = visit(serve([row("Be long.", [HUGE, "Short."])])).enter("ann")
    key = letters(page)[HUGE]
    card = page.locator(f'[data-key="{key}"]')
    box = card.bounding_box()
    assert box is not None
    assert box["height"] < 600
    assert card.locator(".text").evaluate("(text) => text.scrollHeight > 2000 && text.scrollWidth <= text.clientWidth")
    card.get_by_role("button", name=f"Show all of answer {key.upper()}").click()
    box = card.bounding_box()
    assert box is not None
    assert box["height"] > 2000
    press(page, key)
    assert page.locator(f"#tiers [data-key={key}]").count() == 1


def test_an_empty_answer_and_one_that_was_cut_are_told_as_such(serve: Serve, visit: Visit) -> None:
    served = serve()
    page = visit(served).enter("ann")
    stored(served, page, "Say nothing.", ["", "words that go on and"])
    assert page.locator(".card .nothing").text_content() == "(nothing was written)"
    page.evaluate("() => 0")


def test_the_policy_of_the_page_lets_nothing_in_from_elsewhere(serve: Serve, visit: Visit) -> None:
    served = serve()
    person = visit(served)
    page = person.enter("ann")
    page.evaluate(
        "() => { const script = document.createElement('script'); script.textContent = 'window.hacked = 1';"
        "document.body.append(script); script.remove(); }"
    )
    assert page.evaluate("() => window.hacked ?? null") is None
    refused = page.evaluate(
        "async () => { try { await fetch('https://example.org/'); return false } catch { return true } }"
    )
    assert refused
    assert len(person.complaints) >= 2
    person.complaints.clear()  # both were asked for here
    person.hosts.discard("https://example.org")
