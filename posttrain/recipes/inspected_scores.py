"""Rankings for the token inspector: the score of every prefix of their answers by a reward model as it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from posttrain.data.examples import RankedItem
from posttrain.data.pack import pack, split_by_tokens
from posttrain.engine.local import LocalEngine
from posttrain.objectives import ScoreReader
from posttrain.recipes.inspecting import TOKENS, Answer, Inspecting, numbers
from posttrain.recipes.scoring import RewardCard
from posttrain.records import JSON
from posttrain.run.inspect import lists
from posttrain.types import PrefixGroup, moved

MOST = 16
"""Rankings of a file."""


class InspectedScores:
    """Writes the scores of the first rankings, raw as the head gives them: neither centred nor scaled."""

    def __init__(
        self, items: Sequence[RankedItem], reader: ScoreReader, loss: str, writing: Inspecting, engine: LocalEngine
    ) -> None:
        self._items = list(islice(items, MOST))
        self._reader = reader
        self._loss = loss
        self._writing = writing
        self._engine = engine

    def __call__(self, step: int) -> Mapping[str, float]:
        """Writes the file of a step. It measures nothing."""
        self.keep(step)
        return {}

    def keep(self, step: int, card: RewardCard | None = None) -> None:
        """Writes the file of a step; at the end of a run with the `card` of the saved model."""
        with self._writing.spared(step):
            with self._engine.precision():
                prefixes, scores = prefix_scores(self._reader, [item.group for item in self._items])
            answers = [
                Answer(item.group.id, item.group.root.tokens, place, span.tokens)
                for item in self._items
                for place, span in enumerate(item.group.branches)
            ]
            rows = [(row, rank) for row, item in enumerate(self._items) for rank in item.ranks]
            columns = {
                "ranking": pa.array([row for row, _ in rows], pa.int64()),
                "rank": pa.array([rank for _, rank in rows], pa.int64()),
                "score": pa.array(scores, pa.float64()),
                "scores": lists(np.concatenate([np.zeros(0, np.float32), *prefixes]), [len(part) for part in prefixes]),
            }
            settings: dict[str, JSON] = {
                "shift": 0.0 if card is None else card.shift,
                "scale": 1.0 if card is None else card.scale,
                "score_at": "mean" if self._reader.mean else "last",
                "loss": self._loss,
            }
            self._writing.write(step, answers, columns, settings)


def prefix_scores(reader: ScoreReader, groups: Sequence[PrefixGroup]) -> tuple[list[NDArray[np.float32]], list[float]]:
    """For each answer the score of each of its prefixes, up to and including each token, and the score of the whole.

    What is read at the last token is that token's number; a mean over tokens is that of the prefix. An empty answer has
    no prefix, and the score of its prompt.
    """
    prefixes: list[NDArray[np.float32]] = []
    scores: list[float] = []
    device = reader.model.score.weight.device
    for run in split_by_tokens(groups, TOKENS, size=len):
        batch = pack(run)
        with torch.inference_mode():
            after = numbers(reader.model(moved(batch, device)))
        parts = np.split(after, np.cumsum(batch.lengths)[:-1])
        for part, parent in zip(parts, batch.parents, strict=True):
            if parent < 0:
                continue
            found = _running_mean(part) if reader.mean else part
            prefixes.append(found)
            scores.append(float(found[-1] if len(found) else parts[parent][-1]))
    return prefixes, scores


def _running_mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    counts = np.arange(1, len(values) + 1)
    return (np.cumsum(values, dtype=np.float64) / counts).astype(np.float32)
