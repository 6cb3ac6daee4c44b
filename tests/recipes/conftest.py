"""The earlier stages, trained once for all tests of the recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from killing import remains
from saves import train
from stages import Stages, build


@pytest.fixture(scope="session")
def stages(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """The stages before PPO and DPO; nothing may be written into them."""
    return build(tmp_path_factory.mktemp("stages"), tiny_model)


@pytest.fixture(scope="session")
def undisturbed(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run of `saves.train` leaves when nothing happens to it."""
    return remains(train(stages, tmp_path_factory.mktemp("undisturbed") / "run", {}).path)
