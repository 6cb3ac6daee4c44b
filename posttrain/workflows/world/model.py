"""The demo's own tokenizer, trained on the world's text, and the shape of its small Llama."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from posttrain.workflows.world import lexicon, tasks

BOS, END, PAD, USER, ASSISTANT = "<|bos|>", "<|end|>", "<|pad|>", "<|user|>", "<|assistant|>"
_SPECIAL = [PAD, BOS, END, USER, ASSISTANT]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + eos_token }}"
    "{% else %}{{ '<|user|>' + message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CONTEXT = 256
# A Chinese character is always a piece of its own, so that a phrase is read word by word and never as one unseen lump;
# otherwise words and numbers with the space before them.
_PIECE = Regex(r"[\u4e00-\u9fff]| ?[^\s\p{P}\p{N}\p{S}\u4e00-\u9fff]+| ?\p{N}+| ?[\p{P}\p{S}]|\s")
_ASCII = [chr(code) for code in range(32, 127)]


def train_tokenizer(texts: Iterable[str], *, merges: int = 750) -> PreTrainedTokenizerFast:
    """A BPE tokenizer with a chat template; what its alphabet lacks is spelt in bytes, so any text survives.

    `<|end|>` ends texts and turns alike; the pad token is another one, so that no model pools at the wrong place.
    """
    alphabet = [
        *_ASCII,
        *sorted({letter for word in (*lexicon.ENGLISH, *lexicon.CHINESE_OF_INSTRUCTIONS) for letter in word}),
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(_PIECE, "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=len(_SPECIAL) + len(alphabet) + merges,
        special_tokens=_SPECIAL,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_with_lexicon(texts), trainer)
    full = _with_bytes(tokenizer)
    # Running text begins as a conversation does, so that pretraining teaches what follows the first token.
    full.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, _SPECIAL.index(BOS))])
    return PreTrainedTokenizerFast(
        tokenizer_object=full,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def _with_lexicon(texts: Iterable[str]) -> Iterator[str]:
    """The texts and, often enough to become tokens, every word of the world as an answer begins and as it goes on."""
    yield from texts
    for word in (*lexicon.MEANINGS, *lexicon.NAMES, *map(str, range(2 * tasks.LARGEST + 1))):
        for _ in range(1000):
            yield word
            yield f" {word}"


def _with_bytes(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with a token for each byte, which spells the characters that its alphabet lacks."""
    state = json.loads(tokenizer.to_str())
    vocabulary: dict[str, int] = state["model"]["vocab"]
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    state["model"]["byte_fallback"] = True
    full = Tokenizer.from_str(json.dumps(state))
    full.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return full


def model_config(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """A Llama of four layers, 128 wide, with tied embeddings: less than a million weights."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        initializer_range=0.06,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=_SPECIAL.index(BOS),
        eos_token_id=_SPECIAL.index(END),
        pad_token_id=_SPECIAL.index(PAD),
    )
