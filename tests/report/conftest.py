"""What tests of the report's page may ask for: one Chromium for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browsing import ABSENT, CHROMIUM
from playwright.sync_api import Browser, sync_playwright


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One Chromium for the tests of a file.

    While it is there its event loop runs in this thread, and nobody else's can: what follows may need one.
    """
    if CHROMIUM is None:
        pytest.skip(ABSENT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
