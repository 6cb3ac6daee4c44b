"""The words of the package: records, prompts, batches, and the callable types that join its parts.

Axis legend: T tokens of a micro-batch laid end to end, S segments in it, R responses, N preference pairs,
K ranked responses to one prompt, G samples of one prompt, V vocabulary, D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import torch
from torch import Tensor

from posttrain.records import JSON as JSON
from posttrain.records import Answered as Answered
from posttrain.records import ChatRecord as ChatRecord
from posttrain.records import Kind as Kind
from posttrain.records import LabelledRecord as LabelledRecord
from posttrain.records import Message as Message
from posttrain.records import PromptRecord as PromptRecord
from posttrain.records import RankedRecord as RankedRecord
from posttrain.records import Record as Record
from posttrain.records import Role as Role
from posttrain.records import TargetRecord as TargetRecord
from posttrain.records import TextRecord as TextRecord
from posttrain.spans import PrefixGroup as PrefixGroup
from posttrain.spans import Span as Span

# --- tokens: what a tokenizer makes of records ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt as the sampler sees it: `tokens` end where the answer begins. `record` is where it came from."""

    id: str
    tokens: tuple[int, ...]
    record: PromptRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A sampled answer. `tokens` include the end token when `stopped`; `logprobs` are the sampling policy's.

    `logprobs` are at the sampling temperature, over the full distribution before any top-k, top-p or min-p cut.
    """

    prompt: Prompt
    sample: int
    tokens: tuple[int, ...]
    text: str
    logprobs: tuple[float, ...]
    stopped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSpec:
    """How to sample. `seed` and `round` enter the seed of every (run, round, prompt, sample).

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 leave the distribution whole.
    """

    max_new_tokens: int
    samples: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    seed: int = 0
    round: int = 0


# --- batches ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """A micro-batch as one flat stream of tokens; there is no padding.

    `tokens`, `positions`, `segment`, `predictor`: int64 [T]; `parent`: int64 [S]; `trained`: bool [T].
    Entry t of any per-token tensor describes token t. `positions` counts within the token's own sequence (a branch
    continues at its parent's length). `parent` is the segment that is a shared prefix, or -1. `predictor` is the place
    whose hidden state predicts this token, -1 for the first token of a root. Segments lie in order, a parent before
    its branches, and a parent has no parent itself.

    From these follow `places`: int64 [M], the trained tokens in order, and as plain numbers, of each segment, `lengths`
    (its tokens), `parents` and `learns` (its trained tokens): a device is not asked for them while it computes. All is
    checked where a batch is made; one that is `moved` is not looked at again.

    Raises ValueError when a trained token has no predictor, which would silently read the last hidden state.
    """

    tokens: Tensor
    positions: Tensor
    segment: Tensor
    parent: Tensor
    predictor: Tensor
    trained: Tensor
    places: Tensor = field(init=False)
    lengths: tuple[int, ...] = field(init=False)
    parents: tuple[int, ...] = field(init=False)
    learns: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        places = self.trained.nonzero().squeeze(-1)
        alone = places[self.predictor[places] < 0]
        if len(alone):
            place = int(alone[0])
            raise ValueError(f"token {place} is trained but nothing predicts it: it is the first of its sequence")
        found = {
            "places": places,
            "lengths": _counts(self.segment, len(self.parent)),
            "parents": tuple(self.parent.tolist()),
            "learns": _counts(self.segment[places], len(self.parent)),
        }
        for name, value in found.items():
            object.__setattr__(self, name, value)


def _counts(segment: Tensor, segments: int) -> tuple[int, ...]:
    return tuple(torch.bincount(segment, minlength=segments).tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedBatch:
    """Ranked responses, with the pairs that their ranks imply.

    `responses`: int64 [R], the segment of each response. `prompt`: int64 [R], the prompt of the batch that it answers.
    `ranks`: int64 [R], 1 is best, 0 is not ranked. `pairs`: int64 [N, 2] of rows into the responses, the better first.
    `targets`: float [N], the probability that the first is better (1, or 1/2 for a tie). `weights`: float [N].
    `margins`: float [N], 0 where none was given. `best`: float [R], the ranking's weight for the responses of its
    first tier, 0 for the others. `reference`: float [R], the summed reference log-prob of each response; zeros where
    the objective needs none.
    """

    tokens: TokenBatch
    responses: Tensor
    prompt: Tensor
    ranks: Tensor
    pairs: Tensor
    targets: Tensor
    weights: Tensor
    margins: Tensor
    best: Tensor
    reference: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledBatch:
    """Responses that were each found good or bad, without a comparison.

    `responses`: int64 [R], the segment of each response. `desirable`: bool [R]. `weights`: float [R]. `reference`:
    float [R], the summed reference log-prob of each response. `baseline`: float [], the same in all micro-batches of a
    step: what the log-ratios are compared with.
    """

    tokens: TokenBatch
    responses: Tensor
    desirable: Tensor
    weights: Tensor
    reference: Tensor
    baseline: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutBatch:
    """Annotated rollouts; every float tensor is [T] and 0 where `tokens.trained` is False.

    `old`: log-probs of the policy that sampled. `reference`: log-probs of the reference. `values`: the critic's, before
    the update. `advantages` and `returns` come from generalised advantage estimation. While the critic warms up,
    `train_actor` is False and the actor has no loss. `beta` weighs the KL to the reference where that is in the loss.
    """

    tokens: TokenBatch
    old: Tensor
    reference: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    train_actor: bool = True
    beta: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetBatch:
    """Sequences with their labels. `targets`: float [S], the number of each sequence's class, or its value."""

    tokens: TokenBatch
    targets: Tensor


