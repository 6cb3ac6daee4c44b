"""Whether a run's folder has room for what the run will write, known before a weight is loaded."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from safetensors import SafetensorError, safe_open

from posttrain.config import Training
from posttrain.errors import DoesNotFit
from posttrain.models.load import base_of

_WEIGHT = 4
_CHECKPOINT = 3 * _WEIGHT  # a weight and the two moments of AdamW


def check_disk(config: Training) -> None:
    """Raises DoesNotFit, in bytes, when the folder's disk has no room for the model and the run's checkpoints.

    Nothing is known of adapters, which are small, nor of a model of the hub that is not here yet.
    """
    if config.lora is not None:
        return
    weights = weights_of(base_of(config.model))
    # A checkpoint is written before the oldest one goes; without any, an interruption still leaves one.
    checkpoints = 1 if config.save_every is None else config.keep + 1
    needed = weights * (_WEIGHT + checkpoints * _CHECKPOINT)
    free = shutil.disk_usage(_standing(Path(config.out))).free
    if needed > free:
        raise DoesNotFit(
            f"{config.out}: the run writes {_shown(needed)}, and {_shown(free)} are free"
            f"\n  the model {_shown(weights * _WEIGHT)}, {checkpoints} checkpoints {_shown(weights * _CHECKPOINT)} each"
            "\n  fix: free some space, lower keep, set save_every to null, or train adapters (--lora.rank 32)"
        )


def weights_of(folder: str) -> int:
    """The number of weights in a model folder, from the headers of its files; 0 where there are none to read."""
    found = 0
    for file in Path(folder).glob("*.safetensors"):
        try:
            with safe_open(file, framework="pt") as tensors:
                names = tensors.keys()
                found += sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)
        except (SafetensorError, OSError):
            continue  # said when it is loaded
    return found


def _standing(path: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return path if path.exists() else _standing(path.absolute().parent)


def _shown(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
