"""How unsure a reward model is of the order of answers: what people's time is best spent on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, islice

from posttrain.console import Console
from posttrain.counted import counted
from posttrain.models.load import load_scalar
from posttrain.models.parity import gate_scalar
from posttrain.objectives import ScoreReader
from posttrain.recipes.scoring import RewardCard, say_raw, score_groups
from posttrain.recipes.setup import context_of, machine, quiet_libraries
from posttrain.records import RankedRecord
from posttrain.text.chat import Codec

_TOKENS = 8192  # of one forward


def unsure(path: str, records: Sequence[RankedRecord], console: Console) -> dict[str, float]:
    """By the id of each record: bits that the order of two of its answers tells, in the mean; 1 is a coin's throw.

    The reward model's difference of two scores is the log-odds of one being better (Bradley and Terry 1952). Records
    that are longer than its context have no number, which is said. Raises ModelError for what is no reward model.
    """
    quiet_libraries()
    card, codec = RewardCard.read(path), Codec.load(path)
    say_raw(path, card, console)
    limit, where = context_of(path), machine()
    groups = codec.rankings(records)
    able = [
        group
        for group in groups
        if len(group.root.tokens) + max(len(branch.tokens) for branch in group.branches) <= limit
    ]
    if len(able) < len(groups):
        lost = counted(len(groups) - len(able), "item")
        console.say(f"reward {path}: {lost} longer than its context of {limit:,} tokens, and come in random order")
    scalar, own = load_scalar(path, device=where.device, bf16=where.bf16)
    gate_scalar(scalar, own)
    reader = ScoreReader(model=scalar, mean=card.score_at == "mean")
    scores = iter(score_groups(reader, able, _TOKENS).tolist())
    return {group.id: mean_bits(list(islice(scores, len(group.branches)))) for group in able}


def mean_bits(scores: Sequence[float]) -> float:
    """The mean over pairs of the entropy in bits of which is better, the log-odds being the difference of scores."""
    bits = [_entropy(first - second) for first, second in combinations(scores, 2)]
    return sum(bits) / len(bits)


def _entropy(log_odds: float) -> float:
    """Bits of an event with these log-odds, which beyond 700 no float tells from none."""
    rare = 1 / (1 + math.exp(min(abs(log_odds), 700.0)))
    return -(rare * math.log2(rare) + (1 - rare) * math.log2(1 - rare))
