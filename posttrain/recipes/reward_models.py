"""The reward models of a run as they are loaded: on the policy's own base, or beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from posttrain.config import OnlineDPOConfig, PPOConfig
from posttrain.console import Console
from posttrain.data.pack import Budget
from posttrain.errors import ModelError
from posttrain.models.adapter_files import load_adapter
from posttrain.models.heads import ScalarModel
from posttrain.models.load import base_of, is_adapter, load_scalar
from posttrain.models.parity import gate_scalar
from posttrain.recipes import setup
from posttrain.recipes.rewarding import RewardModel
from posttrain.recipes.scoring import RewardCard, RewardScorer, same_words, say_raw
from posttrain.recipes.weights import check_weights
from posttrain.text.chat import Codec


def reward_loader(
    config: PPOConfig | OnlineDPOConfig,
    codec: Codec,
    where: setup.Machine,
    start: setup.Start,
    budget: Budget,
    console: Console,
) -> Callable[[str, int], RewardModel]:
    """What loads a reward model of the run: on the policy's own base where the layout has one, or beside it."""

    def load(path: str, number: int) -> RewardModel:
        card, own = RewardCard.read(path), Codec.load(path)
        say_raw(path, card, console)
        alike = same_words(own, codec)
        if not alike:
            console.say(
                f"reward {path}: another tokenizer or template than the policy's; its answers are rendered anew"
            )
        own_attention = start.loaded.own_attention
        if config.layout == "adapters" and is_adapter(path) and base_of(path) == start.loaded.base:
            scalar = _on_base(path, start, f"reward_{number + 1}" if number else "reward", config.packing)
        else:
            check_weights(path, where.device)
            scalar, own_attention = load_scalar(path, device=where.device, bf16=where.bf16)
            gate_scalar(scalar, own_attention, packing=config.packing == "auto")
        scorer = RewardScorer(scalar, card, own, shared=alike, budget=budget.tokens)
        return RewardModel(
            path=path, scalar=scalar, own_attention=own_attention, card=card, reads_alike=alike, scorer=scorer
        )

    return load


def _on_base(path: str, start: setup.Start, name: str, packing: str) -> ScalarModel:
    """A reward model that is an adapter on the start model's own base."""
    model = start.loaded.model
    weight = load_adapter(model, name, Path(path))
    if weight is None:
        raise ModelError(f"{path} has no score head: it is no reward model\n  fix: train one with `posttrain reward`")
    scalar = ScalarModel(start.policy.trunk.model, head_of(weight, start.policy.device), stack=(name,))
    gate_scalar(scalar, start.loaded.own_attention, packing=packing == "auto")
    return scalar


def head_of(weight: Tensor, device: torch.device) -> nn.Linear:
    """A score head of its own with these weights."""
    head = nn.Linear(weight.shape[1], 1, bias=False, dtype=torch.float32)
    head.weight.data.copy_(weight)
    return head.to(device)
