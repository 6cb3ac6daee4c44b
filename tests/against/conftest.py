"""What comparisons with other libraries ask for."""

from __future__ import annotations

from pathlib import Path

import pytest
from trl_side import Build


@pytest.fixture
def build(tmp_path: Path, tiny_model: Path) -> Build:
    """Makes TRL's trainers with the tokenizer of the tiny model."""
    return Build(folder=tmp_path, tokenizer=tiny_model)
