"""The page in a real browser: it opens from disk with no network, asks nobody, and no text in it does anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from reported import HOSTILE, change, written

from posttrain.errors import Problem
from posttrain.report.comparison import comparison_of
from posttrain.report.reading import read
from posttrain.report.report import report_of
from posttrain.report.writing import write

pytestmark = pytest.mark.medium
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


class Opened:
    """A page from disk in a browser without network, and all that it asked for or complained of."""

    def __init__(self, browser: Browser, file: Path, **options: Any) -> None:
        self.asked: list[str] = []
        self.complaints: list[str] = []
        options = {"viewport": WIDE, **options}
        self.context = browser.new_context(offline=True, reduced_motion="reduce", **options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(f"{error.message}\n{error.stack}"))
        self.page.on("console", lambda said: self.complaints.append(said.text))
        self.page.goto(file.resolve().as_uri())

    def drawn(self) -> int:
        """How many charts are drawn, once every one was scrolled to."""
        plots = self.page.locator("[data-figure]:visible")
        for place in range(plots.count()):
            plots.nth(place).scroll_into_view_if_needed()
            plots.nth(place).locator(".main-svg").first.wait_for()
        return plots.count()

    def colour(self, of: str, what: str) -> str:
        return self.page.evaluate("([of, what]) => getComputedStyle(document.querySelector(of))[what]", [of, what])

    def overflow(self) -> int:
        """By how many pixels the page is wider than the screen."""
        return self.page.evaluate("document.documentElement.scrollWidth - innerWidth")

    def close(self) -> None:
        """The page asked for itself alone, and complained of nothing."""
        self.context.close()
        assert self.complaints == []
        assert len(self.asked) == 1


def paged(run: Path, **options: Any) -> Path:
    return write(report_of(read(run)), run / "report.html", **options)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Pages of a long run, a crashed one, a live one, one full of hostile texts, and all of them side by side."""
    folder = tmp_path_factory.mktemp("pages")
    runs = {
        "long": change(written(folder / "long", "ppo", steps=1000), resumes=[{"step": 400}]),
        "crashed": written(folder / "crashed", "dpo", steps=3, ending="failed"),
        "live": written(folder / "live", "reward", steps=0, ending="running"),
        "hostile": _hostile(folder),
    }
    with (runs["crashed"] / "run" / "metrics.jsonl").open("a") as file:  # null, and a line that a kill cut short
        file.write('{"step": 4, "seconds": 1.0, "loss": null}\n{"step": 5, "lo')
    found = {name: paged(run) for name, run in runs.items()}
    return {**found, "together": write(comparison_of([read(run) for run in runs.values()]), folder / "report.html")}


