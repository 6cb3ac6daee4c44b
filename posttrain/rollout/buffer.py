"""Annotated rollouts of one round, and the micro-batches that an update draws from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import cast

import torch
from torch import Tensor

from posttrain.data.pack import pack, split_by_tokens
from posttrain.rollout.grading import Failed
from posttrain.types import Completion, PrefixGroup, Prompt, RolloutBatch, Span, State, TokenBatch

_TENSORS = (
    "response", "scores", "settled", "old", "reference", "kl", "values", "rewards", "advantages", "returns"
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollouts:
    """The answers of a round with every quantity of their tokens.

    Axes: R answers, M answer tokens of all of them end to end. `response`: int64 [M], the answer of each token. `old`,
    `reference`, `kl`, `values`, `rewards`, `advantages`, `returns`: float [M]. `scores`: float [R], as the scorer gave
    them; `settled`: float [R], after clip and penalty. `prompts`: the prompt of each answer, as a number. `parts`:
    float [R] by metric, what the scores are made of. `failures`: what was sampled too and has no score. `numbers`: what
    the arithmetic took of the round besides settings: `beta`, `scale` (what scores were divided by), and the `mean` and
    `deviation` that advantages had before whitening; without it 0 and 1.
    """

    completions: tuple[Completion, ...]
    prompts: tuple[int, ...]
    response: Tensor
    scores: Tensor
    settled: Tensor
    old: Tensor
    reference: Tensor
    kl: Tensor
    values: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    failures: tuple[Failed, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def unscored(self) -> int:
        """How many answers were sampled and have no score; several rewards may have failed on one of them."""
        return len({(each.prompt, each.sample) for each in self.failures})

    def micro_batches(
        self, rows: Sequence[int], budget: int, *, train_actor: bool, beta: float = 0.0
    ) -> Iterator[RolloutBatch]:
        """The answers `rows` in micro-batches of at most `budget` tokens; answers of one prompt share its prefix."""
        ordered = sorted(rows)  # the answers of a prompt are neighbours
        sizes = {row: _size(self.completions[row]) for row in ordered}
        starts = self._starts()
        for run in split_by_tokens(ordered, budget, size=lambda row: sizes[row]):
            tokens = pack_answers([self.completions[row] for row in run], [self.prompts[row] for row in run])
            index = torch.cat([torch.arange(starts[row], starts[row + 1]) for row in run])
            yield self._batch(tokens, index, train_actor=train_actor, beta=beta)

    def _batch(self, tokens: TokenBatch, index: Tensor, *, train_actor: bool, beta: float) -> RolloutBatch:
        def laid(values: Tensor) -> Tensor:
            return values.new_zeros(len(tokens.tokens)).masked_scatter(tokens.trained, values[index])

        return RolloutBatch(
            tokens=tokens,
            old=laid(self.old),
            reference=laid(self.reference),
            values=laid(self.values),
            advantages=laid(self.advantages),
            returns=laid(self.returns),
            train_actor=train_actor,
            beta=beta,
        )

    def _starts(self) -> list[int]:
        lengths = torch.tensor([0, *(len(completion.tokens) for completion in self.completions)])
        return lengths.cumsum(0).tolist()

    def tokens_in(self, rows: Sequence[int]) -> int:
        """The number of answer tokens in `rows`."""
        return sum(len(self.completions[row].tokens) for row in rows)

    def state(self) -> State:
        """Everything that updates need but the prompts: the rest was told when the round began."""
        done = self.completions
        state: State = {name: cast("Tensor", getattr(self, name)) for name in _TENSORS}
        state["prompts"] = list(self.prompts)
        state["tokens"] = torch.tensor([token for answer in done for token in answer.tokens])
        state["logprobs"] = torch.tensor([value for answer in done for value in answer.logprobs], dtype=torch.float64)
        state["samples"] = [answer.sample for answer in done]
        state["texts"] = [answer.text for answer in done]
        state["stopped"] = [answer.stopped for answer in done]
        return state

    @staticmethod
    def from_state(state: State, asked: Sequence[Prompt]) -> Rollouts:
        """The rollouts whose state was taken; `asked` are the prompts that `prompts` numbers."""
        tensors = {name: cast("Tensor", state[name]) for name in _TENSORS}
        numbers = tuple(cast("list[int]", state["prompts"]))
        lengths: list[int] = torch.bincount(tensors["response"], minlength=len(numbers)).tolist()
        parts = zip(
            numbers,
            cast("Tensor", state["tokens"]).split(lengths),
            cast("Tensor", state["logprobs"]).split(lengths),
            cast("list[int]", state["samples"]),
            cast("list[str]", state["texts"]),
            cast("list[bool]", state["stopped"]),
            strict=True,
        )
        completions = tuple(
            Completion(
                prompt=asked[number],
                sample=sample,
                tokens=tuple(tokens.tolist()),
                text=text,
                logprobs=tuple(logprobs.tolist()),
                stopped=stopped,
            )
            for number, tokens, logprobs, sample, text, stopped in parts
        )
        return Rollouts(completions=completions, prompts=numbers, parts={}, failures=(), numbers={}, **tensors)


def pack_answers(completions: Sequence[Completion], prompts: Sequence[int]) -> TokenBatch:
    """A packed batch in which neighbours with one prompt number share its prefix; all answer tokens are trained."""
    groups: list[PrefixGroup] = []
    for _, members in groupby(zip(prompts, completions, strict=True), key=lambda pair: pair[0]):
        answers = [completion for _, completion in members]
        groups.append(
            PrefixGroup(
                id=answers[0].prompt.id,
                root=Span.all(answers[0].prompt.tokens, trained=False),
                branches=tuple(Span.all(answer.tokens, trained=True) for answer in answers),
            )
        )
    return pack(groups)


def _size(completion: Completion) -> int:
    return len(completion.prompt.tokens) + len(completion.tokens)
