"""The shapes of the models that benchmarks train, and folders of them with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTEXT = 2048


@dataclass(frozen=True, kw_only=True)
class Size:
    """The shape of a Llama."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool


SIZES = {
    "15m": Size(hidden=288, layers=6, heads=6, kv_heads=6, intermediate=768, vocabulary=32_000, tied=True),
    "60m": Size(hidden=512, layers=10, heads=8, kv_heads=8, intermediate=1376, vocabulary=32_000, tied=False),
    # SmolLM2-135M, from its configuration
    "135m": Size(hidden=576, layers=30, heads=9, kv_heads=3, intermediate=1536, vocabulary=49_152, tied=True),
}


def write_model(folder: Path, size: Size, tokenizer: Path, *, seed: int = 0) -> None:
    """A model folder with random weights and the words of the folder `tokenizer`."""
    import torch  # noqa: PLC0415 - only where models are made
    from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: PLC0415

    words = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(seed)
    LlamaForCausalLM(_configuration(size, words)).save_pretrained(folder)
    words.save_pretrained(folder)


def write_scorer(folder: Path, start: Path, *, seed: int = 0) -> None:
    """A sequence classifier on the trunk of `start` whose head is the one that `posttrain reward` draws from `seed`."""
    import torch  # noqa: PLC0415 - only where models are made
    from transformers import AutoTokenizer, LlamaForSequenceClassification, logging  # noqa: PLC0415

    from posttrain.models.heads import scalar_head  # noqa: PLC0415

    logging.set_verbosity_error()  # that its head is new is meant
    words = AutoTokenizer.from_pretrained(start)
    model = LlamaForSequenceClassification.from_pretrained(start, num_labels=1, pad_token_id=words.pad_token_id)
    head = scalar_head(model.config.hidden_size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.score.weight.copy_(head.weight)
    model.save_pretrained(folder)
    words.save_pretrained(folder)


def _configuration(size: Size, words: Any) -> Any:
    from transformers import LlamaConfig  # noqa: PLC0415

    return LlamaConfig(
        vocab_size=size.vocabulary, hidden_size=size.hidden, intermediate_size=size.intermediate,
        num_hidden_layers=size.layers, num_attention_heads=size.heads, num_key_value_heads=size.kv_heads,
        max_position_embeddings=CONTEXT, tie_word_embeddings=size.tied, bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
    )  # fmt: skip
