"""What a tokenizer makes of records: tokens laid end to end, and answers that share what they answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Tokens laid end to end, and which of them count in the loss. Both tuples have one length."""

    tokens: tuple[int, ...]
    trained: tuple[bool, ...]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.trained):
            raise ValueError(f"a span has {len(self.tokens)} tokens but {len(self.trained)} mask entries")

    @staticmethod
    def all(tokens: Sequence[int], *, trained: bool) -> Span:
        """A span in which every token is trained, or none."""
        return Span(tokens=tuple(tokens), trained=(trained,) * len(tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixGroup:
    """A root span and the branches that continue it; each branch sees the root and itself, never its siblings.

    A plain conversation is a root without branches; a prompt with K answers is a root with K branches.
    """

    id: str
    root: Span
    branches: tuple[Span, ...] = ()

    def __len__(self) -> int:
        """The number of tokens that a packed batch spends on this group."""
        return len(self.root.tokens) + sum(len(branch.tokens) for branch in self.branches)
