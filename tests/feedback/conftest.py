"""A ranking server on this machine for a test."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from browsing import Browser, Serve
from rankings_at_hand import EVERYTHING_ONCE

from posttrain.feedback.server import Options, application
from posttrain.feedback.serving import Serving


@pytest.fixture
def serve() -> Generator[Serve]:
    """What serves a store, and gives a maker of browsers at it."""
    with ExitStack() as stack:

        def served(path: Path, **options: Any) -> Callable[[], Browser]:
            chosen = Options(**{"rules": EVERYTHING_ONCE, **options})
            app = application(path, chosen)
            serving = stack.enter_context(Serving(app, host="127.0.0.1", port=0))
            return lambda: Browser(serving.address)

        yield served
