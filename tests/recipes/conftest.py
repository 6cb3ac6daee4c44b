"""The earlier stages, trained once for all tests of the recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
from stages import Stages, build


@pytest.fixture(scope="session")
def stages(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """The stages before PPO and DPO; nothing may be written into them."""
    return build(tmp_path_factory.mktemp("stages"), tiny_model)
