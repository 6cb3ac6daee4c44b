"""Text of data and models made harmless where it is shown: nothing in it steers a terminal."""

from __future__ import annotations

import unicodedata

_BIDIRECTIONAL = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c")


def inert(text: str) -> str:
    """`text` with its lines and tabs, and nothing that steers a terminal or turns the direction of reading.

    Control characters are spelt out as JSON does, so that JSON stays what it was.
    """
    return text if text.isprintable() else "".join(map(_inert, text))


def _inert(character: str) -> str:
    if character in "\n\t":
        return character
    steers = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _BIDIRECTIONAL
    return f"\\u{ord(character):04x}" if steers else character
