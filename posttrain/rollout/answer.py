"""An answer under way: what it has said so far, and when it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from posttrain.errors import DataError, Diverged, Problem
from posttrain.rollout.draw import stream
from posttrain.types import Completion, Prompt, SamplingSpec

# Tokens decoded beyond what a stop string can span: some tokenizers drop a space in front of the first.
_MARGIN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """What ends an answer: a token of `ids`, which stays in it, or one of `strings` in its text, which is cut there."""

    ids: frozenset[int]
    strings: tuple[str, ...]
    decode: Callable[[Sequence[int]], str]

    def text_before(self, tokens: Sequence[int]) -> str | None:
        """The text of `tokens` up to the earliest stop string, None without one. Looks at the end of the tokens first.

        A token is at least one byte of text, so the end of a stop string lies among its last few.
        """
        if not self.strings:
            return None
        span = max(len(string.encode("utf-8", "surrogatepass")) for string in self.strings) + _MARGIN
        if len(tokens) > span and self._find(self.decode(tokens[-span:])) is None:
            return None
        text = self.decode(tokens)
        place = self._find(text)
        return None if place is None else text[:place]

    def _find(self, text: str) -> int | None:
        return min((place for string in self.strings if (place := text.find(string)) >= 0), default=None)


@dataclass(slots=True, kw_only=True)
class Answer:
    """Sample `sample` of prompt number `number`: at most `room` tokens, drawn with the random stream `numbers`."""

    prompt: Prompt
    number: int
    sample: int
    room: int
    numbers: np.random.Generator
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    text: str | None = None
    stopped: bool = False

    @property
    def last(self) -> int:
        """The token that the model reads next."""
        return self.tokens[-1] if self.tokens else self.prompt.tokens[-1]

    def take(self, token: int, logprob: float, stopping: Stopping) -> bool:
        """The answer has one token more; True when that ends it. Raises Diverged when the log-prob is not finite."""
        if not math.isfinite(logprob):
            place = f"prompt {self.prompt.id}, after {len(self.tokens)} tokens of an answer"
            raise Diverged(f"the model's logits are not finite: {place}")
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if token in stopping.ids:
            self.stopped = True
        elif stopping.strings:
            self.text = stopping.text_before(self.tokens)
            self.stopped = self.text is not None
        return self.stopped or len(self.tokens) == self.room

    def completion(self, stopping: Stopping) -> Completion:
        """The finished answer. Its text leaves out the token or string that stopped it."""
        text = self.text
        if text is None:
            ended_by_id = bool(self.tokens) and self.tokens[-1] in stopping.ids
            text = stopping.decode(self.tokens[:-1] if ended_by_id else self.tokens)
        return Completion(
            prompt=self.prompt,
            sample=self.sample,
            tokens=tuple(self.tokens),
            text=text,
            logprobs=tuple(self.logprobs),
            stopped=self.stopped,
        )


def answers_to(prompts: Sequence[Prompt], spec: SamplingSpec, context: int) -> list[Answer]:
    """An empty answer for every prompt and sample, prompt-major. `room` ends at the model's context.

    Raises DataError naming every prompt that is empty or leaves no room for one token, ValueError for a spec that
    asks for no token.
    """
    if spec.max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {spec.max_new_tokens}; an answer has at least one token")
    problems = [problem for prompt in prompts if (problem := _unanswerable(prompt, context)) is not None]
    if problems:
        raise DataError(problems)
    return [
        Answer(
            prompt=prompt,
            number=number,
            sample=sample,
            room=min(spec.max_new_tokens, context - len(prompt.tokens)),
            numbers=stream(spec, prompt.id, sample),
        )
        for number, prompt in enumerate(prompts)
        for sample in range(spec.samples)
    ]


def _unanswerable(prompt: Prompt, context: int) -> Problem | None:
    length = len(prompt.tokens)
    if length == 0:
        return Problem(place=prompt.id, what="the prompt has no tokens", fix="give the prompt some text")
    if length + 1 > context:
        return Problem(
            place=prompt.id,
            what=f"the prompt has {length} tokens and the model's context is {context}: there is no room to answer",
            fix=f"shorten it to at most {context - 1} tokens, or use a model with a longer context",
        )
    return None
