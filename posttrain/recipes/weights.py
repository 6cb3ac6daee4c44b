"""The weights in a model folder: how many there are, and whether they have room in memory, before one is loaded."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from posttrain.engine.memory import available
from posttrain.errors import DoesNotFit
from posttrain.models.load import base_of
from posttrain.recipes.forecast import size

BYTES = 4
"""Of a weight: models are loaded in float32."""


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


def check_weights(path: str, device: torch.device) -> None:
    """Raises DoesNotFit, in bytes, when `device` has no room for the weights of a model folder.

    Nothing is known of a model of the hub that is not here yet.
    """
    weights, free = weights_of(base_of(path)), available(device)
    if weights * BYTES > free:
        raise DoesNotFit(
            f"{path}: its {weights:,} weights take {size(weights * BYTES)}, and {size(free)} are free"
            "\n  fix: a smaller model, or a machine with more memory"
        )
