"""Every kind of input."""

from __future__ import annotations

from .checkpoints import CHECKPOINTS
from .data_files import DATA
from .doors import Kind
from .model_folders import MODELS
from .reward_files import REWARDS
from .run_folders import RUNS
from .settings import SETTINGS, TYPED
from .token_entries import ENTRIES

KINDS: dict[str, Kind] = {
    kind.name: kind for kind in (DATA, SETTINGS, TYPED, RUNS, CHECKPOINTS, ENTRIES, MODELS, REWARDS)
}
