"""A real Chromium at a real ranking server: what tests of the ranking page open, press and read."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import pytest
from http_at_hand import Caller
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from served import FORKED, run

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
ABSENT = "needs Chromium: `make browser` installs it where Debian's packages are to be had"
# Two conversations of the pool have these answers, four each, told apart by their first word.
FIRST = ["Rain falls when drops grow heavy.", "Clouds cry.", "Water rises, cools, and falls again.", "Because."]
SECOND = ["Bees make honey.", "Honey is made by bees from nectar.", "Shops.", "Bears?"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One Chromium for the tests of a file; each visitor has a profile of their own.

    While it is there its event loop runs in this thread, and nobody else's can: what follows may need one.
    """
    if CHROMIUM is None:
        pytest.skip(ABSENT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def row(prompt: str, responses: Sequence[str], **more: object) -> dict[str, object]:
    """A line of a pool."""
    return {"prompt": prompt, "responses": list(responses), **more}


POOL = [row("Why does it rain?", FIRST), row("Who makes honey?", SECOND)]


@dataclass(slots=True, kw_only=True)
class Served:
    """A ranking server in a process of its own, at one port of the loopback, with its store."""

    db: Path
    pool: Path
    flags: Sequence[str] = ()
    port: int = field(default_factory=lambda: _free_port())
    process: BaseProcess | None = None
    heard: Connection | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts the server, or starts it again at the same port, and waits until it says where it is."""
        words = ["rank", str(self.pool), "--db", str(self.db), "--port", str(self.port), *self.flags]
        heard, said = FORKED.Pipe(duplex=False)
        self.process = FORKED.Process(target=run, args=(words, said), daemon=True)
        self.process.start()
        said.close()
        lines: list[str] = []
        with open(heard.fileno(), encoding="utf-8", closefd=False) as output:
            for line in output:
                lines.append(line)
                if f":{self.port}" in line:
                    self.heard = heard
                    return
        raise AssertionError(f"the server ended:\n{''.join(lines)}")

    def kill(self) -> None:
        """Ends the server at once, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process.close()
        if self.heard is not None:
            self.heard.close()
        self.process = self.heard = None

    def events(self) -> list[tuple[str, str, dict[str, Any]]]:
        """What the store has: kind, annotator and payload of each event, in order."""
        with closing(sqlite3.connect(self.db)) as connection:
            rows = connection.execute("SELECT kind, annotator, payload FROM events ORDER BY id").fetchall()
        return [(kind, annotator, json.loads(payload)) for kind, annotator, payload in rows]

    def kinds(self) -> list[str]:
        """The kinds of all events, in order."""
        return [kind for kind, _, _ in self.events()]

    def ranked(self) -> dict[str, int | None]:
        """The newest ranking: the rank of each answer by its text."""
        with closing(sqlite3.connect(self.db)) as connection:
            payload, responses = connection.execute(
                "SELECT payload, responses FROM events JOIN items ON items.id = item WHERE kind = 'rank' "
                "ORDER BY events.id DESC LIMIT 1"
            ).fetchone()
        texts = [answer["text"] for answer in json.loads(responses)]
        return dict(zip(texts, json.loads(payload)["ranks"], strict=True))


@dataclass(slots=True, kw_only=True)
class Visitor:
    """A person's browser: one profile with its own cookies and storage, and all that its pages complained about."""

    served: Served
    context: BrowserContext
    complaints: list[str] = field(default_factory=list[str])
    hosts: set[str] = field(default_factory=set[str])

    def open(self, path: str = "/") -> Page:
        """A new page of this person's browser."""
        page = self.context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: self.complaints.append(f"{error.message}\n{error.stack}"))
        page.on("console", lambda said: self._console(said.text))
        page.on("request", lambda request: self.hosts.add(re.sub(r"^(\w+://[^/]*).*", r"\1", request.url, flags=re.S)))
        page.goto(self.served.url + path)
        return page

    def enter(self, name: str) -> Page:
        """A page at which `name` has signed in, before it was opened, and sees an item, or that there is none."""
        caller = Caller(self.served.url)
        caller.enter(name)
        cookies = [{"name": key, "value": value, "url": self.served.url} for key, value in caller.cookies.items()]
        self.context.add_cookies(cast("Any", cookies))
        page = self.open()
        ready(page)
        return page

    def enter_by_form(self, name: str) -> Page:
        """The same, with the form that a person fills in."""
        page = self.open()
        page.get_by_label("Your name").fill(name)
        page.get_by_role("button", name="Begin").click()
        ready(page)
        return page

    def _console(self, text: str) -> None:
        if "Content Security Policy" in text or "Uncaught" in text:
            self.complaints.append(text)


Serve = Callable[..., Served]
Visit = Callable[..., Visitor]


def visitor(browser: Browser, served: Served, **options: Any) -> Visitor:
    """A person who comes for the first time; `options` are those of a context: a viewport, a colour scheme."""
    options.setdefault("reduced_motion", "reduce")
    return Visitor(served=served, context=browser.new_context(**options))


def ready(page: Page) -> None:
    """Waits until an item can be ranked, or there is none."""
    page.wait_for_selector('body[data-state="ranking"], body[data-state="nothing"]')


def letters(page: Page) -> dict[str, str]:
    """The letter of each answer by its text."""
    cards: Mapping[str, str] = page.evaluate(
        "() => Object.fromEntries([...document.querySelectorAll('[data-key]')]"
        ".map((card) => [card.querySelector('.text').textContent, card.dataset.key]))"
    )
    return dict(cards)


def tiers(page: Page) -> list[list[str]]:
    """The tiers that the page shows, best first, as letters."""
    shown: list[list[str]] = page.evaluate(
        "() => [...document.querySelectorAll('#tiers > li')]"
        ".map((tier) => [...tier.querySelectorAll('[data-key]')].map((card) => card.dataset.key))"
    )
    return shown


def unranked(page: Page) -> list[str]:
    """The letters that are not ranked yet."""
    shown: list[str] = page.evaluate(
        "() => [...document.querySelectorAll('#rest [data-key]')].map((card) => card.dataset.key)"
    )
    return shown


def press(page: Page, keys: str) -> None:
    """Presses each of the keys, which are told apart by spaces."""
    for key in keys.split():
        page.keyboard.press(key)


def spoken(page: Page) -> str:
    """What screen readers were told last."""
    return page.locator("#spoken").text_content() or ""


def question(page: Page) -> str:
    """The prompt that the page shows."""
    return page.locator("#prompt .text").last.text_content() or ""


def submitted(page: Page, keys: str) -> None:
    """Presses keys that end with a decision, and waits until the next item is there."""
    *before, last = keys.split()
    press(page, " ".join(before))
    with page.expect_response(lambda answer: "/api/next" in answer.url):
        page.keyboard.press(last)
    ready(page)


def eventually(found: Callable[[], object], expected: object) -> None:
    """Waits until something is as expected, and fails with what it is after a while."""
    until = time.monotonic() + 20
    while (now := found()) != expected and time.monotonic() < until:
        time.sleep(0.05)
    assert now == expected


def _free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
