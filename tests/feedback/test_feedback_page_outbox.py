"""Nothing that a person did is lost, by a server that is away or a page that is killed, and nothing counts twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from browsing import (
    POOL,
    Serve,
    Served,
    Visit,
    eventually,
    letters,
    press,
    question,
    ready,
    row,
    spoken,
    submitted,
    tiers,
)
from playwright.sync_api import Page, Route, expect

pytestmark = pytest.mark.medium
AWAY = "No connection to the server."
MANY = [row(f"Question {number}?", [f"Yes {number}.", f"No {number}."]) for number in range(6)]


def kept(page: Page, what: str = "waiting") -> int:
    """How many events of a kind the browser keeps."""
    count = f"() => Object.keys(localStorage).filter((key) => key.startsWith('posttrain/{what}/')).length"
    return int(page.evaluate(count))


def try_now(page: Page) -> None:
    """Presses the button where it is still there: the page may have tried by itself meanwhile."""
    page.get_by_role("button", name="Try now").evaluate_all("(found) => found.forEach((button) => button.click())")


def once(status: int, body: str = "{}") -> Callable[[Route], None]:
    """Answers the first request in the server's place; the others go on to it."""
    asked: list[str] = []

    def handle(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) == 1:
            route.fulfill(status=status, content_type="application/json", body=body)
        else:
            route.continue_()

    return handle


def test_what_is_ranked_while_the_server_is_away_waits_and_is_sent_once_it_is_back(serve: Serve, visit: Visit) -> None:
    served = serve()
    page = visit(served).enter("ann")
    text = {key: text for text, key in letters(page).items()}
    asked = question(page)
    served.kill()
    press(page, "c a = b d Enter")
    expect(page.locator(".banner")).to_contain_text(AWAY)
    expect(page.locator(".banner")).to_contain_text("One thing you did is kept here")
    assert kept(page) == 1
    served.start()
    try_now(page)
    page.wait_for_function("(asked) => !document.querySelector('#prompt').textContent.includes(asked)", arg=asked)
    assert served.kinds() == ["rank"]
    assert served.ranked() == {text["c"]: 1, text["a"]: 2, text["b"]: 2, text["d"]: 3}
    assert (kept(page), page.locator(".banner").count()) == (0, 0)


def test_it_is_tried_again_by_itself(serve: Serve, visit: Visit) -> None:
    served = serve()
    page = visit(served).enter("ann")
    served.kill()
    press(page, "a b Enter")
    expect(page.locator(".banner")).to_contain_text(AWAY)
    served.start()
    page.wait_for_function("() => document.querySelectorAll('.banner').length === 0", timeout=30_000)
    assert served.kinds() == ["rank"]


def test_a_page_that_is_closed_before_its_event_got_through_sends_it_when_it_is_opened_again(
    serve: Serve, visit: Visit
) -> None:
    served = serve()
    person = visit(served)
    page = person.enter("ann")
    served.kill()
    press(page, "a b 1 Enter")
    expect(page.locator(".banner")).to_contain_text(AWAY)
    page.close()
    served.start()
    again = person.open()
    ready(again)
    assert served.kinds() == ["flag", "rank"]
    assert kept(again) == 0


def test_an_event_whose_acknowledgement_was_lost_counts_once(serve: Serve, visit: Visit) -> None:
    served = serve()
    page = visit(served).enter("ann")
    taken: list[int] = []

    def lose(route: Route) -> None:
        taken.append(route.fetch().status)
        route.abort() if len(taken) == 1 else route.continue_()

    page.route("**/api/events", lose)
    press(page, "a b Enter")
    expect(page.locator(".banner")).to_contain_text(AWAY)
    page.wait_for_function("() => document.querySelectorAll('.banner').length === 0", timeout=30_000)
    assert taken[0] == 201
    assert served.kinds() == ["rank"]


def test_a_browser_that_goes_offline_goes_on_when_it_is_back(serve: Serve, visit: Visit) -> None:
    served = serve()
    person = visit(served)
    page = person.enter("ann")
    person.context.set_offline(True)
    press(page, "b a Enter")
    expect(page.locator(".banner")).to_contain_text(AWAY)
    assert served.kinds() == []
    person.context.set_offline(False)
    page.wait_for_function("() => document.querySelectorAll('.banner').length === 0", timeout=5_000)
    assert served.kinds() == ["rank"]


