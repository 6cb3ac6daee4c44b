"""LoRA through peft as stacks of named adapters on one frozen base; a role of RLHF is a stack.

peft's own switching is avoided: `set_adapter` unfreezes what it activates, and leaving `disable_adapter` re-enables
only one adapter. Here activation flips the layers' list of active adapters and nothing else, and trainable
parameters are collected explicitly.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast
from weakref import WeakKeyDictionary

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import nn
from transformers.pytorch_utils import Conv1D

from posttrain.errors import ModelError
from posttrain.models.dora import Magnitude
from posttrain.models.precision import is_bf16, master_of, set_values


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSpec:
    """A new adapter's shape: W + s B A with s = alpha / rank, A drawn from the seed.

    `targets` are module name endings, or "all-linear": every linear layer but the language head. The patterns give
    single modules a rank or alpha of their own, by peft's rules. With `rslora` s = alpha / sqrt(rank) (Kalajdzievski
    2023); with `dora` the length of every row of W + s B A is learnt apart (Liu 2024).
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: tuple[str, ...] | str = "all-linear"
    seed: int = 0
    rank_pattern: Mapping[str, int] = field(default_factory=dict[str, int])
    alpha_pattern: Mapping[str, float] = field(default_factory=dict[str, float])
    rslora: bool = False
    dora: bool = False


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


def active_in(module: nn.Module) -> tuple[str, ...]:
    """The adapters that add to a module as it stands, lowest first; none where it has no adapted layer."""
    layer = next(iter(lora_layers(module).values()), None)
    return () if layer is None else tuple(layer.active_adapters)


def attach(model: nn.Module, name: str, spec: LoraSpec) -> list[nn.Parameter]:
    """The parameters of a new adapter that changes nothing yet (B is zero); everything else is left frozen.

    Raises ModelError when no layer matches the targets, or when the name is taken.
    """
    if name in adapter_names(model):
        raise ModelError(f"an adapter named {name!r} is already attached")
    config = _config(model, spec)
    # Names and what is there already enter the seed: two adapters of one stack must not share their rows of A.
    attached = [part.shape for other in adapter_names(model) for part in adapter_parameters(model, other)]
    digest = hashlib.blake2b(f"{spec.seed} {name} {attached}".encode(), digest_size=6).digest()
    inject(model, config, name)
    _draw(model, name, torch.Generator().manual_seed(int.from_bytes(digest)))
    return _trainable(model, name)


def duplicate(model: nn.Module, source: str, name: str, *, dropout: float = 0.0) -> list[nn.Parameter]:
    """The parameters of a new adapter with the shape and the numbers of `source`, which stays frozen as it is."""
    inject(model, _config(model, spec_of(model, source, dropout=dropout)), name)
    with torch.no_grad():
        pairs = zip(adapter_parameters(model, source), adapter_parameters(model, name), strict=True)
        for old, new in pairs:
            set_values(new, master_of(old))
    return _trainable(model, name)


def spec_of(model: nn.Module, name: str, *, dropout: float = 0.0, seed: int = 0) -> LoraSpec:
    """The shape of an attached adapter, for a new one like it."""
    layers = {place: layer for place, layer in lora_layers(model).items() if name in layer.lora_A}
    ranks = {place: layer.r[name] for place, layer in layers.items()}
    alphas = {place: float(layer.lora_alpha[name]) for place, layer in layers.items()}
    rank, alpha = (Counter(found.values()).most_common(1)[0][0] for found in (ranks, alphas))
    # Of layers of rank 1 nothing can be told, nor need it be.
    place = max(layers, key=lambda place: cast("int", layers[place].r[name]))
    widest, root = layers[place], alphas[place] / math.sqrt(ranks[place])
    return LoraSpec(
        rank=int(rank),
        alpha=alpha,
        dropout=dropout,
        targets=tuple(layers),
        seed=seed,
        rank_pattern={place: size for place, size in ranks.items() if size != rank},
        alpha_pattern={place: size for place, size in alphas.items() if size != alpha},
        rslora=ranks[place] > 1 and math.isclose(widest.scaling[name], root),
        dora=name in widest.lora_magnitude_vector,
    )


