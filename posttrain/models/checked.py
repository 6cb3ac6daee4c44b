"""What is checked of a model folder before its weights are read: its shape, and the files that hold them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PretrainedConfig

from posttrain.errors import ModelError
from posttrain.hub import from_hub, in_our_words
from posttrain.models.cards import facts_in

_MOST_LAYERS = 10_000
"""Layers are made one by one before the first weight is read: a config alone could keep a machine busy for days."""


@contextmanager
def mismatches_told(base: str) -> Generator[None]:
    """A place to load weights in: where shapes differ, the library names an option of its own and no weight."""
    try:
        yield
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ModelError(
            f"{base} cannot be loaded: its weights have other shapes than its config.json says\n"
            "  fix: copy the folder again, whole"
        ) from error


def shape_of(base: str) -> PretrainedConfig:
    """The config of a folder of full weights, or of the hub.

    Raises ModelError for one that cannot be read, and for one that asks for code of the hub, which is never run.
    """
    with in_our_words(base, f"{base} has no usable config.json"), from_hub(base):
        config = cast("PretrainedConfig", AutoConfig.from_pretrained(base, trust_remote_code=False))
    layers = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(layers, int) and layers > _MOST_LAYERS:
        raise ModelError(
            f"{base}: its config.json says {layers:,} layers, which no model has\n  fix: take another model"
        )
    inner = (getattr(config, name, None) for name in config.sub_configs)
    for part in (config, *inner):
        kernel = getattr(part, "_attn_implementation", None)
        if isinstance(kernel, str) and "/" in kernel:
            raise ModelError(
                f"{base}: its config.json asks for the attention {kernel}, code of the hub, which is never run\n"
                "  fix: take attn_implementation out of it"
            )
    return config


def check_shards(folder: Path) -> None:
    """Raises ModelError for weights in a folder that are damaged, and for an index that names files elsewhere."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        names = cast("dict[str, object]", facts_in(index, {"weight_map": dict})["weight_map"])
        for name in sorted({str(value) for value in names.values()}):
            if Path(name).name != name:
                raise ModelError(f"{index}  names {name}, which is no file of its folder\n  fix: take another model")
            if not (folder / name).is_file():
                raise ModelError(f"{index}  names {name}, which is not there\n  fix: copy the folder again, whole")
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{file} cannot be loaded: {error}\n  fix: copy the folder again, whole") from error
