"""Orders of answers as the page computes them, against a slow model of the same rules."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from browsing import ABSENT, CHROMIUM
from playwright.sync_api import Browser, Page, Route

import posttrain

pytestmark = [pytest.mark.medium, pytest.mark.skipif(CHROMIUM is None, reason=ABSENT)]
ROOMS = [Path(posttrain.__file__).parent / room / "static" for room in ("feedback", "pages")]
KEYS = "abcdefghi"
PLAY = """async ([size, moves]) => {
  const order = await import("/order.js");
  let now = order.orderOf([..."abcdefghi"].slice(0, size));
  const seen = [];
  for (const [name, ...rest] of moves) {
    const before = JSON.stringify(now);
    const after = order[name](now, ...rest);
    if (JSON.stringify(now) !== before) throw new Error(`${name} changed what it was given`);
    now = after;
    seen.push([now.tiers, order.unranked(now), now.tie]);
  }
  return seen;
}"""
Move = tuple[object, ...]


@pytest.fixture(scope="module")
def blank(chromium: Browser) -> Page:
    """A page of the modules' own origin, without a server."""
    page = chromium.new_context().new_page()

    def file(route: Route) -> None:
        name = route.request.url.rsplit("/", 1)[-1]
        if name:
            [path] = [room / name for room in ROOMS if (room / name).is_file()]
            route.fulfill(path=path, content_type="text/javascript")
        else:
            route.fulfill(body="<!doctype html>", content_type="text/html")

    page.route("**/*", file)
    page.goto("http://localhost/")
    return page


def moved(tiers: list[list[str]], key: str, target: dict[str, int] | None) -> list[list[str]]:
    """The model: the others stay where they are; gaps and tiers are counted before the answer leaves its own."""
    marks: list[list[str]] = []
    for place in range(len(tiers) + 1):
        marks.append([key] if target == {"gap": place} else [])
        if place < len(tiers):
            stay = [other for other in tiers[place] if other != key]
            marks.append([*stay, key] if target == {"tier": place} else stay)
    return [mark for mark in marks if mark]


def expected(tiers: list[list[str]], tie: bool, move: Move) -> tuple[list[list[str]], bool]:
    """What a move makes of tiers, by the rules as a person is told them."""
    name, key = move[0], str(move[1]) if len(move) > 1 else ""
    place = next((number for number, tier in enumerate(tiers) if key in tier), None)
    if name == "tieNext":
        return tiers, not tie if tiers else tie
    if name == "dropLast":
        return (moved(tiers, tiers[-1][-1], None), False) if tiers else (tiers, tie)
    if name == "place":
        made = moved(tiers, key, move[2])  # type: ignore[arg-type]
        return made, tie and bool(made)
    if name == "append" or (name == "step" and place is None and move[2] == -1):
        rest = moved(tiers, key, None)
        onto = {"tier": len(rest) - 1} if tie and rest else {"gap": len(rest)}
        return moved(rest, key, onto), False
    if place is None:
        return tiers, tie
    better = move[2] == -1
    if len(tiers[place]) > 1:
        return moved(tiers, key, {"gap": place if better else place + 1}), tie
    beside = place - 1 if better else place + 1
    return (moved(tiers, key, {"tier": beside}), tie) if 0 <= beside < len(tiers) else (tiers, tie)


@pytest.mark.parametrize("size", [2, 4, 9])
def test_any_sequence_of_moves_gives_the_order_that_the_rules_say(blank: Page, size: int) -> None:
    draw = random.Random(size)
    keys, tiers, tie = KEYS[:size], list[list[str]](), False
    moves: list[Move] = []
    states: list[list[object]] = []
    for _ in range(400):
        key = draw.choice(keys)
        targets: list[dict[str, int] | None] = [None, {"gap": draw.randint(0, len(tiers))}]
        targets += [{"tier": draw.randrange(len(tiers))}] if tiers else []
        move = draw.choice(
            [
                ("append", key),
                ("place", key, draw.choice(targets)),
                ("step", key, draw.choice([-1, 1])),
                ("tieNext",),
                ("dropLast",),
            ]
        )
        tiers, tie = expected(tiers, tie, move)
        moves.append(move)
        ranked = {each for tier in tiers for each in tier}
        states.append([tiers, [each for each in keys if each not in ranked], tie])
    assert blank.evaluate(PLAY, [size, moves]) == states


def test_a_draft_is_taken_up_without_what_is_no_answer_or_stands_there_twice(blank: Page) -> None:
    order = "async (tiers) => (await import('/order.js')).orderOf(['a', 'b', 'c'], tiers).tiers"
    assert blank.evaluate(order, [["b", "z"], ["y"], ["b", "a"]]) == [["b"], ["a"]]


@pytest.mark.parametrize(
    ("y", "target"),
    [
        (-5, {"gap": 0}),
        (10, {"gap": 0}),
        (50, {"tier": 0}),
        (95, {"gap": 1}),
        (105, {"gap": 1}),
        (160, {"tier": 1}),
        (199, {"gap": 2}),
        (900, {"gap": 2}),
    ],
)
def test_where_an_answer_lands(blank: Page, y: int, target: dict[str, int]) -> None:
    tiers = [{"top": 0, "bottom": 100}, {"top": 110, "bottom": 200}]
    assert blank.evaluate("async ([t, y]) => (await import('/drag.js')).landing(t, y)", [tiers, y]) == target


@pytest.mark.parametrize(
    ("event", "command"),
    [
        (
            {"key": "ф", "code": "KeyA"},
            {"command": "rank", "key": "a"},
        ),  # the key of the letter a on a Russian keyboard
        ({"key": "A", "code": "KeyA"}, {"command": "rank", "key": "a"}),  # caps lock
        ({"key": "q", "code": "KeyA"}, None),  # a French keyboard: q is no command
        ({"key": "g", "code": "KeyG"}, {"command": "guidelines"}),
        ({"key": "=", "code": "Digit0", "shiftKey": True}, {"command": "tie"}),
        ({"key": "s", "code": "KeyS", "ctrlKey": True}, None),  # the browser's own
        ({"key": "Enter", "code": "Enter", "ctrlKey": True}, {"command": "submit"}),
        ({"key": "Enter", "code": "Enter", "repeat": True}, {"command": "nothing"}),
        ({"key": "a", "code": "KeyA", "isComposing": True}, None),
        ({"key": "5", "code": "Digit5"}, None),
    ],
)
def test_what_a_key_asks_for(blank: Page, event: dict[str, object], command: object) -> None:
    ask = "async (event) => (await import('/keys.js')).commandOf(event, { keys: ['a', 'b'], at: null, single: true })"
    assert blank.evaluate(ask, event) == command
