"""Lines with a meaning to their parts, drawn in colour where there is one, and in plain signs where there is none."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rich.style import Style
from rich.text import Text

from posttrain.inert import inert

Tone: TypeAlias = Literal["plain", "strong", "dim", "good", "bad", "token", "control", "trained", "trained control"]
Bit: TypeAlias = tuple[str, Tone]

LABEL = 10
"""The width of the column in which the labels of a page stand."""

_TRAINED = ("trained", "trained control")
_STYLES: dict[Tone, Style] = {
    "plain": Style(),
    "strong": Style(bold=True),
    "dim": Style(dim=True),
    "good": Style(color="green"),
    "bad": Style(color="red"),
    "token": Style(),
    "control": Style(color="magenta"),
    "trained": Style(color="black", bgcolor="green"),
    "trained control": Style(color="black", bgcolor="bright_yellow", bold=True),
}
# Neighbours differ a little, so that the border between two tokens is seen.
_EVERY_OTHER: dict[Tone, Style] = {"trained": Style(color="black", bgcolor="bright_green")}
_SIGNS = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
_JOINER = "\N{ZERO WIDTH JOINER}"
_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A label and what stands after it, in bits that each have a tone."""

    label: str = ""
    bits: tuple[Bit, ...]


def line(label: str, *bits: Bit | str) -> Line:
    """A line whose bits are plain where no tone is given."""
    return Line(label=label, bits=tuple((bit, "plain") if isinstance(bit, str) else bit for bit in bits))


def label_of(given: Line) -> Text:
    """The label in its column, with the gap that follows it; nothing for a line without one."""
    return Text(f"{inert(given.label).ljust(LABEL)}  " if given.label else "", style=Style(bold=True))


def drawn(given: Line, *, colour: bool, brackets: tuple[str, str] = ("[", "]")) -> Text:
    """The bits of a line as rich draws them. Without colour the trained stretches stand in `brackets`."""
    text = Text()
    inside = False
    for number, (said, tone) in enumerate(given.bits):
        if not colour and inside != (tone in _TRAINED):
            text.append(brackets[0] if tone in _TRAINED else brackets[1])
            inside = not inside
        style = _EVERY_OTHER.get(tone) if number % 2 else None
        text.append(inert(said), style=style or _STYLES[tone])
    return text.append(brackets[1]) if inside else text


def brackets_for(lines: Iterable[Line]) -> tuple[str, str]:
    """Square brackets, or double ones where the texts in `lines` hold square ones of their own."""
    shown = (said for given in lines for said, tone in given.bits if tone in ("token", "control", *_TRAINED))
    return ("⟦", "⟧") if any("[" in said or "]" in said for said in shown) else ("[", "]")


def visible(text: str) -> str:
    """`text` on one line, with signs for what could not be seen: line ends, tabs, control and zero-width characters.

    Nothing in it can steer the terminal.
    """
    return "".join(map(_seen, text))


def _seen(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp", "Cs") and character != _JOINER
    return f"\\u{ord(character):04x}" if hidden else character


def bars(counts: Sequence[int]) -> str:
    """A histogram in one line: a blank for nothing, the lowest bar for little, the highest for the most."""
    most = max(counts, default=0)
    return "".join(_BARS[0 if not count else max(1, round(count / most * (len(_BARS) - 1)))] for count in counts)
