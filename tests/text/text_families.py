"""Tokenizers with the structure of current families, and the texts that two turns become under each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from text_templates import GEMMA3, LLAMA31, MISTRAL_V3, MISTRAL_V7, PHI4, QWEN3_THINKING, QWEN25, SMOLLM3
from text_tokenizers import byte_level, chatml, llama3, phi3, sentencepiece
from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A tokenizer, and what `Hi / Hello there / More / Fine.` becomes, each sample with its trained parts in ⟦ ⟧.

    `stops` are the tokens on which generation stops; `trims`: the template takes spaces off the ends of texts.
    """

    make: Callable[[], PreTrainedTokenizerFast]
    samples: tuple[str, ...]
    stops: tuple[str, ...]
    trims: bool = False


def llama31() -> PreTrainedTokenizerFast:
    return _dressed(llama3(), LLAMA31)


def qwen3() -> PreTrainedTokenizerFast:
    tokenizer = chatml(QWEN3_THINKING)
    tokenizer.add_tokens(["<think>", "</think>", "<tool_response>", "</tool_response>"])
    tokenizer.pad_token = "<|endoftext|>"
    return tokenizer


def gemma3() -> PreTrainedTokenizerFast:
    return sentencepiece("<start_of_turn>", "<end_of_turn>", template=GEMMA3, legacy=False)


def mistral_v3() -> PreTrainedTokenizerFast:
    return sentencepiece("[INST]", "[/INST]", template=MISTRAL_V3, legacy=False)


def mistral_v7() -> PreTrainedTokenizerFast:
    names = ("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
    return byte_level(*names, bos="<s>", eos="</s>", template=MISTRAL_V7)


def phi4() -> PreTrainedTokenizerFast:
    return byte_level("<|im_start|>", "<|im_end|>", "<|im_sep|>", eos="<|endoftext|>", template=PHI4)


def smollm2() -> PreTrainedTokenizerFast:
    tokenizer = chatml(QWEN25.replace("Quill", "SmolLM"))
    tokenizer.bos_token, tokenizer.eos_token = "<|im_start|>", "<|im_end|>"
    tokenizer.pad_token = "<|im_end|>"
    return tokenizer


def smollm3() -> PreTrainedTokenizerFast:
    tokenizer = chatml(SMOLLM3)
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


def _dressed(tokenizer: PreTrainedTokenizerFast, template: str) -> PreTrainedTokenizerFast:
    tokenizer.chat_template = template
    return tokenizer


def _chatml(system: str) -> str:
    return (
        f"{system}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Hello there<|im_end|>⟧\n"
        "<|im_start|>user\nMore<|im_end|>\n<|im_start|>assistant\n⟦Fine.<|im_end|>⟧"
    )


FAMILIES: dict[str, Family] = {
    "llama-3.1": Family(
        make=llama31,
        samples=(
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
            "Today Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Hello there<|eot_id|>⟧"
            "<|start_header_id|>user<|end_header_id|>\n\nMore<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Fine.<|eot_id|>⟧",
        ),
        stops=("<|end_of_text|>", "<|eot_id|>"),
        trims=True,
    ),
    "qwen-2.5": Family(
        make=lambda: chatml(QWEN25),
        samples=(_chatml("<|im_start|>system\nYou are Quill, a helpful assistant.<|im_end|>\n"),),
        stops=("<|endoftext|>", "<|im_end|>"),
    ),
    "qwen-3": Family(
        make=qwen3,
        samples=(
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦<think>\n\n</think>\n\nHello there<|im_end|>⟧",
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello there<|im_end|>\n<|im_start|>user\n"
            "More<|im_end|>\n<|im_start|>assistant\n⟦<think>\n\n</think>\n\nFine.<|im_end|>⟧",
        ),
        stops=("<|endoftext|>", "<|im_end|>"),
    ),
    "gemma-3": Family(
        make=gemma3,
        samples=(
            "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n⟦Hello there<end_of_turn>⟧\n"
            "<start_of_turn>user\nMore<end_of_turn>\n<start_of_turn>model\n⟦Fine.<end_of_turn>⟧",
        ),
        stops=("</s>", "<end_of_turn>"),
        trims=True,
    ),
    "mistral-v3": Family(
        make=mistral_v3,
        samples=("<s>[INST] Hi[/INST]⟦ Hello there</s>⟧[INST] More[/INST]⟦ Fine.</s>⟧",),
        stops=("</s>",),
        trims=True,
    ),
    "mistral-v7": Family(
        make=mistral_v7,
        samples=("<s>[INST]Hi[/INST]⟦Hello there</s>⟧[INST]More[/INST]⟦Fine.</s>⟧",),
        stops=("</s>",),
    ),
    "phi-3": Family(
        make=phi3,
        samples=(
            "<|user|>\nHi<|end|>\n<|assistant|>\n⟦Hello there<|end|>⟧\n"
            "<|user|>\nMore<|end|>\n<|assistant|>\n⟦Fine.<|end|>⟧",
        ),
        stops=("<|endoftext|>", "<|end|>"),
    ),
    "phi-4": Family(
        make=phi4,
        samples=(
            "<|im_start|>user<|im_sep|>Hi<|im_end|><|im_start|>assistant<|im_sep|>⟦Hello there<|im_end|>⟧"
            "<|im_start|>user<|im_sep|>More<|im_end|><|im_start|>assistant<|im_sep|>⟦Fine.<|im_end|>⟧",
        ),
        stops=("<|endoftext|>", "<|im_end|>"),
    ),
    "smollm-2": Family(
        make=smollm2,
        samples=(_chatml("<|im_start|>system\nYou are SmolLM, a helpful assistant.<|im_end|>\n"),),
        stops=("<|im_end|>",),
    ),
    "smollm-3": Family(
        make=smollm3,
        samples=(
            _chatml(
                "<|im_start|>system\n## Metadata\n\nToday Date: 26 July 2024\nReasoning Mode: /think\n\n"
                "## Custom Instructions\n\nYou are a helpful AI assistant.<|im_end|>\n"
            ),
        ),
        stops=("<|endoftext|>", "<|im_end|>"),
    ),
}
