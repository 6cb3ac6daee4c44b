"""What tests of the benchmarks ask for: sides that run here, where everything is imported already."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from benchmarks.frame import alternate
from posttrain.recipes import dpo, fitting, ppo, setup

CHANGED = {
    ppo: ("cast_roles", "Annotator"),
    setup: ("sampler", "load_start"),
    fitting: ("fit",),
    dpo: ("reference_sums",),
}
"""What sides put their stopwatches around."""


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sides run in this process and not in one of their own, whose imports take most of its time."""
    for module, names in CHANGED.items():
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name))  # so that it is put back

    def run(words: Sequence[str | Path], *, cache: Path | None = None) -> dict[str, Any]:
        said = io.StringIO()
        with monkeypatch.context() as patch, redirect_stdout(said):
            patch.setattr(sys, "argv", [*map(str, words)])
            if cache is not None:
                patch.setenv("POSTTRAIN_CACHE", str(cache))
            import_module(str(words[0])).main()
        return json.loads(said.getvalue().splitlines()[-1])

    monkeypatch.setattr(alternate, "run", run)
