"""LoRA through peft as stacks of named adapters on one frozen base; a role of RLHF is a stack.

peft's own switching is avoided: `set_adapter` unfreezes what it activates, and leaving `disable_adapter` re-enables
only one adapter. Here activation flips the layers' list of active adapters and nothing else, and trainable
parameters are collected explicitly.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from weakref import WeakKeyDictionary

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer, ParamWrapper
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from posttrain.errors import ModelError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSpec:
    """A new adapter's shape: W + (alpha / rank) B A, A drawn from the seed.

    `targets` are module name endings, or "all-linear": every linear layer but the language head.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: tuple[str, ...] | str = "all-linear"
    seed: int = 0


_layers: WeakKeyDictionary[nn.Module, dict[str, LoraLayer]] = WeakKeyDictionary()


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """The adapted layers of a model by module name; empty before anything is attached."""
    if model not in _layers:
        _layers[model] = {name: part for name, part in model.named_modules() if isinstance(part, LoraLayer)}
    return _layers[model]


@contextmanager
def active(model: nn.Module, stack: Sequence[str]) -> Generator[None]:
    """Inside, exactly the adapters of `stack` add to the model; an empty stack is the base bit for bit.

    Their dropout acts where gradients are recorded and nowhere else: measuring and annotating are without it.
    """
    layers = list(lora_layers(model).values())
    outside = [layer._active_adapter for layer in layers]  # pyright: ignore[reportPrivateUsage]  # peft's setter unfreezes
    for layer in layers:
        layer._active_adapter = list(stack)  # pyright: ignore[reportPrivateUsage]
        layer.lora_dropout.train(torch.is_grad_enabled())
    try:
        yield
    finally:
        for layer, names in zip(layers, outside, strict=True):
            layer._active_adapter = names  # pyright: ignore[reportPrivateUsage]


def attach(model: nn.Module, name: str, spec: LoraSpec) -> list[nn.Parameter]:
    """The parameters of a new adapter that changes nothing yet (B is zero); everything else is left frozen.

    Raises ModelError when no layer matches the targets, or when the name is taken.
    """
    if name in adapter_names(model):
        raise ModelError(f"an adapter named {name!r} is already attached")
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=cast("int", spec.alpha),
        lora_dropout=spec.dropout,
        target_modules=_linear_layers(model) if spec.targets == "all-linear" else list(spec.targets),
        fan_in_fan_out=any(isinstance(part, Conv1D) for part in model.modules()),
        bias="none",
    )
    # Names and what is there already enter the seed: two adapters of one stack must not share their rows of A.
    attached = [part.shape for other in adapter_names(model) for part in adapter_parameters(model, other)]
    digest = hashlib.blake2b(f"{spec.seed} {name} {attached}".encode(), digest_size=6).digest()
    _inject(model, config, name)
    _draw(model, name, torch.Generator().manual_seed(int.from_bytes(digest)))
    parameters = adapter_parameters(model, name)
    for parameter in parameters:
        parameter.requires_grad_(True)
    return parameters


def _linear_layers(model: nn.Module) -> list[str]:
    """The names of all linear layers but the language head, adapted ones included.

    peft's own "all-linear" also takes the fused experts of some families, whose factors cannot be concatenated.
    """
    find_head = getattr(model, "get_output_embeddings", lambda: None)
    inner = {f"{name}.base_layer" for name in lora_layers(model)}
    return [
        name
        for name, part in model.named_modules()
        if (isinstance(part, nn.Linear | Conv1D) or name in lora_layers(model))
        and part is not find_head()
        and name not in inner
        and ".lora_" not in name
    ]


def _draw(model: nn.Module, name: str, generator: torch.Generator) -> None:
    """A of a new adapter as `nn.Linear` draws its weights (Hu 2021's own code), on any device the same."""
    with torch.no_grad():
        for layer in lora_layers(model).values():
            if name in layer.lora_A:
                weight = _weight(layer.lora_A, name)
                drawn = nn.init.kaiming_uniform_(torch.empty(weight.shape), a=math.sqrt(5), generator=generator)
                weight.copy_(drawn)


def _inject(model: nn.Module, config: LoraConfig, name: str) -> None:
    """Adds a frozen adapter; base weights become frozen, and adapters that were trainable stay so."""
    trainable = [p for other in adapter_names(model) for p in adapter_parameters(model, other) if p.requires_grad]
    try:
        with warnings.catch_warnings():
            # peft warns of a second adapter on one model, and of Linear beside Conv1D; here both are as meant.
            warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
            inject_adapter_in_model(config, model, adapter_name=name)
    except ValueError as error:
        raise ModelError(f"LoRA cannot be attached: {str(error).splitlines()[0]}") from error
    _layers.clear()
    if any(isinstance(layer, ParamWrapper) for layer in lora_layers(model).values()):
        raise ModelError(
            "LoRA cannot be attached to fused expert weights"
            "\n  fix: name linear layers in lora.targets, for example q_proj, k_proj, v_proj and o_proj"
        )
    model.requires_grad_(False)
    for parameter in trainable:
        parameter.requires_grad_(True)