def test_an_undo_while_the_server_is_away_follows_what_it_undoes(serve: Serve, visit: Visit) -> None:
    served = serve()
    page = visit(served).enter("ann")
    asked = question(page)
    served.kill()
    press(page, "a b Enter")
    expect(page.locator(".banner")).to_contain_text(AWAY)
    press(page, "u")
    served.start()
    try_now(page)
    page.wait_for_selector("#tiers > li")
    ready(page)
    assert (question(page), tiers(page)) == (asked, [["a"], ["b"]])
    assert served.kinds() == ["rank", "undo"]


def test_a_ranking_that_is_not_finished_survives_a_reload(serve: Serve, visit: Visit) -> None:
    page = visit(serve()).enter("ann")
    press(page, "d = a b 2 n")
    page.keyboard.type("half a thought")
    page.reload()
    ready(page)
    assert tiers(page) == [["d", "a"], ["b"]]
    assert page.locator('[data-key="b"] .tag.flag').text_content() == "harmful"
    press(page, "n")
    assert page.locator("#note-text").input_value() == "half a thought"


def test_a_ranking_that_was_sent_is_no_hint_when_the_item_comes_again(serve: Serve, visit: Visit) -> None:
    served = serve(MANY[:1])
    page = visit(served).enter("ann")
    body = page.evaluate("async () => (await (await fetch('/api/next')).json())")
    press(page, "a b 1")
    submitted(page, "Enter")
    page.route("**/api/next", lambda route: route.fulfill(json=body))
    page.reload()
    ready(page)
    assert tiers(page) == []
    assert page.locator(".tag.flag").count() == 0


@pytest.mark.parametrize(("status", "meaning"), [(409, "no longer yours"), (413, "too large"), (400, "did not take")])
def test_a_refused_event_is_told_in_plain_words_and_kept_until_a_person_says_what_becomes_of_it(
    serve: Serve, visit: Visit, status: int, meaning: str
) -> None:
    served = serve(MANY)
    page = visit(served).enter("ann")
    page.route("**/api/events", once(status, '{"error": "<b>because</b>"}'))
    asked = question(page)
    submitted(page, "a b Enter")
    assert question(page) == asked  # the server still waits for it
    banner = page.locator(".banner")
    expect(banner).to_contain_text(meaning)
    expect(banner).to_contain_text("<b>because</b>")
    page.reload()
    ready(page)
    expect(banner).to_contain_text(meaning)
    assert kept(page, "refused") == 1
    banner.get_by_role("button", name="Try again").click()
    expect(banner).to_have_count(0)
    eventually(served.kinds, ["rank"])
    page.wait_for_function("(asked) => document.querySelector('#prompt .text').textContent !== asked", arg=asked)


def test_a_refused_event_can_be_discarded_and_its_undo_takes_back_nothing_else(serve: Serve, visit: Visit) -> None:
    served = serve(MANY)
    page = visit(served).enter("ann")
    submitted(page, "a b Enter")
    away: list[bool] = [True]

    def refuse(route: Route) -> None:
        route.abort() if away[0] else route.fulfill(status=409, json={"error": "late"})

    page.route("**/api/events", refuse)
    press(page, "b a Enter")
    expect(page.locator(".banner")).to_contain_text(AWAY)
    press(page, "u")
    away[0] = False
    try_now(page)
    expect(page.locator(".banner")).to_contain_text("not taken")
    page.get_by_role("button", name="Discard").click()
    expect(page.locator(".banner")).to_have_count(0)
    assert served.kinds() == ["rank"]
    assert (kept(page), kept(page, "refused")) == (0, 0)


