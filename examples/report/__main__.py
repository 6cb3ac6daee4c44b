"""Pictures of reports for docs/report.md: the pages of a finished demo, in a real browser without network.

    posttrain demo --out runs/demo
    python -m examples.report runs/demo --out docs/figures

Writes the pages anew first. Needs Chromium (`make browser`).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from playwright.sync_api import Browser, Locator, Page, ViewportSize, sync_playwright

from posttrain import report_of

WIDE, PHONE = ViewportSize(width=1280, height=900), ViewportSize(width=390, height=844)


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture of the demo's run `run`: of its section, with what stands below as far as a screen goes, or its top."""

    run: str
    section: str = ""
    dark: bool = False
    phone: bool = False


PICTURES: Mapping[str, Picture] = {
    "report": Picture(run="ppo"),
    "report_sft": Picture(run="sft", section="curves"),
    "report_reward": Picture(run="reward", section="reward"),
    "report_health": Picture(run="ppo", section="ppo"),
    "report_dpo": Picture(run="dpo", section="dpo", dark=True),
    "report_answers": Picture(run="ppo", section="answers"),
    "report_inspector": Picture(run="ppo", section="inspector"),
    "report_phone": Picture(run="ppo", section="inspector", phone=True),
}


def pictures(
    demo: Annotated[Path, Parameter(help="the folder of a finished demo")] = Path("runs/demo"),
    *,
    out: Annotated[Path, Parameter(help="the folder for the pictures")] = Path("docs/figures"),
) -> None:
    """Make the pictures of docs/report.md."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("error: there is no chromium\n  fix: make browser")
    if not (demo / "results.json").is_file():
        sys.exit(f"error: {demo} holds no finished demo\n  fix: posttrain demo --out {demo}")
    out.mkdir(parents=True, exist_ok=True)
    pages = {run: report_of(demo / "runs" / run) for run in {picture.run for picture in PICTURES.values()}}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, picture in PICTURES.items():
            take(browser, pages[picture.run], picture, out / f"{name}.png")
        browser.close()


def take(browser: Browser, page_file: Path, picture: Picture, file: Path) -> None:
    """Takes one picture."""
    light, size = "dark" if picture.dark else "light", PHONE if picture.phone else WIDE
    context = browser.new_context(offline=True, viewport=size, color_scheme=light, reduced_motion="reduce")
    page = context.new_page()
    page.goto(page_file.resolve().as_uri())
    if picture.section:
        drawn(page, page.locator(f"#{picture.section}"))
    page.screenshot(path=file)
    context.close()


def drawn(page: Page, section: Locator) -> None:
    """Scrolls through a section until its charts are drawn, and back to where it begins."""
    for plot in section.locator("[data-figure]:visible").all():
        plot.scroll_into_view_if_needed()
        plot.locator(".main-svg").first.wait_for()
    section.evaluate("(section) => section.scrollIntoView()")


if __name__ == "__main__":
    app = App(help=__doc__ or "", result_action="return_value", version_flags=())
    app.default(pictures)
    app()
