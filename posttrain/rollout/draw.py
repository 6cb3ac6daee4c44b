"""Tokens drawn from logits: one uniform number a token, from a stream that belongs to the sequence alone."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from posttrain.types import SamplingSpec

# Below this vocabulary one cumulative sum is quicker than two levels of them.
_ONE_LEVEL = 2048
_BLOCK = 256
# The float32 below 1: a positive float32 times this is a smaller float32.
_BELOW_ONE = 1.0 - 2.0**-24
_TABLE_COLUMNS = 64
_MOST_SORTED = 1024


def draw(logits: Tensor, uniforms: Tensor, spec: SamplingSpec) -> tuple[Tensor, Tensor]:
    """Tokens int64 [n] and their log-probs float32 [n], from logits [n, V] and uniforms float32 [n] in [0, 1).

    The token is the first whose cumulative probability exceeds the uniform. Log-probs are of the full distribution at
    the sampling temperature; temperature 0 takes the largest logit and reports log-probs at temperature 1. Where the
    logits are not finite the log-prob is NaN.
    """
    logits = logits.float()
    if spec.temperature == 0.0:
        peak, tokens = logits.max(-1, keepdim=True)
        weights = (logits - peak).exp_()
        return tokens.squeeze(1), weights.sum(-1).log_().neg_()
    peak = logits.amax(-1, keepdim=True)
    # One pass over V for each of: the largest, the difference, the exponential and the sums. Weights are not divided.
    weights = logits - peak
    if spec.temperature != 1.0:
        weights /= spec.temperature
    weights.exp_()
    total = weights.sum(-1)
    tokens = invert(_cut(weights, spec), uniforms.unsqueeze(1))
    chosen = (logits.gather(1, tokens) - peak).squeeze(1)
    if spec.temperature != 1.0:
        chosen /= spec.temperature
    return tokens.squeeze(1), chosen - total.log_()


def invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Indices int64 [n, 1]: the first whose share of cumulative `weights` [n, V] exceeds `uniforms` [n, 1].

    Weights need not sum to 1; an index of weight 0 is never returned. Large vocabularies go in two levels, the block
    and the place in it, which spares a cumulative sum over V.
    """
    size = weights.shape[1]
    if size <= _ONE_LEVEL:
        return _invert_one(weights, uniforms)[0]
    if size % _BLOCK:
        weights = F.pad(weights, (0, -size % _BLOCK))
    blocks = weights.view(len(weights), -1, _BLOCK)
    sums = blocks.sum(-1)
    block, rest = _invert_one(sums, uniforms)
    inner = blocks.gather(1, block.unsqueeze(2).expand(-1, -1, _BLOCK)).squeeze(1)
    return (block * _BLOCK + _invert_one(inner, rest)[0]).clamp_max_(size - 1)


def _invert_one(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen index [n, 1], and the uniform number [n, 1] that is left for a choice within it."""
    sums = _running(weights)
    target = sums[:, -1:] * uniforms
    # A NaN among the weights would put the index one past the end.
    index = torch.searchsorted(sums, target, right=True).clamp_max_(weights.shape[1] - 1)
    chosen = weights.gather(1, index)
    before = sums.gather(1, index) - chosen
    return index, ((target - before) / chosen).clamp_(0.0, _BELOW_ONE)


def _running(weights: Tensor) -> Tensor:
    """Cumulative sums [n, V] along each row.

    On a GPU they are made in one order where there is more than one row; torch refuses them all the same where it must
    be deterministic.
    """
    if weights.device.type != "cuda" or not torch.are_deterministic_algorithms_enabled():
        return weights.cumsum(-1)
    torch.use_deterministic_algorithms(False)
    try:
        return weights.expand(max(2, len(weights)), -1).cumsum(-1)[: len(weights)]
    finally:
        torch.use_deterministic_algorithms(True)


def _cut(weights: Tensor, spec: SamplingSpec) -> Tensor:
    """Weights [n, V], zero where top-k, then top-p, then min-p leave a token out; ties at a border all stay.

    top-k: the k largest. top-p (Holtzman 2020): the smallest set of largest ones whose share reaches p. min-p (Nguyen
    2024): those of at least min_p times the largest.
    """
    if 0 < spec.top_k < weights.shape[1]:
        border = weights.topk(spec.top_k).values[:, -1:]
        weights = weights.where(weights >= border, 0.0)
    if spec.top_p < 1.0:
        weights = weights.where(weights >= _border(weights, spec.top_p), 0.0)
    if spec.min_p > 0.0:
        border = spec.min_p * weights.amax(-1, keepdim=True)
        weights = weights.where(weights >= border, 0.0)
    return weights


def _border(weights: Tensor, share: float) -> Tensor:
    """The smallest weight [n, 1] of the smallest set of largest ones that holds this share of each row."""
    wanted = share * weights.sum(-1, keepdim=True)
    # A whole vocabulary is seldom needed, and sorting it takes longer on a CPU than all else that a step does.
    if weights.device.type == "cpu" and weights.shape[1] > _MOST_SORTED:
        ordered = weights.topk(_MOST_SORTED).values
        if bool((ordered.sum(-1, keepdim=True) >= wanted).all()):
            return _smallest(ordered, wanted)
    return _smallest(weights.sort(descending=True).values, wanted)


def _smallest(ordered: Tensor, wanted: Tensor) -> Tensor:
    sums = _running(ordered)
    kept = (sums - ordered < wanted).sum(-1, keepdim=True).clamp_min_(1)
    return ordered.gather(1, kept - 1)


def stream(spec: SamplingSpec, prompt_id: str, sample: int) -> np.random.Generator:
    """The random numbers of one sequence: a function of (seed, round, prompt id, sample) alone.

    Philox (Salmon 2011) keyed by a hash, so that samples depend neither on the batch nor on the number of processes.
    """
    words = f"{spec.seed}\0{spec.round}\0{sample}\0{prompt_id}"
    digest = hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


class UniformTable:
    """One uniform number a step for every slot, each slot from its own stream, drawn in blocks of steps."""

    def __init__(self, slots: int) -> None:
        self._numbers: NDArray[np.float32] = np.zeros((slots, _TABLE_COLUMNS), dtype=np.float32)
        self._table = torch.from_numpy(self._numbers)
        self._streams: list[np.random.Generator | None] = [None] * slots
        self._column = 0

    def enter(self, slot: int, numbers: np.random.Generator) -> None:
        """From the next step on `slot` takes its numbers from the start of this stream."""
        self._streams[slot] = numbers
        left = _TABLE_COLUMNS - self._column
        self._numbers[slot, self._column :] = numbers.random(left, dtype=np.float32)

    def move(self, source: int, target: int) -> None:
        """Slot `target` goes on where `source` stands."""
        self._numbers[target] = self._numbers[source]
        self._streams[target] = self._streams[source]

    def take(self, rows: int) -> Tensor:
        """The next uniform numbers float32 [rows], in [0, 1), of slots 0 to rows - 1."""
        if self._column == _TABLE_COLUMNS:
            self._column = 0
            for slot in range(rows):
                numbers = self._streams[slot]
                if numbers is not None:
                    self._numbers[slot] = numbers.random(_TABLE_COLUMNS, dtype=np.float32)
        self._column += 1
        return self._table[:rows, self._column - 1]
