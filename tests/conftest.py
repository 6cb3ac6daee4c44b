"""What every test may ask for: one thread, a fixed seed, and the shared models and data where they exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state, whichever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared models and data beside the checkout; the test is skipped where it is absent."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the shared models and data in {folder}, which are not part of the repository")
    return folder


@pytest.fixture(scope="session")
def stories_model(shared: Path) -> Path:
    """A model folder with real weights: 260 thousand parameters, trained on children's stories."""
    folder = shared / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip(f"needs the model in {folder}")
    return folder
