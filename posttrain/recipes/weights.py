"""The weights in a model folder: how many there are, and whether they have room in memory, before one is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from posttrain.engine.memory import available
from posttrain.errors import DoesNotFit
from posttrain.models.load import base_of
from posttrain.models.quantize import Bits, bytes_of_weight
from posttrain.recipes.forecast import size

BYTES = 4
"""Of a weight: models are loaded in float32."""


def weights_of(folder: str) -> int:
    """The number of weights in a model folder, from the headers of its files; 0 where there are none to read."""
    return sum(map(math.prod, _shapes(folder)))


def _shapes(folder: str) -> Iterator[Sequence[int]]:
    for file in Path(folder).glob("*.safetensors"):
        try:
            with safe_open(file, framework="pt") as tensors:
                yield from [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118
        except (SafetensorError, OSError):
            continue  # said when it is loaded


def check_weights(path: str, device: torch.device, quantize: Bits | None = None) -> None:
    """Raises DoesNotFit, in bytes, when `device` has no room for the weights of a model folder.

    Nothing is known of a model of the hub that is not here yet.
    """
    base = base_of(path)
    weights, free = weights_of(base), available(device)
    taken = weights * BYTES if quantize is None else in_few_bits(base, quantize)
    if taken > free:
        raise DoesNotFit(
            f"{path}: its {weights:,} weights take {size(taken)}, and {size(free)} are free"
            "\n  fix: a smaller model, or a machine with more memory"
        )


def in_few_bits(folder: str, quantize: Bits) -> int:
    """Bytes of the weights in a model folder when its linear layers are in few bits, by the shapes in its files.

    A matrix with a row for each token of the vocabulary is the embedding or the head, which stay as they are.
    """
    shapes = list(_shapes(folder))
    words = _vocabulary(folder)
    few = sum(math.prod(shape) for shape in shapes if len(shape) == 2 and shape[0] != words)
    whole = sum(math.prod(shape) for shape in shapes) - few
    return round(whole * BYTES + few * bytes_of_weight(quantize))


def _vocabulary(folder: str) -> int | None:
    try:
        facts = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
        return facts.get("vocab_size") or facts.get("text_config", {}).get("vocab_size")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None  # a model of the hub; what is wrong with the file is said when it is loaded
