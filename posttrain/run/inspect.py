"""Rollouts as Parquet: one row an answer, one list column for every per-token quantity."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from posttrain.rollout.buffer import Rollouts

_PER_TOKEN = ("old", "reference", "kl", "values", "rewards", "advantages", "returns")


def write_rollouts(path: Path, rollouts: Rollouts) -> None:
    """Writes a round's answers; every list of a row has one entry per answer token.

    Raises OSError, and leaves no part of a file.
    """
    lengths = [len(completion.tokens) for completion in rollouts.completions]
    columns: dict[str, pa.Array] = {
        "prompt_id": pa.array([completion.prompt.id for completion in rollouts.completions]),
        "sample": pa.array([completion.sample for completion in rollouts.completions]),
        "answer": pa.array([completion.text for completion in rollouts.completions]),
        "stopped": pa.array([completion.stopped for completion in rollouts.completions]),
        "prompt_tokens": pa.array([list(completion.prompt.tokens) for completion in rollouts.completions]),
        "tokens": pa.array([list(completion.tokens) for completion in rollouts.completions]),
        "score": pa.array(rollouts.scores.tolist()),
        "settled_score": pa.array(rollouts.settled.tolist()),
    }
    columns |= {name: pa.array(values.tolist()) for name, values in rollouts.parts.items()}
    for name in _PER_TOKEN:
        columns[name] = pa.array(_lists(getattr(rollouts, name), lengths))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        pq.write_table(pa.table(columns), path)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _lists(values: Tensor, lengths: list[int]) -> list[list[float]]:
    return [part.tolist() for part in values.split(lengths)]