Batch: TypeAlias = TokenBatch | RankedBatch | LabelledBatch | TargetBatch | RolloutBatch
BatchT = TypeVar("BatchT", bound=Batch)


def moved(batch: BatchT, device: torch.device | str) -> BatchT:
    """The same batch on `device`; the copy of one in pinned memory goes on while the caller does."""
    if torch.device(device).type == batch_device(batch).type:
        return batch
    return _changed(batch, lambda tensor: tensor.to(device, non_blocking=True))


def pinned(batch: BatchT) -> BatchT:
    """The same batch in page-locked memory, from which a GPU fetches by itself."""
    return _changed(batch, Tensor.pin_memory)


def _changed(batch: BatchT, change: Callable[[Tensor], Tensor]) -> BatchT:
    """The batch with every tensor changed; it is not made anew, which would ask its device what it was made of."""
    copied = object.__new__(type(batch))
    for part in fields(batch):
        value = getattr(batch, part.name)
        if isinstance(value, Tensor):
            value = change(value)
        elif isinstance(value, TokenBatch):
            value = _changed(value, change)
        object.__setattr__(copied, part.name, value)
    return copied


def batch_device(batch: Batch) -> torch.device:
    """Where a batch's tensors are."""
    return (batch if isinstance(batch, TokenBatch) else batch.tokens).tokens.device


# --- what an objective returns, and what a source yields ---------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One part of a loss. `total` is a sum over the micro-batch, never a mean; `weight` multiplies it in the loss."""

    total: Tensor
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mean:
    """A mergeable metric: divide only when it is logged. Both are detached scalars."""

    total: Tensor
    count: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Largest:
    """A mergeable metric: the largest `value` of what was seen, a detached scalar."""

    value: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What an objective says of one micro-batch: loss = sum over names of weight * total / counts[name]."""

    terms: Mapping[str, Term]
    metrics: Mapping[str, Mean | Largest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One optimizer step. `counts` are the denominators of the terms, over all micro-batches, known beforehand.

    `rows` are the ids of the records in it, for messages.
    """

    micro_batches: Iterable[Batch]
    counts: Mapping[str, float]
    rows: Sequence[str] = ()
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


State: TypeAlias = "dict[str, JSON | Tensor]"


class Stateful(Protocol):
    """A part whose state is saved with a checkpoint; `load_state(state())` changes nothing."""

    def state(self) -> State: ...

    def load_state(self, state: State) -> None: ...


class Source(Stateful, Protocol):
    """Yields optimizer steps, from where its state stands to the end."""

    @property
    def steps(self) -> int:
        """The number of optimizer steps in the whole run."""
        ...

    def __iter__(self) -> Iterator[Step]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ungraded:
    """Why an answer has no score: the number of the answer, which reward failed, and how."""

    row: int
    reward: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grades:
    """The scores of R answers with what they are made of.

    `total`: float [R], NaN for an answer that a reward failed on, which then stands in `failures`. `parts`: float [R]
    by the name of the metric that they are.
    """

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    failures: tuple[Ungraded, ...] = ()


LogprobFn: TypeAlias = Callable[[TokenBatch], Tensor]
"""Float [T] log-probs; 0 where not trained."""
ValueFn: TypeAlias = Callable[[TokenBatch], Tensor]
"""Float [T] values; the value at t is the one before token t is emitted, 0 where not trained."""
Scorer: TypeAlias = Callable[[Sequence[Completion]], Tensor]
"""Float [len(completions)]: a reward model, a rule, a remote service or a mixture; NaN only from a `Grader`."""


@runtime_checkable
class Grader(Protocol):
    """A `Scorer` that can say more of its scores, or be without one for some answers."""

    def __call__(self, completions: Sequence[Completion]) -> Tensor: ...

    def grade(self, completions: Sequence[Completion]) -> Grades: ...


Sampler: TypeAlias = Callable[[Sequence[Prompt], SamplingSpec], list[Completion]]
Objective: TypeAlias = Callable[[Batch], Scored]


@dataclass(frozen=True, slots=True)
class Apart:
    """An objective made of several that share no pass forwards, so that each may go backwards before the next begins.

    Called, it is their sum in one graph. Their terms and metrics have different names.
    """

    objectives: tuple[Objective, ...]

    def __call__(self, batch: Batch) -> Scored:
        every = [objective(batch) for objective in self.objectives]
        return Scored(
            terms={name: term for scored in every for name, term in scored.terms.items()},
            metrics={name: found for scored in every for name, found in scored.metrics.items()},
        )


def objectives_of(objective: Objective) -> tuple[Objective, ...]:
    """The objectives that may go backwards one after another: itself, where it is not made of several."""
    return objective.objectives if isinstance(objective, Apart) else (objective,)


Hook: TypeAlias = Callable[[int, dict[str, float]], None]
"""Called after each update with its number and metrics; a hook that measures adds to the metrics."""
