"""What a data file holds, before any tokenizer: messages, and records of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
Kind: TypeAlias = Literal["chat", "text", "ranked", "labelled", "target", "pool", "prompt"]
"""What rows are read as. A `pool` is answers that nobody has ranked: rankings whose ranks are all None."""
JSON: TypeAlias = "None | bool | int | float | str | list[JSON] | dict[str, JSON]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn. `train` overrides the run's `loss_on` for this turn; None leaves the choice to the run."""

    role: Role
    content: str
    train: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRecord:
    """A conversation whose last message is by the assistant. `id` is `file:line` or the row's own id."""

    id: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRecord:
    """Running text, every token of which is trained."""

    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedRecord:
    """A prompt with K >= 2 responses and their ranks: 1 is best, equal is a tie, None is not ranked.

    A preference pair is the case K = 2 with ranks (1, 2). `stopped` says which responses ended by themselves: one that
    was cut by a length limit gets no end token. None means that all did.
    """

    id: str
    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    ranks: tuple[int | None, ...]
    stopped: tuple[bool, ...] | None = None
    weight: float = 1.0
    margin: float | None = None
    annotator: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRecord:
    """A prompt with responses that were each found good (True) or bad, without a comparison. `stopped` as above."""

    id: str
    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    labels: tuple[bool, ...]
    stopped: tuple[bool, ...] | None = None
    weight: float = 1.0
    annotator: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecord:
    """What a model is asked: a conversation that waits for the assistant, or text to continue.

    Exactly one of `messages` and `text` is set. `columns` holds what else the row carried, for rewards and measures.
    `whole`: nothing is to follow; the conversation is read as it stands, as a classifier reads one that was answered.
    """

    id: str
    messages: tuple[Message, ...] | None = None
    text: str | None = None
    columns: Mapping[str, JSON] = field(default_factory=dict[str, "JSON"])
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRecord:
    """A text or conversation with its label: the name of a class, or a number as text.

    `number` is True where the row itself holds a number or what spells one. `asked` may end with the assistant.
    """

    id: str
    asked: PromptRecord
    label: str
    number: bool


Record: TypeAlias = ChatRecord | TextRecord | RankedRecord | LabelledRecord | TargetRecord | PromptRecord
Answered: TypeAlias = RankedRecord | LabelledRecord
"""A prompt with responses that were judged."""
