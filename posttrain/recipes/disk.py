"""What a run writes to the disk of its folder, and whether there is room for it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from posttrain.config import Training
from posttrain.errors import DoesNotFit
from posttrain.models.load import base_of
from posttrain.recipes.forecast import size
from posttrain.recipes.weights import BYTES, weights_of

_CHECKPOINT = 3 * BYTES  # a weight and the two moments of AdamW


def check_disk(config: Training) -> None:
    """Raises DoesNotFit for a run of all weights, before one is loaded.

    Nothing is known yet of adapters, of a model of the hub that is not here, and of a best model that `auto` may keep.
    """
    if config.lora is None:
        asked = config.model_dump(include={"best", "ema"})
        kept = [name for name, given in asked.items() if given not in (None, "auto")]
        refuse_shortage(config, writes(config, weights_of(base_of(config.model)), kept))


def writes(config: Training, trained: int, kept: Sequence[str]) -> dict[str, int]:
    """Bytes on disk, by part, of a run that trains so many weights and keeps these models besides its last ones."""
    # A checkpoint is written before the oldest one goes; without any, an interruption still leaves one.
    checkpoints = 1 if config.save_every is None else config.keep + 1
    name = "1 checkpoint" if checkpoints == 1 else f"{checkpoints} checkpoints"
    found = {"model": trained * BYTES, name: checkpoints * trained * _CHECKPOINT}
    for name in kept:  # as a model at the end, and in every checkpoint
        found[f"run/{name}"] = (1 + checkpoints) * trained * BYTES
    return found


def checkpoint(trained: int, kept: Sequence[str]) -> int:
    """Bytes of one checkpoint of such a run, on disk and as a copy in memory."""
    return trained * (_CHECKPOINT + BYTES * len(kept))


def refuse_shortage(config: Training, disk: Mapping[str, int]) -> None:
    """Raises DoesNotFit when the disk of `out` has no room for these parts, in bytes."""
    free = free_disk(Path(config.out))
    if sum(disk.values()) > free:
        parts = ", ".join(f"{name} {size(taken)}" for name, taken in disk.items())
        fixes = ["free some space", "lower keep", "set save_every to null"]
        fixes += ["train adapters (--lora.rank 32)"] if config.lora is None else []
        raise DoesNotFit(
            f"{config.out}: the run writes {size(sum(disk.values()))}, and {size(free)} are free"
            f"\n  {parts}\n  fix: {', '.join(fixes[:-1])}, or {fixes[-1]}"
        )


def free_disk(out: Path) -> int:
    """Bytes that a run may write where `out` is or will be; what it has written there already is its own."""
    own = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) if out.is_dir() else 0
    return shutil.disk_usage(_standing(out)).free + own


def _standing(path: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return path if path.exists() else _standing(path.absolute().parent)
