"""A tokenizer and what has to be known of it: its special ids, and how to encode and decode the middle of a text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from posttrain.errors import ModelError
from posttrain.hub import from_hub, in_our_words

_ANCHORS = ("\n", "a", ".", "1", "我", " ")
_GENERATION = "generation_config.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "spiece.model")


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """A `transformers` tokenizer that adds nothing by itself and can continue a text.

    Text is parsed as the field does it: the spelling of a special token inside a text *is* that token. Serving engines
    read prompts so, and what a model is trained on must be what it is served; `controls_in` finds such texts.
    """

    tokenizer: PreTrainedTokenizerBase
    new: tuple[int, ...] = ()
    """The ids of tokens that were added to the vocabulary of the model; its embedding may have no rows for them."""

    @cached_property
    def bos(self) -> int | None:
        """The id that the tokenizer puts before a text, or None: a declared BOS that it never adds does not count."""
        declared = self.tokenizer.bos_token_id
        first = cast("list[int]", self.tokenizer("a", verbose=False)["input_ids"])[:1]
        return declared if isinstance(declared, int) and first == [declared] else None

    @property
    def eos(self) -> int:
        """The id of the end of a text. Raises ModelError when the tokenizer declares none."""
        eos = self.tokenizer.eos_token_id
        if not isinstance(eos, int):
            raise ModelError("the tokenizer has no end-of-text token\n  fix: set eos_token in tokenizer_config.json")
        return eos

    @property
    def ends(self) -> frozenset[int]:
        """The declared end of text, if any: what running text is trained to end with."""
        declared = cast("int | None", self.tokenizer.eos_token_id)
        return frozenset() if declared is None else frozenset([declared])

    @property
    def bounds(self) -> frozenset[int]:
        """The declared beginning and end of a text, as far as there are any."""
        beginning = self.tokenizer.bos_token_id
        return self.ends | (frozenset([beginning]) if isinstance(beginning, int) else frozenset())

    @property
    def unknown(self) -> int | None:
        """The id that stands for what the vocabulary cannot spell, or None."""
        unknown = self.tokenizer.unk_token_id
        return unknown if isinstance(unknown, int) else None

    @cached_property
    def controls(self) -> frozenset[int]:
        """The ids of special and added tokens, which mean something by themselves; runs of added spaces do not."""
        added = self.tokenizer.added_tokens_decoder
        return frozenset(self.tokenizer.all_special_ids) | {i for i, token in added.items() if token.content.strip()}

    @cached_property
    def specials(self) -> frozenset[int]:
        """The ids of the control tokens that are special: those that decoding drops."""
        added = self.tokenizer.added_tokens_decoder
        return frozenset(self.tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}

    @property
    def size(self) -> int:
        """The number of ids, added ones included."""
        return len(self.tokenizer)

    @cached_property
    def content(self) -> str:
        """All that the ids of a text depend on, as text: the serialised tokenizer, or the vocabulary of a slow one."""
        backend = cast("Backend | None", getattr(self.tokenizer, "backend_tokenizer", None))
        if backend is None:
            return f"{type(self.tokenizer).__name__} {sorted(self.tokenizer.get_vocab().items())}"
        text = backend.to_str()
        if backend.truncation is None and backend.padding is None:
            return text
        # State of the last call, not rules.
        facts = cast("dict[str, object]", json.loads(text))
        return json.dumps({**facts, "truncation": None, "padding": None}, ensure_ascii=False, separators=(",", ":"))

    def spelling(self, token: int) -> str:
        """The text of one token, a special one included."""
        return cast(str, self.tokenizer.convert_ids_to_tokens(token))

    def controls_in(self, text: str) -> tuple[str, ...]:
        """The control tokens whose spelling stands in `text`, in the order of the vocabulary."""
        return tuple(spelt for spelt in self._control_spellings if spelt in text)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without BOS or end tokens of the tokenizer's own."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
        return cast("list[list[int]]", encoded["input_ids"])

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without BOS or end tokens of the tokenizer's own."""
        return self.encode_all([text])[0]

    def encode_after(self, text: str) -> list[int]:
        """The ids of `text` in the middle of something, without the space that some tokenizers put before a text."""
        for anchor, prefix in self._anchor_ids:
            ids = self.encode(anchor + text)
            if ids[: len(prefix)] == prefix:
                return ids[len(prefix) :]
        return self.encode(text)

    def decode_after(self, tokens: Sequence[int], *, keep_special: bool = False) -> str:
        """The text of `tokens` in the middle of something: a leading space that belongs to it is kept."""
        anchor, start = self._decode_anchor
        text = self._decode([*anchor, *tokens], keep_special=keep_special)
        return text[len(start) :] if text.startswith(start) else self._decode(tokens, keep_special=keep_special)

    def _decode(self, tokens: Sequence[int], *, keep_special: bool) -> str:
        skip = not keep_special
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        return cast(str, text)

    @cached_property
    def _anchor_ids(self) -> tuple[tuple[str, list[int]], ...]:
        return tuple((anchor, self.encode(anchor)) for anchor in _ANCHORS)

    @cached_property
    def _decode_anchor(self) -> tuple[list[int], str]:
        ids = self.encode("a")
        return ids, self._decode(ids, keep_special=True)

    @cached_property
    def _control_spellings(self) -> tuple[str, ...]:
        return tuple(self.spelling(token) for token in sorted(self.controls))


def load_tokenizer(path: str | Path, *, add: Sequence[str] = ()) -> Tokenizer:
    """The tokenizer of a model folder, a run folder or a hub id; code that a repository carries is never run.

    `add` are special tokens that it gets, as far as it does not have them.
    Raises ModelError when there is none, or when it cannot be read.
    """
    folder = Path(path)
    if folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(f"{path} holds no tokenizer\n  fix: copy tokenizer.json and tokenizer_config.json into it")
    fix = "give a folder with tokenizer.json and tokenizer_config.json, or the name of a model on the hub"
    with in_our_words(path, f"no tokenizer could be loaded from {path}", fix=fix), from_hub(str(path)):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        tokenizer.decode(tokenizer("probe")["input_ids"])
    made = cast(PreTrainedTokenizerBase, tokenizer)
    before = len(made)
    made.add_tokens(list(add), special_tokens=True)
    return Tokenizer(tokenizer=made, new=tuple(range(before, len(made))))


def stop_ids_of(path: str | Path) -> frozenset[int]:
    """The ids on which the model at `path` stops by its own generation settings; empty when it has none.

    Raises ModelError for settings in a folder that cannot be read, and for ids that are none.
    """
    file = Path(path) / _GENERATION
    if Path(path).is_dir() and not file.is_file():
        return frozenset()
    try:
        with in_our_words(path, f"{file} cannot be used", fix="mend it, or delete it"), from_hub(str(path)):
            eos: object = GenerationConfig.from_pretrained(path).eos_token_id
    except ModelError:
        if file.is_file():
            raise
        return frozenset()  # a model of the hub that has none
    ids = cast("list[object]", [] if eos is None else eos if isinstance(eos, list) else [eos])
    wrong = next((found for found in ids if not isinstance(found, int) or found < 0), None)
    if wrong is not None:
        raise ModelError(f"{file}  eos_token_id is {wrong!r:.40}, which it cannot be\n  fix: mend it, or delete it")
    return frozenset(cast("list[int]", ids))
