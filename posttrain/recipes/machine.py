"""Where a run computes, in which precision, and what of it takes less room than it would."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from posttrain.config import Training
from posttrain.config.automatic import auto_precision
from posttrain.config.methods import Sampling
from posttrain.console import Console
from posttrain.engine.optimizers import MakeOptimizer, adamw, adamw8bit, check_eight_bits, on_cpu
from posttrain.errors import ModelError
from posttrain.models.checkpointing import checkpoint_activations
from posttrain.models.compiled import check_compiler, compile_layers
from posttrain.models.precision import multiplies_bf16
from posttrain.models.quantize import Bits, check_quantizable

_HALF = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# On a CPU products in half precision have a kernel for each shape, kept with up to 8 MB of memory each, and hardly two
# micro-batches of packed text have as many tokens. Two libraries keep 1,024 by default: a run would grow by hundreds
# of MB a step. As many as one micro-batch needs are enough. Read when the first product is made.
_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where a run computes. `half`: bfloat16 for weights in it, float16 for autocast over float32 weights, or None.

    `quantize`: the bits of frozen weights beneath adapters. `lends`: models that are only read wait in CPU memory.
    `checkpointing`: layers keep only their input for backward. `compiles`: layers run compiled in training.
    """

    device: torch.device
    half: torch.dtype | None
    quantize: Bits | None = None
    optimizer: MakeOptimizer = adamw
    lends: bool = False
    checkpointing: bool = False
    compiles: bool = False

    @property
    def bf16(self) -> bool:
        """Whether the models of the run have weights in bfloat16."""
        return self.half == torch.bfloat16

    def autocast(self) -> AbstractContextManager[object]:
        """Forward passes of every model of the run happen inside, trained or not: in float16 they need it."""
        return torch.autocast(self.device.type, dtype=torch.float16, enabled=self.half == torch.float16)

    @property
    def where(self) -> str:
        """`cpu · fp32`, and the bits of a quantised base."""
        precision = next(name for name, half in _HALF.items() if half == self.half)
        return " · ".join((self.device.type, precision, *([] if self.quantize is None else [self.quantize])))

    def prepare(self, model: PreTrainedModel, tell: Callable[[str], None]) -> None:
        """The layers of a model run compiled where they shall, then twice where they keep only their input."""
        if self.compiles:
            compile_layers(model, tell)
        if self.checkpointing:
            checkpoint_activations(model)

    def put_aside(self, models: Sequence[nn.Module]) -> None:
        """Where models that are only read wait in CPU memory, they go there."""
        if self.lends:
            _move(models, torch.device("cpu"))

    @contextmanager
    def lent(self, models: Sequence[nn.Module]) -> Generator[None]:
        """Inside, models that wait in CPU memory are on the device."""
        if self.lends:
            _move(models, self.device)
        try:
            yield
        finally:
            self.put_aside(models)


def _move(models: Sequence[nn.Module], device: torch.device) -> None:
    for model in models:
        model.to(device)


def apart_from(trained: Sequence[nn.Module], frozen: Sequence[nn.Module]) -> list[nn.Module]:
    """Those of the models that are only read which share no weight with one that is trained."""
    shared = {id(part) for model in trained for part in model.parameters()}
    return [model for model in frozen if not any(id(part) in shared for part in model.parameters())]


def set_aside(
    where: Machine, trained: Sequence[nn.Module], frozen: Sequence[nn.Module], console: Console
) -> list[nn.Module]:
    """The models that are only read and have weights of their own: where such wait in CPU memory, they go there.

    Says when there are none, where `offload` asks for it.
    """
    apart = apart_from(trained, frozen)
    where.put_aside(apart)
    if where.lends and not apart:
        console.say("offload: no model that is only read has weights of its own; nothing waits elsewhere")
    return apart


@contextmanager
def same_bits(config: Training) -> Generator[None]:
    """Inside, where `deterministic` asks for it, a GPU computes the same bits every time; nothing changes on a CPU.

    Operations that cannot do so raise RuntimeError.
    """
    if not config.deterministic or not torch.cuda.is_available():
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when a product is made for the first time
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled, memory.fill_uninitialized_memory = memory.fill_uninitialized_memory, False  # it costs time alone
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = filled


def machine(config: Training | Sampling | None = None, console: Console | None = None) -> Machine:
    """The first GPU where there is one, else the CPU; an automatic precision is said with its reason."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name, most in _KERNELS.items():
        os.environ.setdefault(name, most)
    asked = "auto" if config is None else config.precision
    if asked == "auto":
        able = device.type == "cuda" and torch.cuda.is_bf16_supported()
        asked, reason = auto_precision(device.type, able=able)
        if console is not None:
            console.choose("precision", asked, reason)
    elif asked == "bf16" and device.type == "cpu" and console is not None and not multiplies_bf16():
        console.say(
            "precision bf16: this processor has no instructions for it, so steps take many times as long as in fp32\n"
            "  fix: leave precision out"
        )
    half = _HALF[asked]
    if not isinstance(config, Training):
        return Machine(device=device, half=half)
    make = adamw8bit if config.optimizer == "adamw8bit" else adamw
    return Machine(
        device=device,
        half=half,
        quantize=config.quantize,
        optimizer=on_cpu(make) if config.offload in ("optimizer", "all") else make,
        lends=config.offload in ("frozen", "all"),
        checkpointing=config.activation_checkpointing,
        compiles=config.compile,
    )


def check_machine(config: Training) -> None:
    """Raises ModelError for what this machine or its packages cannot do, before anything is read."""
    where = machine(config)
    if config.offload is not None and where.device.type == "cpu":
        raise ModelError(
            f"offload {config.offload}: nothing to offload: the device is the CPU\n  fix: leave offload out"
        )
    if config.quantize is not None:
        check_quantizable(config.quantize, where.device)
    if config.compile:
        check_compiler(where.device)
    if config.optimizer == "adamw8bit":
        check_eight_bits(torch.device("cpu") if config.offload in ("optimizer", "all") else where.device)
