"""Tiny random models of many families, and small packed batches: what parity is shown on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from posttrain.data.pack import pack
from posttrain.models.attention import IMPLEMENTATION, register
from posttrain.models.heads import Policy, ScalarModel, scalar_head
from posttrain.types import PrefixGroup, Span, TokenBatch

VOCABULARY = 97
SMALL: dict[str, object] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ENDS: dict[str, object] = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
GPT: dict[str, object] = {**ENDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
EXPERTS: dict[str, object] = {"num_experts_per_tok": 2}

PACKED: dict[str, dict[str, object]] = {
    "llama": SMALL,
    "qwen2": SMALL,
    "qwen3": SMALL,
    "mistral": {**SMALL, "sliding_window": 4},
    "gemma": SMALL,
    "gemma2": {**SMALL, "sliding_window": 4, "attn_logit_softcapping": 1.0, "final_logit_softcapping": 2.0},
    "gemma3_text": {**SMALL, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "phi": {**SMALL, "num_key_value_heads": 4},
    "phi3": {**SMALL, "original_max_position_embeddings": 64},
    "gpt2": GPT,
    "opt": {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": SMALL,
    "olmo2": SMALL,
    "smollm3": SMALL,
    "granite": {**SMALL, "logits_scaling": 0.6, "attention_multiplier": 0.2, "embedding_multiplier": 2.0},
    "cohere": {**SMALL, "logit_scale": 1.7},
    "mixtral": {**SMALL, **EXPERTS, "num_local_experts": 4},
    "qwen3_moe": {**SMALL, **EXPERTS, "num_experts": 4, "moe_intermediate_size": 16},
    "gpt_oss": {**SMALL, **EXPERTS, "num_local_experts": 4, "sliding_window": 4},
}
"""Families that attend by our layouts; windows, soft-caps and scales are set so that they matter."""

ALONE: dict[str, dict[str, object]] = {
    "gptj": {**GPT, "rotary_dim": 4},
    "gpt_neo": {
        **ENDS, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 64,
        "attention_types": [[["global", "local"], 1]],
    },
    "bloom": {**ENDS, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "falcon": {**ENDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "llama4_text": {
        **SMALL, **EXPERTS, "intermediate_size_mlp": 48, "num_local_experts": 2, "attention_chunk_size": 60,
        "layer_types": ["chunked_attention", "full_attention"],
    },  # a chunk is longer than what the gate reads, as in real ones
    "mamba": {**ENDS, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0},
}  # fmt: skip
"""Families with attention code, or a recurrence, of their own: one sequence at a time."""


def tiny(family: str, **changes: object) -> PreTrainedModel:
    """A random model of a family in float32, the same each time, in evaluation mode and with its own attention.

    Every weight is moved, so that a bias, a sink or a norm that is zero or one at first cannot be ignored unseen, and
    outputs are far from uniform.
    """
    config = AutoConfig.for_model(family, **{**(PACKED | ALONE)[family], **changes})
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        warnings.simplefilter("ignore")  # families warn of kernels that are not installed
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * (0.3 if parameter.ndim == 1 else 0.15))
    return model.eval()


def attending_by_layout(model: PreTrainedModel) -> str:
    """Turns the packed attention on; the name of the attention that the model had."""
    register()
    own = str(model.config._attn_implementation)
    model.set_attn_implementation(IMPLEMENTATION)
    return own


def tiny_policy(family: str = "llama") -> Policy:
    """A packed policy on a tiny model."""
    model = tiny(family)
    attending_by_layout(model)
    return Policy(model)


def tiny_scalar(family: str = "llama", *, zero: bool = False) -> ScalarModel:
    """A packed scalar model on a tiny backbone."""
    backbone = tiny(family).base_model
    attending_by_layout(backbone)
    return ScalarModel(backbone, scalar_head(32, generator=torch.Generator().manual_seed(3), zero=zero))


def span(length: int, generator: torch.Generator, *, trained: bool = True) -> Span:
    """Random tokens, all trained or none."""
    tokens = torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()
    return Span.all(tokens, trained=trained)


def groups(seed: int = 0) -> list[PrefixGroup]:
    """A prompt with three answers of unequal length, a lone sequence, and a prompt with one long answer."""
    generator = torch.Generator().manual_seed(seed)
    shapes: list[tuple[int, Sequence[int]]] = [(6, (5, 1, 9)), (7, ()), (3, (21,))]
    found: list[PrefixGroup] = []
    for number, (root, branches) in enumerate(shapes):
        start = span(root, generator, trained=not branches)
        if not branches:
            start = Span(tokens=start.tokens, trained=(False, *start.trained[1:]))
        answers = tuple(span(length, generator) for length in branches)
        found.append(PrefixGroup(id=f"row {number}", root=start, branches=answers))
    return found


def packed_groups(seed: int = 0) -> TokenBatch:
    """The groups as one packed batch."""
    return pack(groups(seed))