def test_a_page_that_the_server_no_longer_knows_keeps_everything_and_asks_to_be_loaded_again(
    serve: Serve, visit: Visit
) -> None:
    served = serve(MANY)
    page = visit(served).enter("ann")
    page.evaluate("() => (document.querySelector('meta[name=csrf]').content = 'another')")
    press(page, "a b Enter")
    expect(page.locator(".banner")).to_contain_text("Load it again; nothing is lost.")
    assert (served.kinds(), kept(page)) == ([], 1)
    page.get_by_role("button", name="Load again").click()
    page.wait_for_function("() => Object.keys(localStorage).every((key) => !key.startsWith('posttrain/waiting/'))")
    ready(page)
    assert served.kinds() == ["rank"]


def test_what_one_person_did_is_never_sent_as_another(serve: Serve, visit: Visit) -> None:
    served: Served = serve(MANY)
    person = visit(served)
    page = person.enter("ann")
    served.kill()
    press(page, "a b Enter")
    expect(page.locator(".banner")).to_contain_text(AWAY)
    page.close()
    served.start()
    person.context.clear_cookies()
    bob = person.enter("bob")
    submitted(bob, "b a Enter")
    assert [(kind, who) for kind, who, _ in served.events()] == [("rank", "bob")]
    bob.close()
    person.context.clear_cookies()
    person.enter("ann")
    assert [who for _, who, _ in served.events()] == ["bob", "ann"]


def test_what_waits_for_one_store_is_never_sent_to_another_at_the_same_address(serve: Serve, visit: Visit) -> None:
    served: Served = serve(MANY)
    person = visit(served)
    page = person.enter("ann")
    submitted(page, "a b Enter")
    served.kill()
    press(page, "u")
    expect(page.locator(".banner")).to_contain_text(AWAY)
    page.close()
    other: Served = serve(MANY)
    other.kill()
    other.port = served.port
    other.start()
    page = person.enter("ann")
    submitted(page, "b a Enter")
    page.reload()
    ready(page)
    assert other.kinds() == ["rank"]
    page.close()
    other.kill()
    served.start()
    person.open()
    eventually(served.kinds, ["rank", "undo"])


def test_an_undo_that_waited_takes_back_nothing_that_was_done_elsewhere_since(serve: Serve, visit: Visit) -> None:
    served = serve(MANY)
    phone, laptop = visit(served).enter("ann"), visit(served).enter("ann")
    submitted(phone, "a b Enter")
    phone.route("**/api/undo", lambda route: route.abort())
    press(phone, "u")
    expect(phone.locator(".banner")).to_contain_text(AWAY)
    laptop.reload()
    ready(laptop)
    submitted(laptop, "b a Enter")
    phone.unroute("**/api/undo")
    try_now(phone)
    expect(phone.locator("#toast")).to_contain_text("not the last thing that you did")
    assert served.kinds() == ["rank", "rank"]


def test_a_browser_that_keeps_nothing_says_so_and_works(serve: Serve, visit: Visit) -> None:
    served = serve(POOL)
    person = visit(served)
    person.context.add_init_script("Storage.prototype.setItem = () => { throw new Error('full'); };")
    page = person.enter("ann")
    submitted(page, "a b Enter")
    expect(page.locator(".banner")).to_contain_text("keeps nothing")
    assert served.kinds() == ["rank"]


def test_the_lock_is_renewed_while_somebody_is_there_and_not_afterwards(serve: Serve, visit: Visit) -> None:
    person = visit(serve(POOL, "--lock", "1"))
    renewed: list[str] = []
    page = person.enter("ann")
    page.on("request", lambda request: renewed.append(request.url) if "/api/renew" in request.url else None)
    page.clock.install()
    page.reload()
    ready(page)
    for _ in range(5):
        press(page, "a")
        page.clock.run_for(10_000)
    assert len(renewed) == 2  # every 20 of the 60 seconds
    page.clock.run_for(600_000)
    assert len(renewed) <= 2 + 120 // 20


def test_without_anything_to_take_back_an_undo_says_so(serve: Serve, visit: Visit) -> None:
    page = visit(serve()).enter("ann")
    with page.expect_response(lambda answer: "/api/next" in answer.url):
        press(page, "u")
    ready(page)
    assert page.locator("#toast").text_content() == "There is nothing to take back. (there is nothing to undo)"
    assert spoken(page)
