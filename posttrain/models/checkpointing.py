"""Activation checkpointing: a layer keeps its input alone, and runs a second time when backward comes to it.

The library's own switch works in training mode, in which our models never are, and does not know what our layers read
besides their arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from posttrain.errors import ModelError
from posttrain.models.adapters import active, active_in


def checkpoint_activations(model: PreTrainedModel) -> int:
    """From now on the model's layers keep only their input for backward; their number.

    The second run finds what the first one had: its layout, its active adapters, its random numbers and its autocast.
    Outputs and gradients are those of a plain run to the bit, and passes that record no gradient are plain runs.
    Raises ModelError for a model without layers that the library marks as ones that may run twice.
    """
    layers = layers_of(model)
    if not layers:
        name = type(model).__name__
        raise ModelError(f"{name} has no layers that can run twice\n  fix: leave activation_checkpointing out")
    for layer in layers:
        layer.forward = _run_twice(layer, layer.forward)
    return len(layers)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a model of any family: those that the library marks as ones that may run twice, the outermost."""
    layers = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    inner = {id(part) for layer in layers for part in layer.modules() if part is not layer}
    return [layer for layer in layers if id(layer) not in inner]


def _run_twice(layer: nn.Module, forward: Callable[..., object]) -> Callable[..., object]:
    def run(*given: object, **named: object) -> object:
        if not torch.is_grad_enabled():
            return forward(*given, **named)
        # Backward may come in another thread, when another role's adapters are active and no layout is in use.
        around, stack, names = copy_context(), active_in(layer), tuple(named)

        def again(*every: object) -> object:
            first = len(every) - len(names)
            with active(layer, stack):
                return around.run(forward, *every[:first], **dict(zip(names, every[first:], strict=True)))

        # All by place: the library looks among these for the devices whose random numbers it keeps.
        return checkpoint(again, *given, *named.values(), use_reentrant=False)

    return run
