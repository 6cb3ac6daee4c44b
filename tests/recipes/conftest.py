"""What tests of the recipes compare with."""

from __future__ import annotations

from typing import Any

import pytest
from killing import remains
from saves import train
from stages import Stages


@pytest.fixture(scope="session")
def undisturbed(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run of `saves.train` leaves when nothing happens to it."""
    return remains(train(stages, tmp_path_factory.mktemp("undisturbed") / "run", {}).path)
