"""The text of an answer as it comes, as far as the tokens that follow cannot change it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from posttrain.rollout.answer import Answer
from posttrain.text.chat import Codec

_CUT = "\N{REPLACEMENT CHARACTER}"
"""What the bytes of a character come to whose last ones have not been sampled yet."""


class Streaming:
    """Tells the text of one answer piece by piece; the pieces joined are its text.

    What may still change waits: half a character, spaces that an end of turn would take away, the beginning of a stop
    string.
    """

    def __init__(self, codec: Codec, stop: Sequence[str], tell: Callable[[str], None]) -> None:
        self._codec = codec
        self._stop = stop
        self._tell = tell
        self._told = ""

    def hear(self, answers: Sequence[Answer]) -> None:
        """Tells what is new of the only answer."""
        tokens = answers[0].tokens
        ended = bool(tokens) and tokens[-1] in self._codec.stop_ids
        self._say(self._settled(self._codec.decode(tokens[:-1] if ended else tokens)))

    def end(self, text: str) -> None:
        """Tells the rest of the whole text, and begins with the next answer.

        Where a tokenizer took back what its first tokens said, the whole of it comes once more on a line of its own.
        """
        if text.startswith(self._told):
            self._say(text)
        else:
            self._tell(f"\n{text}")
        self._told = ""

    def _say(self, text: str) -> None:
        if text.startswith(self._told) and len(text) > len(self._told):
            self._tell(text[len(self._told) :])
            self._told = text

    def _settled(self, text: str) -> str:
        text = text.rstrip(_CUT)
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        return text[: len(text) - held].rstrip()


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of a text are the first ones of a stop string; those after a whole one too."""
    place = text.find(stop)
    if place >= 0:
        return len(text) - place
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if stop.startswith(text[-size:])), 0)