def _config(model: nn.Module, spec: LoraSpec) -> LoraConfig:
    """peft's words for the shape."""
    here = {name for name, _ in model.named_modules()}

    def placed(name: str) -> str:
        # A name within a whole model, given to its backbone.
        prefix = f"{getattr(model, 'base_model_prefix', '')}."
        return name.removeprefix(prefix) if prefix[:-1] not in here else name

    return LoraConfig(
        r=spec.rank,
        lora_alpha=cast("int", spec.alpha),
        lora_dropout=spec.dropout,
        target_modules=_linear_layers(model) if isinstance(spec.targets, str) else [*map(placed, spec.targets)],
        rank_pattern={placed(name): rank for name, rank in spec.rank_pattern.items()},
        alpha_pattern={placed(name): cast("int", alpha) for name, alpha in spec.alpha_pattern.items()},
        use_rslora=spec.rslora,
        use_dora=spec.dora,
        fan_in_fan_out=any(isinstance(part, Conv1D) for part in model.modules()),
        bias="none",
    )


def _trainable(model: nn.Module, name: str) -> list[nn.Parameter]:
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


def inject(model: nn.Module, config: LoraConfig, name: str) -> None:
    """Adds a frozen adapter; base weights become frozen, and adapters that were trainable stay so."""
    trainable = [p for other in adapter_names(model) for p in adapter_parameters(model, other) if p.requires_grad]
    try:
        with warnings.catch_warnings():
            # peft warns of a second adapter on one model, of Linear beside Conv1D, and of a head that is tied; here
            # the first two are as meant, and the third is said where it matters, when the adapter is merged.
            warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
            warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
            inject_adapter_in_model(config, model, adapter_name=name)
    except ValueError as error:
        raise ModelError(f"LoRA cannot be attached: {str(error).splitlines()[0]}") from error
    _layers.clear()
    if is_bf16(model):  # also above layers in few bits, whose weights peft takes for float32
        for layer in (layer for layer in lora_layers(model).values() if name in layer.lora_A):
            layer.lora_A[name].bfloat16()
            layer.lora_B[name].bfloat16()
    if any(isinstance(layer, ParamWrapper) for layer in lora_layers(model).values()):
        raise ModelError(
            "LoRA cannot be attached to fused expert weights"
            "\n  fix: name linear layers in lora.targets, for example q_proj, k_proj, v_proj and o_proj"
        )
    for layer in lora_layers(model).values() if config.use_dora else ():
        if name in layer.lora_A:
            layer.lora_magnitude_vector[name] = Magnitude(layer.get_base_layer())
    model.requires_grad_(False)
    for parameter in trainable:
        parameter.requires_grad_(True)


def forget(model: nn.Module) -> None:
    """Takes every adapter off the model, whose layers are as they were."""
    for name, layer in list(lora_layers(model).items()):
        above, _, last = name.rpartition(".")
        setattr(model.get_submodule(above), last, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    _layers.clear()


def adapter_names(model: nn.Module) -> tuple[str, ...]:
    """The names attached to the model, in the order of attachment."""
    return tuple(dict.fromkeys(name for layer in lora_layers(model).values() for name in layer.lora_A))


def adapter_parameters(model: nn.Module, name: str) -> list[nn.Parameter]:
    """The A and B of one adapter, and the magnitudes of one that has them, layer by layer."""
    return [part for layer in lora_layers(model).values() for part in parts_of(layer, name).values()]


def parts_of(layer: LoraLayer, name: str) -> dict[str, nn.Parameter]:
    """The parameters of one adapter in one layer, by the names that they have in a file; none where it is not."""
    parts = {
        "lora_A.weight": layer.lora_A,
        "lora_B.weight": layer.lora_B,
        "lora_magnitude_vector": layer.lora_magnitude_vector,
    }
    return {key: _weight(part, name) for key, part in parts.items() if name in part}


def _weight(part: nn.ModuleDict, name: str) -> nn.Parameter:
    return cast("nn.Parameter", part[name].weight)
