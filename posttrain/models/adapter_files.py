"""Adapters in files, as peft writes and reads them: a stack is saved as one adapter, without an approximation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from posttrain.errors import ModelError
from posttrain.hub import in_our_words
from posttrain.models.adapters import forget, inject, lora_layers, parts_of, spec_of
from posttrain.models.dora import dense, lengths, product
from posttrain.models.precision import set_values
from posttrain.models.quantize import turned

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """What a stack makes of a weight W [out, in]: G (W + B A), with `gain` G [out], None for ones.

    `a` [R, in] and `b` [out, R] are those of all adapters side by side, their scaling folded into B.
    """

    a: Tensor
    b: Tensor
    gain: Tensor | None

    def magnitude(self, weight: Tensor) -> Tensor:
        """The lengths [out] with which DoRA says the same: G |W + B A|."""
        lengths_ = lengths(weight, product(self.b, self.a))
        return lengths_ if self.gain is None else self.gain * lengths_

    def applied(self, weight: Tensor) -> Tensor:
        """The weight [out, in] with the stack in it, float32."""
        whole = weight.float() + product(self.b, self.a)
        return whole if self.gain is None else self.gain[:, None] * whole


def fold(layer: LoraLayer, stack: Sequence[str]) -> Fold | None:
    """A layer's adapters as one, lowest first; None where the stack does not touch it.

    Each plain one makes W' of W' + s B A, and each DoRA g (W' + s B A), with g = m / |W + s B A| of the base's W.
    """
    above: list[Tensor] = []
    beside: list[Tensor] = []
    gain: Tensor | None = None
    for name in stack:
        if name not in layer.lora_A:
            continue
        parts = parts_of(layer, name)
        a, b = parts["lora_A.weight"], parts["lora_B.weight"] * layer.scaling[name]
        above.append(a)
        beside.append(b if gain is None else b / gain[:, None])
        if "lora_magnitude_vector" in parts:
            own = parts["lora_magnitude_vector"] / lengths(dense(layer.get_base_layer()), product(b, a))
            gain = own if gain is None else own * gain
    return Fold(a=torch.cat(above), b=torch.cat(beside, dim=1), gain=gain) if above else None


def folds(model: nn.Module, stack: Sequence[str]) -> dict[str, Fold]:
    """One adapter equal to the whole stack, by module name."""
    found = {name: fold(layer, stack) for name, layer in lora_layers(model).items()}
    return {name: one for name, one in found.items() if one is not None}


def merge_into(model: nn.Module, stack: Sequence[str]) -> int:
    """The number of layers whose weights now hold the stack; no adapter is left on the model.

    Raises ModelError for a head that shares its weights with the embedding: they cannot differ.
    """
    shared = getattr(getattr(model, "get_input_embeddings", lambda: None)(), "weight", None)
    merged = 0
    with torch.no_grad():
        for name, layer in lora_layers(model).items():
            one, base = fold(layer, stack), layer.get_base_layer()
            if one is None:
                continue
            if base.weight is shared:
                raise ModelError(f"{name} shares its weights with the embedding, so an adapter on it cannot be merged")
            whole = one.applied(dense(base))
            cast("Tensor", base.weight).copy_(whole.T if turned(base) else whole)
            merged += 1
    forget(model)
    return merged


def save_adapter(
    model: nn.Module, stack: Sequence[str], folder: Path, *, base: str, prefix: str = "", score: Tensor | None = None
) -> None:
    """Writes the stack as one adapter against `base`; `PeftModel.from_pretrained` loads it to the same outputs.

    A stack of one is written as it is; of more, by exact concatenation. `prefix` is where the model stands inside the
    one that the folder is for ("model." for a backbone). `score` [1, D] goes along as a module to save, for a sequence
    classifier.
    """
    with torch.no_grad():
        shape, tensors = _alone(model, stack[0]) if len(stack) == 1 else _together(model, stack)
    config = LoraConfig(
        r=shape.rank,
        lora_alpha=cast("int", shape.alpha),
        target_modules=sorted(f"{prefix}{name}" for name in shape.layers),
        rank_pattern={f"{prefix}{name}": rank for name, rank in shape.ranks.items()},
        alpha_pattern={f"{prefix}{name}": cast("int", alpha) for name, alpha in shape.alphas.items()},
        use_rslora=shape.rslora,
        use_dora=shape.dora,
        fan_in_fan_out=any(turned(layer.get_base_layer()) for layer in lora_layers(model).values()),
        base_model_name_or_path=base,
        task_type="CAUSAL_LM" if score is None else "SEQ_CLS",
        modules_to_save=None if score is None else ["score"],
        inference_mode=True,
    )
    named = {f"{_PREFIX}{prefix}{name}": tensor for name, tensor in tensors.items()}
    if score is not None:
        named[f"{_PREFIX}score.weight"] = score
    config.save_pretrained(str(folder))
    written = {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}
    save_file(written, folder / WEIGHTS, metadata={"format": "pt"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """An adapter as its file tells it; `ranks` and `alphas` are those of layers that differ."""

    rank: int
    alpha: float
    layers: Sequence[str]
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rslora: bool = False
    dora: bool = False


def _alone(model: nn.Module, name: str) -> tuple[_Shape, dict[str, Tensor]]:
    """One adapter as it is."""
    spec = spec_of(model, name)
    shape = _Shape(
        rank=spec.rank, alpha=spec.alpha, layers=tuple(spec.targets), ranks=spec.rank_pattern,
        alphas=spec.alpha_pattern, rslora=spec.rslora, dora=spec.dora,
    )  # fmt: skip
    tensors = {
        f"{place}.{key}": part
        for place, layer in lora_layers(model).items()
        for key, part in parts_of(layer, name).items()
    }
    return shape, {**tensors}


def _together(model: nn.Module, stack: Sequence[str]) -> tuple[_Shape, dict[str, Tensor]]:
    """Several adapters side by side, with a scaling of 1; one with magnitudes gives all layers some."""
    parts = folds(model, stack)
    ranks = {name: part.a.shape[0] for name, part in parts.items()}
    rank = max(ranks.values())
    others = {name: size for name, size in ranks.items() if size != rank}
    dora = any(part.gain is not None for part in parts.values())
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = part.a, part.b
        if dora:
            weight = dense(lora_layers(model)[name].get_base_layer())
            tensors[f"{name}.lora_magnitude_vector"] = part.magnitude(weight)
    shape = _Shape(rank=rank, alpha=float(rank), layers=tuple(parts), ranks=others, alphas=others, dora=dora)
    return shape, tensors


def _config_in(folder: Path) -> LoraConfig:
    """The shape of the adapter in a folder. Raises ModelError for one that is no LoRA adapter."""
    with in_our_words(folder, f"{folder / CONFIG}  is no adapter's"):
        config = LoraConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise ModelError(
            f"{folder / CONFIG}  is of {config.peft_type}\n  fix: give a LoRA adapter, or merge it with peft"
        )
    return config


def holds_score(folder: Path) -> bool:
    """Whether the adapter of a folder is that of a reward model or critic, with a head of its own."""
    return "score" in (_config_in(folder).modules_to_save or ())


def is_dora(folder: Path) -> bool:
    """Whether the adapter of a folder has magnitudes, by its config."""
    return bool(_config_in(folder).use_dora)


def load_adapter(model: nn.Module, name: str, folder: Path, *, prefix: str = "") -> Tensor | None:
    """Attaches the adapter of `folder`, frozen, and returns its score head's weight [1, D] where it has one.

    `prefix` is where the model stands inside the one that the folder was written for. Raises ModelError when the file's
    tensors are not those that the model needs.
    """
    config = _config_in(folder)
    config.modules_to_save = None
    config.inference_mode = False
    if prefix and not isinstance(config.target_modules, str):
        config.target_modules = [target.removeprefix(prefix) for target in config.target_modules or ()]
        config.rank_pattern = {key.removeprefix(prefix): rank for key, rank in (config.rank_pattern or {}).items()}
        config.alpha_pattern = {key.removeprefix(prefix): alpha for key, alpha in (config.alpha_pattern or {}).items()}
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} has no weights: no {WEIGHTS}\n  fix: save the adapter again with safetensors")
    try:
        with in_our_words(folder, "LoRA cannot be attached"):
            inject(model, config, name)
    except ModelError as error:
        raise ModelError(f"{folder / CONFIG}  {error}") from error
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder / WEIGHTS} cannot be read: {error}\n  fix: copy the folder again") from error
    score = tensors.pop(f"{_PREFIX}score.weight", None)
    for place, layer in lora_layers(model).items():
        for key, part in parts_of(layer, name).items():
            whole = f"{_PREFIX}{prefix}{place}.{key}"
            _fill(part, tensors.pop(whole, None), f"{folder}: {whole}")
    if tensors:
        raise ModelError(f"{folder}: {len(tensors)} adapter tensors fit no layer of the base, first {min(tensors)}")
    return score


def _fill(weight: nn.Parameter, found: Tensor | None, name: str) -> None:
    if found is None:
        raise ModelError(f"{name} is missing and would be random")
    if found.shape != weight.shape:
        raise ModelError(f"{name} has shape {tuple(found.shape)}, the base needs {tuple(weight.shape)}")
    set_values(weight, found)
