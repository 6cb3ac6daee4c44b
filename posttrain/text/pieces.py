"""Tokens as people can read them: whole characters, control tokens spelt out, and which of them are trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from posttrain.types import Span

if TYPE_CHECKING:
    from posttrain.text.tokenizer import Tokenizer

_LONGEST = 8
"""Tokens that are tried together before bytes are taken for no character at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The tokens of one piece of text, several where a character is spelt in bytes; they are all trained, or none."""

    tokens: tuple[int, ...]
    text: str
    trained: bool
    special: bool = False


def pieces(words: Tokenizer, span: Span) -> Iterator[Piece]:
    """The text of `span` in the smallest pieces that are whole characters."""
    held: list[int] = []
    mark = False
    for token, trained in zip(span.tokens, span.trained, strict=True):
        control = token in words.controls
        if held and (control or trained != mark):
            yield _piece(words, held, trained=mark)
            held = []
        mark = trained
        if control:
            yield Piece(tokens=(token,), text=words.spelling(token), trained=trained, special=True)
            continue
        held.append(token)
        piece = _piece(words, held, trained=mark)
        if "\N{REPLACEMENT CHARACTER}" not in piece.text or len(held) == _LONGEST:
            yield piece
            held = []
    if held:
        yield _piece(words, held, trained=mark)


def _piece(words: Tokenizer, tokens: list[int], *, trained: bool) -> Piece:
    return Piece(tokens=tuple(tokens), text=words.decode_after(tokens, keep_special=True), trained=trained)
