"""Tokens as people can read them: whole characters, control tokens spelt out, and which of them are trained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from posttrain.spans import Span

if TYPE_CHECKING:
    from posttrain.text.tokenizer import Tokenizer

_LONGEST = 8
"""Tokens that are tried together before bytes are taken for no character at all."""
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


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


def alone(words: Tokenizer, token: int) -> str:
    """The text of one token by itself, a leading space and line breaks as they are, a control token spelt out.

    Bytes that are no whole character are written as `<0xE2>`. An id that the tokenizer does not have, which an
    embedding with more rows than it lets come, is its number: `<32001>`.
    """
    spelling: object = None
    with suppress(IndexError):
        spelling = words.spelling(token)
    if not isinstance(spelling, str):
        return f"<{token}>"
    if token in words.controls:
        return spelling
    text = words.decode_after([token], keep_special=True)
    if "\N{REPLACEMENT CHARACTER}" not in text:
        return text
    if _BYTE.fullmatch(spelling):
        return spelling
    known = _bytes_by_character()
    if not known.keys() >= {*spelling}:
        return text
    found = bytes(known[character] for character in spelling).decode("utf-8", "surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda odd: f"<0x{ord(odd[0]) - 0xDC00:02X}>", found)


@cache
def _bytes_by_character() -> dict[str, int]:
    """The characters that tokenizers of bytes write in the place of each of them, as GPT-2's did first."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in shown)
    return {chr(byte): byte for byte in shown} | {chr(0x100 + place): byte for place, byte in enumerate(others)}
