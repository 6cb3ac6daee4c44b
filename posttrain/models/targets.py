"""Which layers an adapter may sit on, and what was meant by a name that is none of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.pytorch_utils import Conv1D

from posttrain.errors import ModelError


def layers_of(config: PretrainedConfig) -> list[str]:
    """The names of a model's linear layers, the language head among them, by its config alone: no weight is loaded."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return linear_layers(model)


def linear_layers(model: nn.Module) -> list[str]:
    """The names of all linear layers of a model without adapters."""
    return [name for name, part in model.named_modules() if isinstance(part, nn.Linear | Conv1D)]


def check_targets(layers: Sequence[str], setting: str, names: Sequence[str]) -> None:
    """Raises ModelError, with the nearest names, when one of `names` ends the name of no layer.

    `setting` is what the names were given as; those of patterns may be regular expressions, as in peft.
    """
    wrong = [name for name in names if not any(meant(name, layer, setting) for layer in layers)]
    if wrong:
        ends = list(dict.fromkeys(layer.rpartition(".")[2] for layer in layers))
        raise ModelError(
            f"{setting}: no linear layer is named {', '.join(wrong)}\n  fix: {'; '.join(_fixes(wrong, layers, ends))}"
        )


def meant(name: str, layer: str, setting: str) -> bool:
    """True where `name` stands for the layer: its whole name, or how it ends after a dot."""
    if setting.endswith("_pattern"):
        try:
            return re.match(rf"(.*\.)?({name})$", layer) is not None
        except re.error:
            return False
    return layer == name or layer.endswith(f".{name}")


def _fixes(wrong: Sequence[str], layers: Sequence[str], ends: Sequence[str]) -> Iterator[str]:
    for name in wrong:
        pool = layers if "." in name else ends
        near = difflib.get_close_matches(name, pool, n=1, cutoff=0.5)
        if near:
            yield f"write {near[0]} for {name}"
    yield f"the layers end in {', '.join(ends)}"
