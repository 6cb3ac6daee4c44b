"""Numbers with their nouns, as printed lines have them."""

from __future__ import annotations


def counted(count: int, noun: str, verb: str = "") -> str:
    """`1 row`, `2,000 rows`; with a verb `1 row asks`, `2 rows ask`. Of several words the first is the noun."""
    first, space, rest = noun.partition(" ")
    one = count == 1
    said = f"{count:,} {first if one else first + 's'}{space}{rest}"
    return f"{said} {verb}{'s' if one else ''}" if verb else said
