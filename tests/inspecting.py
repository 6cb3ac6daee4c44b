"""The inspector of a page as a person uses it: what tests open, press, and read of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from playwright.sync_api import Browser, Page

from posttrain.report.html import page as page_of
from posttrain.report.reading import read
from posttrain.report.report import Report
from posttrain.report.scripts import PLOTLY
from posttrain.report.sections.inspector import inspector

# All numbers of all tokens of the rollout that is shown, by answer, token and quantity, as texts.
NUMBERS = """() => {
  const numbers = (token) => {
    token.focus();
    const rows = [...document.querySelectorAll('[data-part=panel] [data-quantity]')];
    return Object.fromEntries(rows.map((row) => [row.dataset.quantity, row.querySelector('.exact').textContent]));
  };
  return [...document.querySelectorAll('#inspector .tokens')].map((list) => [...list.children].map(numbers));
}"""
# How the advantage of each token of the first answer is written out.
WRITTEN = """() => [...document.querySelector('#inspector .tokens').children].map((token) => {
  token.focus();
  const panel = document.querySelector('[data-part=panel]');
  const line = (name) => panel.querySelector(`[data-line=${name}] dd`)?.textContent ?? null;
  const off = panel.querySelector('.off');
  return {
    parts: [...panel.querySelectorAll('[data-part]')].map((cell) => Number(cell.dataset.part)),
    raw: line('raw'), whitened: line('whitened'), stored: line('stored'),
    total: line('total'), fits: off?.dataset.fits ?? null, said: off?.textContent ?? null,
    reason: panel.querySelector('.reason')?.textContent ?? null,
  };
})"""


def written_to(folder: Path, run: Path, *, whole: bool = False) -> Path:
    """A page with the inspector of a run and nothing else, on the disk.

    It has no charts; but for a `whole` one an empty script stands in plotly's place, which takes a second to read.
    """
    found = read(run)
    section = inspector(found)
    report = Report(title=run.name, line="", runs=[found], sections=[] if section is None else [section])
    file = folder / f"{run.name}.html"
    file.write_text(page_of(report, linked=not whole), encoding="utf-8")
    (folder / PLOTLY).touch()
    return file


def opened(browser: Browser, file: Path, **options: Any) -> Page:
    """A page from the disk, once its inspector shows something; it fails where it complains or asks for anything."""
    context = browser.new_context(reduced_motion="reduce", **options)
    page = context.new_page()
    page.set_default_timeout(30_000)
    complaints: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: complaints.append(error.message))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    page.wait_for_selector("#inspector .token", state="attached")
    assert complaints == []
    assert {*asked} <= {file.as_uri(), (file.parent / PLOTLY).as_uri()}
    return page


def panel(page: Page) -> str:
    """The answer and the token that the panel shows: `0 3`."""
    return page.locator("[data-part=panel]").get_attribute("data-at") or ""


def value(page: Page, quantity: str) -> str:
    """A number of the token that the panel shows."""
    return page.locator(f"[data-part=panel] [data-quantity={quantity}] .exact").text_content() or ""


def texts(page: Page, part: str) -> Sequence[str]:
    """The texts of all elements of a selector inside the inspector."""
    return page.locator(f"#inspector {part}").all_text_contents()


def choose_rollout(page: Page, row: int) -> None:
    """Opens a rollout of the step from its list."""
    page.locator("[data-part=rollout]").select_option(str(row))


def number(text: str | None) -> float:
    """A number as the page writes it."""
    assert text is not None
    return float(text.replace("−", "-"))


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of the inspector."""
    return pq.ParquetFile(path).read().to_pylist()


def chosen(page: Page, part: str) -> str:
    """What a list of choices has chosen."""
    return page.locator(f"[data-part={part}]").input_value()


def same(text: str, stored: float | bool) -> bool:
    """Whether a number on the page reads back to the float32 of the file."""
    if isinstance(stored, bool):
        return text == ("true" if stored else "false")
    return np.float32(text).tobytes() == np.float32(stored).tobytes()
