"""Which turns of a conversation are trained, and how their spans are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Literal, TypeAlias

from posttrain.types import ChatRecord, Span

LossOn: TypeAlias = Literal["assistant", "completion", "all"]


def trained_turns(record: ChatRecord, loss_on: LossOn) -> list[int]:
    """The places of the assistant turns that are trained; a message's own `train` overrides `loss_on`."""
    last = max((i for i, message in enumerate(record.messages) if message.role == "assistant"), default=-1)
    return [
        index
        for index, message in enumerate(record.messages)
        if message.role == "assistant"
        and (loss_on != "completion" or index == last if message.train is None else message.train)
    ]


def shared(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    return sum(takewhile(bool, (a == b for a, b in zip(ours, theirs, strict=False))))


def all_but_first(tokens: Sequence[int]) -> Span:
    """A span in which every token is trained but the first, which nothing predicts."""
    return Span(tokens=tuple(tokens), trained=tuple(i > 0 for i in range(len(tokens))))


def joined(prompt: Sequence[int], answer: Sequence[int]) -> Span:
    """A span of an untrained prompt and its trained answer."""
    return Span(tokens=(*prompt, *answer), trained=(False,) * len(prompt) + (True,) * len(answer))


def trimmed(span: Span) -> Span:
    """`span` up to its last trained token; whole when nothing is trained."""
    last = max((place for place, trained in enumerate(span.trained) if trained), default=len(span.trained) - 1)
    return replace(span, tokens=span.tokens[: last + 1], trained=span.trained[: last + 1])
