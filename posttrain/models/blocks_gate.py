"""Whether a packed trunk may attend in one kernel call: outputs and gradients beside those of the layout by rows."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from posttrain.errors import ModelError
from posttrain.models.adapters import active
from posttrain.models.attention import Layout, PackedLayout, using
from posttrain.models.blocks import BlockLayout, Lengths
from posttrain.models.heads import Trunk
from posttrain.types import TokenBatch

KERNELS = ("cuda",)
"""Where attention by blocks is compiled, and has a backward pass."""
TOLERANCE = 1e-3
"""Largest difference of hidden states and gradients from those by rows, in units of their largest number."""


def blocks_differ(trunk: Trunk, batch: TokenBatch) -> str:
    """Why a trunk that may be packed cannot attend by blocks, or nothing. `batch` should be longer than a block."""
    filled = BlockLayout(batch, Lengths()(len(batch.tokens)))
    try:
        wanted = states_and_gradient(trunk, batch.tokens, batch.positions, PackedLayout(batch))
        found = states_and_gradient(trunk, filled.tokens, filled.positions, filled)
    except ModelError:  # which says itself what to do
        raise
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:  # of the compiler, too
        return (str(error).splitlines() or [type(error).__name__])[0]
    for mine, theirs in zip(found, wanted, strict=True):
        mine = mine[: len(theirs)]
        difference = float((mine - theirs).abs().max() / theirs.abs().max())
        if not difference <= TOLERANCE:  # also for NaN
            return f"differs from the layout by rows by {difference:.1e}"
    return ""


def states_and_gradient(trunk: Trunk, tokens: Tensor, positions: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """The hidden states [T, D] of a stream, and the gradient of a fixed direction of them to the embeddings.

    Not of their squares: behind a last norm these have nearly one sum, whatever goes in, and a gradient of rounding.
    """
    model: PreTrainedModel = trunk.model
    with torch.enable_grad(), active(model, trunk.stack), using(layout):
        embeddings = model.get_input_embeddings()(tokens[None]).detach().requires_grad_()
        states: Tensor = model(
            inputs_embeds=embeddings, position_ids=positions[None], use_cache=False
        ).last_hidden_state.squeeze(0)
        towards = torch.randn(states.shape, generator=torch.Generator().manual_seed(0)).to(states.device)
        (gradient,) = torch.autograd.grad((states.float() * towards).sum(), embeddings)
    return states.detach(), gradient.squeeze(0)
