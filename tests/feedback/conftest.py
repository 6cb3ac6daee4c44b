"""What tests of the ranking page may ask for: a browser, servers, and people who visit them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from browsing import POOL, Serve, Served, Visit, Visitor, visitor
from browsing import chromium as chromium
from playwright.sync_api import Browser


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a server at a pool of rows, with flags of `posttrain rank`."""
    started: list[Served] = []

    def start(rows: Sequence[Mapping[str, object]] = POOL, *flags: str, overlap: int = 0) -> Served:
        pool = tmp_path / f"pool{len(started)}.jsonl"
        pool.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        flags = ("--overlap", str(overlap), "--audit", "0", *flags)
        served = Served(db=tmp_path / f"feedback{len(started)}.db", pool=pool, flags=flags)
        started.append(served)
        served.start()
        return served

    yield start
    for served in started:
        served.kill()


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Visit]:
    """Opens a new person's browser; at the end no page may have complained or asked another host."""
    visitors: list[Visitor] = []

    def open_browser(served: Served, **options: Any) -> Visitor:
        visitors.append(visitor(chromium, served, **options))
        return visitors[-1]

    yield open_browser
    for person in visitors:
        person.context.close()
    for person in visitors:
        assert person.complaints == []
        assert person.hosts <= {person.served.url}
