"""What a run puts on its machine: the tokens of a micro-batch, and the worst step that will come."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from posttrain.data.pack import Budget
from posttrain.data.source import EpochSource, Weighted
from posttrain.data.store import lengths_of
from posttrain.data.views import Joined
from posttrain.models.reordered import copied
from posttrain.recipes.setup import Machine
from posttrain.rollout.cache import columns_for
from posttrain.types import Step

ItemT = TypeVar("ItemT", bound=Sized)

# A large GPU is busy from some thirty thousand on. On a CPU more tokens at once save passes over the gradient of a
# vocabulary's head, where there is one, but nothing beyond these, and memory grows with them (dev/LOG.md, 2026-11-28).
_CUDA = 32768
_CPU, _CPU_LEAST, _CPU_NUMBERS = 8192, 1024, 2**20
FORWARD = 1 / 3
"""The work of reading a token, as a share of that of training on it."""


def budget_of(
    setting: int | Literal["auto"], where: Machine, shape: PretrainedConfig, *, vocabulary: bool = True
) -> Budget:
    """The setting, or where it is automatic what keeps the machine busy, until the preflight picks.

    `shape` is that of the model: on a CPU the tokens are halved while a layer's hidden states pass 2^20 numbers, or
    half as many for a model that scores sequences and has no `vocabulary` to train a head for.
    """
    if setting != "auto":
        return Budget(setting)
    if where.device.type == "cuda":
        return Budget(_CUDA, automatic=True)
    width, tokens = cast("int", shape.get_text_config().hidden_size), _CPU
    most = _CPU_NUMBERS if vocabulary else _CPU_NUMBERS // 2
    while tokens > _CPU_LEAST and tokens * width > most:
        tokens //= 2
    return Budget(tokens, automatic=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a run puts on its machine, besides what it trains.

    `worst`: a step of the run's longest rows, cut into micro-batches of so many tokens. `longest`: tokens of the
    longest row, which no micro-batch can divide. `tokens`: read by all steps together. `frozen`: models that are only
    read. `cache`: bytes of the sampler's keys and values. `sampling`: the seconds of all sampling, measured when asked.
    `kept`: the models that it keeps besides its last weights, by the name of their folder.
    """

    budget: Budget
    worst: Callable[[int], Step]
    longest: int
    tokens: float
    frozen: Sequence[nn.Module] = ()
    cache: int = 0
    sampling: Callable[[], float] | None = None
    kept: Sequence[str] = ()


def load_of(
    budget: Budget,
    sets: Sequence[Weighted[ItemT]],
    source: EpochSource[ItemT],
    batch_size: int,
    step: Callable[[Sequence[ItemT], int], Step],
    *,
    frozen: Sequence[nn.Module] = (),
    cache: int = 0,
) -> Load:
    """The load of a run over a data set, whose steps are `step(rows, tokens of a micro-batch)`.

    `frozen` models are asked once about every row, before the first step. `cache` is that of `sampler_cache` where the
    run samples.
    """
    of_sets = [lengths_of(part.items) for part in sets]
    rows, lengths = Joined([part.items for part in sets]), np.concatenate(of_sets)
    order = np.argsort(-lengths, kind="stable")
    epoch = sum(part.weight * float(of.sum()) for part, of in zip(sets, of_sets, strict=True))
    read = sum(float(of.sum()) for of in of_sets) * FORWARD * len(frozen)

    def worst(tokens: int) -> Step:
        places = order[fullest(lengths[order], tokens, batch_size)]
        return step([rows[int(place)] for place in places], tokens)

    return Load(
        budget=budget,
        worst=worst,
        longest=int(lengths.max()),
        tokens=epoch / source.examples_per_epoch * source.examples + read,
        frozen=frozen,
        cache=cache,
    )


def sampler_cache(model: PreTrainedModel, rows: int, longest: int) -> int:
    """Bytes of the keys and values of `rows` answers at once, in float32, and of the weights that sampling copies.

    That is the most: where answers end early, or begin late, a CPU has less of it.

    `longest`: tokens of an answer with its prompt.
    """
    text: Any = model.config.get_text_config()
    heads = cast("int", getattr(text, "num_key_value_heads", None) or text.num_attention_heads)
    width = cast("int", getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    entries = 2 * cast("int", text.num_hidden_layers)
    return 4 * entries * heads * width * rows * columns_for(longest) + copied(model)


def fullest(lengths: NDArray[np.integer[Any]], budget: int, count: int) -> list[int]:
    """The places of `count` rows: first those that fill a micro-batch of `budget` best, then the longest others.

    `lengths`: tokens of each row, the longest first. The longest row is one of the first.
    """
    chosen, room = [0], budget - int(lengths[0])
    while len(chosen) < min(count, len(lengths)):
        place = max(chosen[-1] + 1, int(np.searchsorted(-lengths, -room)))
        if place == len(lengths):
            break
        chosen.append(place)
        room -= int(lengths[place])
    taken = set(chosen)
    others = (place for place in range(len(lengths)) if place not in taken)
    return chosen + list(islice(others, count - len(chosen)))
