"""Small tokenizers with the structure of well-known families, made here so that no download is needed."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from posttrain.text.chat import Codec
from posttrain.types import ChatRecord, Message, Span

CORPUS = [
    "Hello there, how are you? I am fine, thanks. User: Assistant: system\nuser\nassistant\nmodel\n",
    "Once upon a time there was a little girl named Lily. She liked to play in the park.\n\nThe end.",
    "2 + 2 = 4. ### Question\n  indented text\tand tabs",
] * 3

LLAMA3 = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
CHATML = (
    "{%- for message in messages %}{%- if loop.first and message['role'] != 'system' %}"
    "{{- '<|im_start|>system\nBe kind.<|im_end|>\n' }}{%- endif %}"
    "{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
)
LLAMA2 = MISTRAL.replace("message['content'] + eos_token", "message['content'] + ' ' + eos_token")
PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
QWEN3 = (
    "{%- for message in messages %}{%- set content = message['content'] %}"
    "{%- if message['role'] == 'assistant' and '</think>' in content and not loop.last %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
UNENDED = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def byte_level(
    *specials: str, bos: str | None = None, eos: str, template: str | None = None
) -> PreTrainedTokenizerFast:
    """A byte-level BPE, as GPT-2, Llama 3, Qwen, Phi and SmolLM have it; BOS is added only where given."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    names = list(dict.fromkeys([*([bos] if bos else []), eos, *specials]))
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _finished(tokenizer, bos=bos, eos=eos, unk=None, template=template)


def sentencepiece(*specials: str, template: str | None = None, legacy: bool = True) -> PreTrainedTokenizerFast:
    """A BPE over `▁` with byte fallback, as Llama 2, Mistral and Gemma have it.

    `legacy` puts a dummy space before every piece of text between control tokens, else before the first only.
    """
    names = ["<unk>", "<s>", "</s>", *specials]
    tokens = names + [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["▁" + word for line in CORPUS for word in line.split()]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.train_from_iterator(words, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    state = json.loads(trained.to_str())["model"]
    vocabulary = {
        token: place for place, token in enumerate([*tokens, *(t for t in state["vocab"] if t not in tokens)])
    }
    merges = [tuple(merge) for merge in state["merges"]]
    model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(list(names))
    return _finished(tokenizer, bos="<s>", eos="</s>", unk="<unk>", template=template)


def _finished(
    tokenizer: Tokenizer, *, bos: str | None, eos: str, unk: str | None, template: str | None
) -> PreTrainedTokenizerFast:
    if bos:
        place = tokenizer.token_to_id(bos)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, place)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, unk_token=unk, clean_up_tokenization_spaces=False
    )
    fast.chat_template = template
    return fast


def llama3() -> PreTrainedTokenizerFast:
    names = ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
    return byte_level(*names, bos="<|begin_of_text|>", eos="<|end_of_text|>", template=LLAMA3)


def chatml(template: str = CHATML) -> PreTrainedTokenizerFast:
    return byte_level("<|im_start|>", "<|im_end|>", eos="<|endoftext|>", template=template)


def gemma() -> PreTrainedTokenizerFast:
    return sentencepiece("<start_of_turn>", "<end_of_turn>", template=GEMMA, legacy=False)


def mistral(template: str = MISTRAL, *, legacy: bool = False) -> PreTrainedTokenizerFast:
    return sentencepiece("[INST]", "[/INST]", template=template, legacy=legacy)


def phi3() -> PreTrainedTokenizerFast:
    return byte_level("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", eos="<|endoftext|>", template=PHI3)


def gpt2() -> PreTrainedTokenizerFast:
    return byte_level(eos="<|endoftext|>")


def codec_of(tokenizer: PreTrainedTokenizerFast, folder: Path, *, template: str | None = None) -> Codec:
    """The codec that a model folder with this tokenizer gives."""
    tokenizer.save_pretrained(folder)
    return Codec.load(folder, template=template)


def talk(*contents: str, id: str = "row:1") -> ChatRecord:
    """A conversation in which user and assistant speak in turn."""
    roles = ("user", "assistant")
    return ChatRecord(id=id, messages=tuple(Message(role=roles[i % 2], content=c) for i, c in enumerate(contents)))


def marked(codec: Codec, span: Span) -> str:
    """The text of a span with its trained stretches in ⟦ ⟧, control tokens spelt out."""
    text = ""
    for trained, group in groupby(zip(span.tokens, span.trained, strict=True), key=lambda pair: pair[1]):
        piece = codec.words.decode_after([token for token, _ in group], keep_special=True)
        text += f"⟦{piece}⟧" if trained else piece
    return text