def adapter_names(model: nn.Module) -> tuple[str, ...]:
    """The names attached to the model, in the order of attachment."""
    return tuple(dict.fromkeys(name for layer in lora_layers(model).values() for name in layer.lora_A))


def adapter_parameters(model: nn.Module, name: str) -> list[nn.Parameter]:
    """The A and B of one adapter, layer by layer."""
    return [
        _weight(part, name)
        for layer in lora_layers(model).values()
        for part in (layer.lora_A, layer.lora_B)
        if name in part
    ]


def _weight(part: nn.ModuleDict, name: str) -> nn.Parameter:
    return cast("nn.Parameter", part[name].weight)


def factors(model: nn.Module, stack: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """One adapter equal to the whole stack: module name to (A [R, in], B [out, R]), the scaling folded into B."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, layer in lora_layers(model).items():
        parts = [
            (
                cast("nn.Linear", layer.lora_A[role]).weight,
                cast("nn.Linear", layer.lora_B[role]).weight * layer.scaling[role],
            )
            for role in stack
            if role in layer.lora_A
        ]
        if parts:
            found[name] = (torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts], dim=1))
    return found


def save_adapter(
    model: nn.Module, stack: Sequence[str], folder: Path, *, base: str, prefix: str = "", score: Tensor | None = None
) -> None:
    """Writes the stack as one adapter against `base`, by exact concatenation; `PeftModel.from_pretrained` loads it.

    `prefix` is where the model stands inside the one that the folder is for ("model." for a backbone). `score` [1, D]
    goes along as a module to save, for a sequence classifier.
    """
    with torch.no_grad():
        parts = {f"{prefix}{name}": pair for name, pair in factors(model, stack).items()}
        ranks = {name: a.shape[0] for name, (a, _) in parts.items()}
        rank = max(ranks.values())
        config = LoraConfig(
            r=rank,
            lora_alpha=rank,
            target_modules=sorted(parts),
            rank_pattern={name: size for name, size in ranks.items() if size != rank},
            alpha_pattern={name: size for name, size in ranks.items() if size != rank},
            fan_in_fan_out=any(isinstance(layer.get_base_layer(), Conv1D) for layer in lora_layers(model).values()),
            base_model_name_or_path=base,
            task_type="CAUSAL_LM" if score is None else "SEQ_CLS",
            modules_to_save=None if score is None else ["score"],
            inference_mode=True,
        )
        tensors = {
            f"{_PREFIX}{name}.lora_{letter}.weight": factor.detach().cpu().contiguous()
            for name, pair in parts.items()
            for letter, factor in zip("AB", pair, strict=True)
        }
        if score is not None:
            tensors[f"{_PREFIX}score.weight"] = score.detach().cpu().contiguous()
    config.save_pretrained(str(folder))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load_adapter(model: nn.Module, name: str, folder: Path, *, prefix: str = "") -> Tensor | None:
    """Attaches the adapter of `folder`, frozen, and returns its score head's weight [1, D] where it has one.

    `prefix` is where the model stands inside the one that the folder was written for. Raises ModelError when the file's
    tensors are not those that the model needs.
    """
    config = cast("LoraConfig", LoraConfig.from_pretrained(str(folder)))
    config.modules_to_save = None
    config.inference_mode = False
    if prefix and not isinstance(config.target_modules, str):
        config.target_modules = [target.removeprefix(prefix) for target in config.target_modules or ()]
        config.rank_pattern = {key.removeprefix(prefix): rank for key, rank in (config.rank_pattern or {}).items()}
        config.alpha_pattern = {key.removeprefix(prefix): alpha for key, alpha in (config.alpha_pattern or {}).items()}
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} has no weights: no {WEIGHTS}\n  fix: save the adapter again with safetensors")
    _inject(model, config, name)
    tensors = load_file(folder / WEIGHTS)
    score = tensors.pop(f"{_PREFIX}score.weight", None)
    for module_name, layer in lora_layers(model).items():
        for letter, part in (("A", layer.lora_A), ("B", layer.lora_B)):
            if name in part:
                key = f"{_PREFIX}{prefix}{module_name}.lora_{letter}.weight"
                _fill(_weight(part, name), tensors.pop(key, None), f"{folder}: {key}")
    if tensors:
        raise ModelError(f"{folder}: {len(tensors)} adapter tensors fit no layer of the base, first {min(tensors)}")
    return score


def _fill(weight: nn.Parameter, found: Tensor | None, name: str) -> None:
    if found is None:
        raise ModelError(f"{name} is missing and would be random")
    if found.shape != weight.shape:
        raise ModelError(f"{name} has shape {tuple(found.shape)}, the base needs {tuple(weight.shape)}")
    with torch.no_grad():
        weight.copy_(found)
