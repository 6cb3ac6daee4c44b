"""A world with so few responses that each can be written down: what a method should reach is a sum, not an estimate.

Axes: P prompts, Y responses to each, M tokens of the responses to one prompt laid end to end, N prefixes of them.
Log-probs of responses are [P, Y], of their tokens [P, M]. Everything here is float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from posttrain.types import Completion, Prompt, PromptRecord

END = 0
"""The token that ends a response; the others are words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Every response to every prompt, and its reward.

    `responses` end with `END` or at `length` tokens; they are all there is, so their probabilities add up to 1.
    `rewards`: float64 [P, Y], multiples of 1/64, which float32 holds too. `response`: int64 [M], the response of each
    token. `before` and `after`: int64 [M], the prefix that stands before a token and the one that it makes. `extends`:
    bool [N, Y], True where a response begins with a prefix; prefix 0 is the empty one.
    """

    vocabulary: int
    length: int
    prompts: tuple[Prompt, ...]
    responses: tuple[tuple[int, ...], ...]
    rewards: Tensor
    response: Tensor
    before: Tensor
    after: Tensor
    extends: Tensor

    @property
    def last(self) -> Tensor:
        """Int64 [Y]: the place among the M tokens of the last token of each response."""
        return torch.tensor([len(tokens) for tokens in self.responses]).cumsum(0) - 1

    def completions(self) -> list[Completion]:
        """Every response to every prompt, prompt-major, as if it had been sampled; the captured log-probs are 0."""
        return [
            Completion(
                prompt=prompt,
                sample=sample,
                tokens=tokens,
                text=text_of(tokens),
                logprobs=(0.0,) * len(tokens),
                stopped=tokens[-1] == END,
            )
            for prompt in self.prompts
            for sample, tokens in enumerate(self.responses)
        ]

    def reward_of(self, completion: Completion) -> float:
        """The reward of a response that was sampled."""
        return float(self.rewards[self.place_of(completion)])

    def place_of(self, completion: Completion) -> tuple[int, int]:
        """The row and column of a response in [P, Y]. A prompt asked twice in a round has `#2` after its id."""
        prompt = [known.id for known in self.prompts].index(completion.prompt.id.partition("#")[0])
        return prompt, self.responses.index(completion.tokens)

    def of_response(self, tokenwise: Tensor) -> Tensor:
        """Float [P, Y]: the sums over each response of [P, M]."""
        return tokenwise.new_zeros(len(tokenwise), len(self.responses)).index_add(1, self.response, tokenwise)

    def mass(self, logprobs: Tensor) -> Tensor:
        """Float [P, N]: the log of the summed exp of [P, Y] over the responses that begin with each prefix."""
        return logprobs[:, None].masked_fill(~self.extends, -torch.inf).logsumexp(dim=-1)

    def of_tokens(self, logprobs: Tensor) -> Tensor:
        """Float [P, M]: the log-prob of each token given what stands before it, from those of responses [P, Y]."""
        mass = self.mass(logprobs)
        return mass[:, self.after] - mass[:, self.before]

    def optimum(self, reference: Tensor, beta: float, rewards: Tensor | None = None) -> Tensor:
        """Float [P, Y]: log pi*, the log-probs of what maximises E[r] - beta KL(pi, reference).

        pi*(y|x) = reference(y|x) exp(r(y)/beta) / Z. `rewards` other than the world's may be given.
        """
        return (reference + (self.rewards if rewards is None else rewards) / beta).log_softmax(dim=-1)

    def soft_values(self, reference: Tensor, beta: float) -> Tensor:
        """Float [P, N]: beta log of the mean of exp(r/beta) under the reference, of the responses that begin so.

        What pi* has still to gain after a prefix, the KL that it will pay included; of the empty prefix beta log Z.
        """
        return beta * (self.mass(reference + self.rewards / beta) - self.mass(reference))

    def objective(self, logprobs: Tensor, reference: Tensor, beta: float) -> Tensor:
        """Float [P]: E[r] - beta KL(policy, reference) of a policy's [P, Y], differentiable; beta log Z at pi*."""
        return (logprobs.exp() * (self.rewards - beta * (logprobs - reference))).sum(dim=-1)


def divergence(logprobs: Tensor, other: Tensor) -> Tensor:
    """Float [P]: KL(policy, other) in nats, from the log-probs [P, Y] of all responses."""
    return (logprobs.exp() * (logprobs - other)).sum(dim=-1)


def make_world(*, vocabulary: int = 4, length: int = 3, prompts: int = 3, ends: bool = True, seed: int = 0) -> World:
    """A world with rewards drawn from N(0, 1). Without `ends` every response has `length` tokens and END is a word.

    With the defaults a prompt has 40 responses of 1 to 3 tokens, 27 of which the length limit cuts.
    """
    generator = torch.Generator().manual_seed(seed)
    responses = _responses(vocabulary, length, ends=ends)
    drawn = torch.randn(prompts, len(responses), generator=generator, dtype=torch.float64)
    prefixes = sorted(
        {tokens[:end] for tokens in responses for end in range(len(tokens) + 1)}, key=lambda p: (len(p), p)
    )
    number = {prefix: place for place, prefix in enumerate(prefixes)}
    ended = [(row, tokens, end) for row, tokens in enumerate(responses) for end in range(len(tokens))]
    return World(
        vocabulary=vocabulary,
        length=length,
        prompts=tuple(_prompt(place, vocabulary) for place in range(prompts)),
        responses=responses,
        rewards=(drawn * 64).round() / 64,
        response=torch.tensor([row for row, _, _ in ended]),
        before=torch.tensor([number[tokens[:end]] for _, tokens, end in ended]),
        after=torch.tensor([number[tokens[: end + 1]] for _, tokens, end in ended]),
        extends=torch.tensor([[tokens[: len(prefix)] == prefix for tokens in responses] for prefix in prefixes]),
    )


def text_of(tokens: tuple[int, ...] | list[int]) -> str:
    """A response in letters: b, c, … for the words, a full stop for END."""
    return "".join("." if token == END else chr(ord("a") + token) for token in tokens)


def _responses(vocabulary: int, length: int, *, ends: bool) -> tuple[tuple[int, ...], ...]:
    if not ends:
        return tuple(product(range(vocabulary), repeat=length))
    words = range(1, vocabulary)
    stopped = [(*begun, END) for size in range(length) for begun in product(words, repeat=size)]
    return (*stopped, *product(words, repeat=length))


def _prompt(place: int, vocabulary: int) -> Prompt:
    """Prompt number `place` in words, after END: rotary positions alone do not tell a word from the same word twice."""
    words = vocabulary - 1
    tokens = (END, *(1 for _ in range(place // words)), 1 + place % words)
    name = f"prompt {place}"
    return Prompt(id=name, tokens=tokens, record=PromptRecord(id=name, text=text_of(tokens)))
