"""Whether compiled layers may train: hidden states and gradients beside those of plain ones, before the first step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from posttrain.counted import counted
from posttrain.errors import ModelError, out_of_memory
from posttrain.models.attention import PackedLayout
from posttrain.models.blocks_gate import states_and_gradient
from posttrain.models.checkpointing import layers_of
from posttrain.models.compiled import FIX, failed, plainly
from posttrain.models.heads import Policy, ScalarModel, Trunk
from posttrain.models.parity import probe_batch

TOLERANCE, HALF = 1e-3, 0.1
"""Largest difference from plain layers, in units of the largest number, and where products are in half precision."""


def gate_models(models: Mapping[str, nn.Module], tell: Callable[[str], None]) -> None:
    """Gates every model that is trained, by name, as it stands before the first step, and tells what was measured."""
    for name, model in models.items():
        trunk = cast("Policy | ScalarModel", model).trunk
        if not trunk.packing:
            tell(f"compile: {name} runs one sequence at a time, and is not compiled")
            continue
        difference = gate_compiled(trunk)
        alike = f"hidden states and gradients equal plain ones to {difference:.0e}"
        if difference is None:
            alike = "not compared with plain ones: dropout draws other numbers"
        tell(f"compile: {counted(len(layers_of(trunk.model)), 'layer')} of {name}, {alike}")


def gate_compiled(trunk: Trunk) -> float | None:
    """How far hidden states, and a gradient through all layers, are from those of plain layers, as training will run.

    In units of their largest number; None where dropout blurs them. Raises ModelError where that is too far, or where
    the way back cannot be compiled.
    """
    batch, name = probe_batch(trunk.model), type(trunk.model).__name__

    def found() -> tuple[Tensor, Tensor]:
        return states_and_gradient(trunk, batch.tokens, batch.positions, PackedLayout(batch))

    with plainly():
        wanted = found()
    try:
        pairs = list(zip(found(), wanted, strict=True))
    except (RuntimeError, ImportError) as error:
        if out_of_memory(error):
            raise
        raise failed(f"{name}: its layers cannot be compiled", error) from error
    if any(isinstance(part, nn.Dropout) and part.p > 0 for part in trunk.modules()):
        return None
    difference = max(float((mine - plain).abs().max() / plain.abs().max()) for mine, plain in pairs)
    half = wanted[0].dtype == torch.bfloat16 or torch.is_autocast_enabled(batch.tokens.device.type)
    if not difference <= (HALF if half else TOLERANCE):  # also for NaN
        raise ModelError(f"{name}: compiled layers differ from plain ones by {difference:.1e}{FIX}")
    return difference
