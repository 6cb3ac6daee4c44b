"""Rankings of a file in folds by prompt, and how well scores order the rankings of a fold."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import cast

import torch
from torch import Tensor

from posttrain.data.examples import RankedItem, ranked_within
from posttrain.data.readers import read
from posttrain.errors import DataError, Problem
from posttrain.measures.shares import ranking_accuracy
from posttrain.models.load import load_scalar
from posttrain.models.parity import gate_scalar
from posttrain.objectives import ScoreReader
from posttrain.ops.statistics import Interval, bootstrap_mean
from posttrain.recipes.scoring import score_groups
from posttrain.text.chat import Codec
from posttrain.types import Message, RankedRecord

BUDGET = 8192
"""Tokens a forward; memory, not results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rankings:
    """The rankings of a file that a model can read. `losses` counts what was left out or cut to fit `limit` tokens."""

    name: str
    codec: Codec
    limit: int
    records: list[RankedRecord]
    losses: Counter[str]

    def items(self, records: Sequence[RankedRecord]) -> list[RankedItem]:
        """The rankings as tokens, cut to fit."""
        return ranked_within(records, self.codec.rankings(records), self.limit, "truncate")[0]

    def parts(self, folds: int, seed: int) -> list[list[RankedRecord]]:
        """The rankings in folds of about equal size, drawn by the seed; those of one prompt stand in one fold.

        Raises DataError when there are fewer prompts than folds.
        """
        prompts = sorted({record.prompt for record in self.records}, key=lambda prompt: _drawn(prompt, seed))
        if len(prompts) < folds:
            what = f"{len(prompts)} prompts with a strict pair do not make {folds} folds"
            raise DataError([Problem(place=self.name, what=what, fix="give more rankings, or fewer --folds")])
        fold = {prompt: number % folds for number, prompt in enumerate(prompts)}
        return [[record for record in self.records if fold[record.prompt] == number] for number in range(folds)]


def _drawn(prompt: tuple[Message, ...], seed: int) -> bytes:
    text = "\n".join(f"{message.role}: {message.content}" for message in prompt)
    return hashlib.blake2b(f"{seed} {text}".encode(), digest_size=8).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """The mean over prompts of the share of a prompt's strict pairs in the right order; ties of scores count one half.

    The interval is a bootstrap over prompts: the pairs of one prompt are not independent.
    """

    value: float
    interval: Interval
    prompts: int
    pairs: int

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} ({low:.3f} to {high:.3f})"


def load_rankings(data: str, model: str, limit: int) -> Rankings:
    """The rankings of a file or folder that have a strict pair once their answers are cut to `limit` tokens."""
    records = [cast("RankedRecord", record) for record in read(data, "ranked").records]
    strict = [record for record in records if len(set(record.ranks) - {None}) > 1]
    codec = Codec.load(model)
    kept, losses = ranked_within(strict, codec.rankings(strict), limit, "truncate")
    ids = {item.group.id for item in kept}
    losses["rankings without a strict pair"] += len(records) - len(strict)
    return Rankings(
        name=data,
        codec=codec,
        limit=limit,
        records=[record for record in strict if record.id in ids],
        losses=losses,
    )


def write_records(path: Path, records: Sequence[RankedRecord]) -> Path:
    """Writes rankings as the package reads them, and returns the file."""
    rows = [
        {
            "id": record.id,
            "messages": [{"role": message.role, "content": message.content} for message in record.prompt],
            "responses": record.responses,
            "ranks": record.ranks,
            "stopped": record.stopped,
        }
        for record in records
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def model_scores(reward: Path, items: Sequence[RankedItem]) -> list[Tensor]:
    """A reward model's raw scores of each ranking's answers, float [K]."""
    scalar, own_attention = load_scalar(str(reward))
    gate_scalar(scalar, own_attention)
    reader = ScoreReader(model=scalar, mean=False)
    scores = score_groups(reader, [item.group for item in items], BUDGET)
    return list(scores.split([len(item.ranks) for item in items]))


def lengths(items: Sequence[RankedItem]) -> list[Tensor]:
    """The lengths of each ranking's answers as scores: the judge that prefers the longer answer."""
    return [torch.tensor([float(len(branch.tokens)) for branch in item.group.branches]) for item in items]


def accuracy(items: Sequence[RankedItem], scores: Sequence[Tensor]) -> Accuracy:
    """How well scores order the rankings, of which there is at least one."""
    shares = [ranking_accuracy([item.ranks], [row]) for item, row in zip(items, scores, strict=True)]
    values = [share.value for share in shares]
    return Accuracy(
        value=mean(values),
        interval=bootstrap_mean(torch.tensor(values)),
        prompts=len(values),
        pairs=sum(share.count for share in shares),
    )
