"""Pairs of answers for the token inspector: what policy and reference say of every token, and what the loss does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from posttrain.config import DPOConfig, OnlineDPOConfig
from posttrain.config.preferences import WITHOUT_REFERENCE
from posttrain.data.examples import LabelledItem, RankedItem
from posttrain.data.pack import pack, split_by_tokens
from posttrain.engine.local import LocalEngine
from posttrain.models.heads import Policy
from posttrain.recipes.inspecting import TOKENS, Answer, Inspecting, Likeliest, likeliest, numbers, top_columns
from posttrain.recipes.preferences import pair_loss
from posttrain.records import JSON
from posttrain.run.inspect import Column, lists
from posttrain.types import PrefixGroup, moved

MOST = 16
"""Rows of a file: rankings, of each of which the best answer and the worst are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A prompt with two of its answers, the better first. `places`: their numbers among the answers to it."""

    group: PrefixGroup
    places: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a policy says of all answer tokens of some pairs, end to end: log-probs, float32 [M], and alternatives."""

    logprobs: NDArray[np.float32]
    top: Likeliest


def pairs_of(items: Iterable[RankedItem | LabelledItem]) -> list[Pair]:
    """The first answer of the best tier and the first of the worst, of the first 16 rankings.

    Neither labels nor rankings of one tier make pairs.
    """
    found: list[Pair] = []
    for item in islice(items, MOST):
        if not isinstance(item, RankedItem):
            continue
        ranked = [(rank, place) for place, rank in enumerate(item.ranks) if rank is not None]
        worst = max(rank for rank, _ in ranked)
        if worst == item.top:
            continue
        best, last = min(ranked)[1], min(place for rank, place in ranked if rank == worst)
        answers = item.group.branches[best], item.group.branches[last]
        group = PrefixGroup(id=item.group.id, root=item.group.root, branches=answers)
        found.append(Pair(group=group, places=(best, last)))
    return found


def said_of(policy: Policy, pairs: Sequence[Pair]) -> Said:
    """What a policy says of pairs; in the same micro-batches for every policy, whatever those of the run are."""
    runs = split_by_tokens(pairs, TOKENS, size=lambda pair: len(pair.group))
    batches = [pack([pair.group for pair in run]) for run in runs]
    logprobs = [np.zeros(0, np.float32)]
    with torch.inference_mode():
        for batch in batches:
            found = policy(moved(batch, policy.device)).logprobs.cpu()
            logprobs.append(numbers(found[batch.places]))
    return Said(logprobs=np.concatenate(logprobs), top=likeliest(policy, batches))


class InspectedPairs:
    """Writes what a policy says of pairs beside its reference; `beta` is the weight of the loss."""

    def __init__(self, config: DPOConfig | OnlineDPOConfig, writing: Inspecting, beta: float) -> None:
        self._config = config
        self._writing = writing
        self._beta = beta
        self._loss = pair_loss(config, beta)

    def keep(self, step: int, pairs: Sequence[Pair], policy: Said, reference: Said | None) -> None:
        """Writes the file of a step; without a reference it has none of its columns."""
        answers = [
            Answer(pair.group.id, pair.group.root.tokens, place, span.tokens)
            for pair in pairs
            for place, span in zip(pair.places, pair.group.branches, strict=True)
        ]
        lengths = [len(answer.tokens) for answer in answers]
        tops = {"actor": policy.top} | ({} if reference is None else {"reference": reference.top})
        columns: dict[str, Column] = {
            "pair": pa.array([row // 2 for row in range(len(answers))], pa.int64()),
            "role": pa.array(["chosen", "rejected"] * len(pairs), pa.string()),
            **self._numbers(policy, reference, lengths),
        }
        for role, top in tops.items():
            columns |= top_columns(role, top, lengths)
        self._writing.write(step, answers, columns, self._settings(), tops.values())

    def of_rows(
        self, pairs: Sequence[Pair], policy: Policy, reference: Said | None, engine: LocalEngine
    ) -> Callable[[int], Mapping[str, float]]:
        """What writes the same pairs at each step, if there are any, by the policy as it then stands.

        It measures nothing.
        """

        def act(step: int) -> Mapping[str, float]:
            if pairs:
                with self._writing.spared(step), engine.precision():
                    self.keep(step, pairs, said_of(policy, pairs), reference)
            return {}

        return act

    def of_rounds(
        self,
        policy: Policy,
        reference: Policy | None,
        engine: LocalEngine,
        lent: Callable[[], AbstractContextManager[None]],
    ) -> Callable[[int, Sequence[RankedItem]], None]:
        """What writes the pairs of a round, by the policy before its update; inside `lent()` the reference is there."""

        def act(step: int, items: Sequence[RankedItem]) -> None:
            pairs = pairs_of(items)
            with self._writing.spared(step), engine.precision(), lent():
                held = None if reference is None else said_of(reference, pairs)
                self.keep(step, pairs, said_of(policy, pairs), held)

        return act

    def _numbers(self, policy: Said, reference: Said | None, lengths: Sequence[int]) -> dict[str, Column]:
        """Per token and per answer; sums are those of the written numbers, in float64."""
        shares = np.maximum(lengths, 1) if self._means else np.ones(len(lengths))
        sums = _sums(policy.logprobs, lengths)
        columns = {"policy": lists(policy.logprobs, lengths), "sum_policy": pa.array(sums)}
        held, ratio = np.zeros_like(sums), sums / shares
        if reference is not None:
            held = _sums(reference.logprobs, lengths)
            ratio = self._beta * (sums - held) / shares
            columns |= {
                "reference": lists(reference.logprobs, lengths),
                "log_ratio": lists(policy.logprobs - reference.logprobs, lengths),
                "sum_reference": pa.array(held),
                "implicit_reward": pa.array(ratio),
            }
        margin = np.repeat(ratio[0::2] - ratio[1::2], 2)
        of = [torch.from_numpy(part) for part in (sums / shares, held / shares)]
        loss = self._loss(of[0][0::2], of[0][1::2], of[1][0::2], of[1][1::2]).numpy()
        return columns | {"margin": pa.array(margin), "loss": pa.array(np.repeat(loss, 2))}

    @property
    def _means(self) -> bool:
        return self._config.length_normalize or self._config.loss in WITHOUT_REFERENCE

    def _settings(self) -> dict[str, JSON]:
        config = self._config
        return {
            "beta": self._beta,
            "loss": config.loss,
            "label_smoothing": config.label_smoothing,
            "length_normalize": config.length_normalize,
            "gamma": config.gamma,
            "lam": config.lam,
            "nll": config.nll,
            "temperature": config.temperature if isinstance(config, OnlineDPOConfig) else 1.0,
        }


def _sums(values: NDArray[np.float32], lengths: Sequence[int]) -> NDArray[np.float64]:
    """Float64 [R]: the sum over each answer, 0 for an empty one."""
    bounds = pairwise(np.cumsum([0, *lengths]))
    return np.array([values[start:end].sum(dtype=np.float64) for start, end in bounds])