def _hostile(folder: Path) -> Path:
    """A run with a text that would do something wherever a run can have a text."""
    say = [{"step": step, "prompt": text, "answer": text, "stopped": True} for text in HOSTILE for step in (1, 2)]
    name = HOSTILE[1].replace("/", "∕")
    run = written(
        folder / name, "sft", samples=say, model=HOSTILE[0], rows={HOSTILE[1]: {"kept": 3, HOSTILE[2]: 1}},
        problems=[Problem(place=text, what=text, fix=text) for text in HOSTILE],
    )  # fmt: skip
    metrics = (run / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    (run / "run" / "metrics.jsonl").write_text(metrics.replace('"grad_norm"', '"<b onclick=window.hacked=4>grad</b>"'))
    return change(run, automatic={text: text for text in HOSTILE}, versions={text: text for text in HOSTILE})


def test_a_long_run_opens_offline_with_every_chart_and_few_points(chromium: Browser, files: Mapping[str, Path]) -> None:
    opened = Opened(chromium, files["long"])
    assert opened.page.locator("h1").text_content() == "long"
    ids = opened.page.evaluate("[...document.querySelectorAll('main section')].map((section) => section.id)")
    assert {"verdict", "lineage", "curves", "ppo", "cost", "reproduce"} <= {*ids}
    links = opened.page.evaluate("[...document.querySelectorAll('nav a')].map((link) => link.hash.slice(1))")
    assert links == ids
    assert opened.drawn() >= 5
    points = opened.page.evaluate("document.getElementById('curve-score').querySelector('.plot').data[0].x.length")
    assert 100 < points <= 600
    tops = opened.page.locator("#curve-score .main-svg").evaluate_all(
        "(all) => all.map((svg) => svg.getBoundingClientRect().top)"
    )
    assert len(tops) > 1 == len({*tops})  # plotly's layers lie on one another
    shapes = opened.page.evaluate("document.getElementById('curve-score').querySelector('.plot').layout.shapes")
    assert [shape["x0"] for shape in shapes] == [400]
    assert files["long"].stat().st_size < 6_000_000
    opened.close()


@pytest.mark.parametrize("name", ["crashed", "live"])
def test_a_run_that_did_not_end_well_has_its_page(chromium: Browser, files: Mapping[str, Path], name: str) -> None:
    opened = Opened(chromium, files[name])
    ids = opened.page.evaluate("[...document.querySelectorAll('main section')].map((section) => section.id)")
    assert ("curves" in ids) == (name == "crashed")
    assert {"crashed": "failed", "live": "running"}[name] in (opened.page.locator(".line").text_content() or "")
    opened.drawn()
    opened.close()


def test_no_text_of_data_or_models_does_anything(chromium: Browser, files: Mapping[str, Path]) -> None:
    for name in ("hostile", "together"):
        opened = Opened(chromium, files[name])
        opened.page.evaluate("document.querySelectorAll('main details').forEach((part) => { part.open = true; })")
        opened.drawn()
        for link in opened.page.locator("main a").all():
            assert (link.get_attribute("href") or "").startswith("#")
        opened.page.locator("[data-figure]:visible").first.hover()
        assert opened.page.evaluate("window.hacked === undefined")
        assert opened.page.locator("main img, main b[onclick], .plot a").count() == 0
        if name == "hostile":
            said = opened.page.locator("main").text_content() or ""
            assert all(text.replace("\0", "") in said for text in HOSTILE)
        opened.close()


def test_it_is_dark_where_the_reader_is_and_turns_with_them(chromium: Browser, files: Mapping[str, Path]) -> None:
    opened = Opened(chromium, files["long"], color_scheme="dark")
    opened.drawn()
    ground, ink = opened.colour("section", "backgroundColor"), opened.colour("section", "color")
    grid = opened.colour(".plot .xgrid", "stroke")
    opened.page.emulate_media(color_scheme="light")
    assert opened.colour("section", "backgroundColor") == "rgb(255, 255, 255)" != ground
    assert opened.colour("section", "color") != ink
    opened.page.wait_for_function(
        "(grid) => getComputedStyle(document.querySelector('.plot .xgrid')).stroke !== grid", arg=grid
    )
    opened.close()


@pytest.mark.parametrize("name", ["hostile", "together"])
def test_it_fits_a_phone(chromium: Browser, files: Mapping[str, Path], name: str) -> None:
    opened = Opened(chromium, files[name], viewport=PHONE)
    assert opened.overflow() == 0
    contents = opened.page.locator("#contents")
    assert contents.get_attribute("open") is None  # folded away until it is asked for
    contents.locator("summary").click()
    contents.locator("a").first.click()
    assert contents.get_attribute("open") is None
    opened.drawn()
    assert opened.overflow() == 0
    opened.close()


def test_keys_reach_everything_and_paper_has_all_charts(chromium: Browser, files: Mapping[str, Path]) -> None:
    opened = Opened(chromium, files["long"])
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.className") == "beyond"
    opened.page.keyboard.press("Enter")
    assert opened.page.evaluate("document.activeElement.id") == "content"
    names = opened.page.locator("[data-figure]").evaluate_all(
        "(all) => all.map((plot) => plot.getAttribute('aria-label'))"
    )
    assert all("→" in name for name in names)
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    shown = opened.page.locator("[data-figure]:visible").count()
    opened.page.wait_for_function("(all) => document.querySelectorAll('.plot:has(.main-svg)').length >= all", arg=shown)
    opened.close()


def test_a_linked_page_finds_its_script_beside_it(chromium: Browser, tmp_path: Path) -> None:
    opened = Opened(chromium, paged(written(tmp_path / "run"), linked=True))
    assert opened.drawn() > 0
    assert [Path(asked).name for asked in opened.asked] == ["report.html", "plotly.min.js"]
    opened.asked.pop()
    opened.close()
