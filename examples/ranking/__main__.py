"""Pictures of the ranking page for docs/ranking.md: a real server, a real browser, and the answers of examples/data.

    python -m examples.ranking --out docs/figures

Two people rank everything, so that there are figures and a dispute to show. Needs Chromium (`make browser`).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

POOL = Path(__file__).parent.parent / "data" / "pool.jsonl"
WIDE, PHONE = ViewportSize(width=1280, height=800), ViewportSize(width=390, height=844)
SECONDS = {"Ada": 19, "Grace": 24}  # that they take for an item
READY = "[data-state='ranking'], [data-state='nothing']"
SKY, FILE, ROLLS, DINNER, CAPITAL, BLEACH = range(6)
# What two people press at each item of the file: a number is the letter that the answer of that place has for them.
ORDERS: Mapping[str, Mapping[int, str]] = {
    "Ada": {SKY: "3 1 2 4", FILE: "1 3 2", ROLLS: "1 = 4 3 2", DINNER: "1 3 4 2", CAPITAL: "1 3 2", BLEACH: "1 3 2"},
    "Grace": {SKY: "1 = 3 2", FILE: "1 2 3", ROLLS: "1 4 3 2", DINNER: "3 1 2", CAPITAL: "1 3 2", BLEACH: "1 3 2"},
}
# At which items pictures are taken, after so many of the keys.
TAKEN = {("Ada", FILE): ("ranking_dark", 1), ("Grace", SKY): ("ranking", 3), ("Grace", ROLLS): ("ranking_phone", 2)}


def pictures(*, out: Annotated[Path, Parameter(help="the folder for the pictures")] = Path("docs/figures")) -> None:
    """Make the pictures of docs/ranking.md."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("error: there is no chromium\n  fix: make browser")
    out.mkdir(parents=True, exist_ok=True)
    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name in ORDERS:
            ranked(browser, address, name, out)
        page = entered(browser, address, "Katherine")
        for path in ("statistics", "adjudicate"):
            page.goto(f"{address}/{path}")
            page.wait_for_selector("#disputed a")
            page.screenshot(path=out / f"ranking_{path}.png", full_page=path == "statistics")
        browser.close()


@contextmanager
def served() -> Generator[str]:
    """The address of a server with an empty store, at which every item is for two people."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--db", f"{folder}/feedback.db", "--port", "0", "--overlap", "1", "--audit", "0"]
        command = [sys.executable, "-m", "posttrain", "rank", str(POOL), *flags]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                yield address_in(process)
            finally:
                process.kill()


def address_in(process: subprocess.Popen[str]) -> str:
    """Where a server says that it is. Exits with what it said where it says nothing of the kind."""
    said: list[str] = []
    for line in process.stdout or ():
        said.append(line)
        if found := re.search(r"http://[\w.]+:\d+", line):
            return found[0]
    sys.exit("".join(said))


def entered(browser: Browser, address: str, name: str) -> Page:
    """The page of a person who has just signed in."""
    page = browser.new_context(viewport=WIDE, reduced_motion="reduce").new_page()
    page.clock.install()
    page.goto(address)
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Begin").click()
    page.wait_for_selector(READY)
    return page


def ranked(browser: Browser, address: str, name: str, out: Path) -> None:
    """Ranks every item as a person does, and takes the pictures on the way."""
    rows = [json.loads(line) for line in POOL.read_text(encoding="utf-8").splitlines()]
    page = entered(browser, address, name)
    while page.locator("[data-state='ranking']").count():
        shown = page.locator("#prompt .text").last.text_content() or ""
        item = next(place for place, row in enumerate(rows) if question(row) in shown)
        keys = [letter(page, rows[item]["responses"], key) for key in ORDERS[name][item].split()]
        picture, after = TAKEN.get((name, item), ("", 0))
        press(page, keys[:after])
        if picture:
            take(page, out / f"{picture}.png", dark="dark" in picture, phone="phone" in picture)
        press(page, keys[after:])
        page.clock.run_for(1000 * SECONDS[name])
        with page.expect_response(lambda answer: "/api/next" in answer.url):
            page.keyboard.press("Enter")
        page.wait_for_selector(READY)


def question(row: Mapping[str, object]) -> str:
    """The last thing that a row asks."""
    messages = row.get("messages")
    return str(messages[-1]["content"] if isinstance(messages, list) else row["prompt"])


def letter(page: Page, responses: Sequence[str], key: str) -> str:
    """The letter of an answer by its place in the file; another key is itself."""
    if not key.isdecimal():
        return key
    beginning = responses[int(key) - 1].split("\n")[0]
    cards = page.locator("[data-key]")
    texts = [text.removeprefix("\n") for text in cards.locator(".text").all_text_contents()]
    place = next(place for place, text in enumerate(texts) if text.startswith(beginning))
    return cards.nth(place).get_attribute("data-key") or ""


def press(page: Page, keys: Sequence[str]) -> None:
    """Presses keys, one after another."""
    for key in keys:
        page.keyboard.press(key)


def take(page: Page, file: Path, *, dark: bool, phone: bool) -> None:
    """A picture of the page in other light or on a phone, which it leaves as it was."""
    page.emulate_media(color_scheme="dark" if dark else "light", reduced_motion="reduce")
    page.set_viewport_size(PHONE if phone else WIDE)
    page.screenshot(path=file)
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    page.set_viewport_size(WIDE)


if __name__ == "__main__":
    app = App(help=__doc__ or "", result_action="return_value", version_flags=())
    app.default(pictures)
    app()
