"""The fingerprint of every step: the batch as it goes by, the loss, and the weights after the update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import cast

import numpy as np
from torch import Tensor

from posttrain.counted import counted
from posttrain.engine.checkpoint import Weights
from posttrain.ops.fingerprints import fingerprints
from posttrain.recipes.setup import Telling
from posttrain.run.fingerprints import FILE, Fingerprint, last_weights
from posttrain.types import Batch, LabelledBatch, RankedBatch, Step, TargetBatch, TokenBatch

_SIZE = 8
"""Bytes of the number of a batch, and of a loss."""


class Fingerprinting:
    """Writes the fingerprint of each step into the run folder, from what goes by; it changes nothing and draws nothing.

    The weights are those that checkpoints hold: of one in half precision its master.
    """

    def __init__(self, run: Telling, weights: Weights) -> None:
        self._run = run
        self._weights = weights
        self._batch = BatchDigest(())

    def begin(self, start: int) -> None:
        """Writes the weights before the first step; of a run that goes on, says which are not as it left them."""
        found = self._now()
        if start == 0:
            self._run.writer.fingerprint(Fingerprint(step=0, batch="", loss="", weights=found))
            return
        before = last_weights(self._run.writer.path / "run" / FILE, start)
        other = [name for name, number in before.items() if found.get(name) != number]
        if other:
            more = f" and {counted(len(other) - 1, 'other')}" if len(other) > 1 else ""
            self._run.console.say(f"the checkpoint's weights are not those of step {start}: {other[0]}{more}")
            self._run.writer.resumed_with(weights=other)

    def watched(self, source: Iterable[Step]) -> Iterator[Step]:
        """The same steps, of which every batch is looked at on its way to the model."""
        for step in source:
            self._batch = BatchDigest(step.rows)
            yield replace(step, micro_batches=self._batch.through(step.micro_batches))

    def after(self, number: int, metrics: Mapping[str, float]) -> None:
        """The first hook of a step: before anything else is measured."""
        losses = sorted((name, value) for name, value in metrics.items() if "loss" in name)
        loss = blake2b(" ".join(f"{name} {float(value).hex()}" for name, value in losses).encode(), digest_size=_SIZE)
        self._run.writer.fingerprint(
            Fingerprint(step=number, batch=self._batch.number(), loss=loss.hexdigest(), weights=self._now())
        )

    def _now(self) -> dict[str, int]:
        state = cast("dict[str, Tensor]", self._weights.state())
        return dict(zip(state, fingerprints([*state.values()]), strict=True))


class BatchDigest:
    """The number of a step's batch: its rows in order, their tokens, which are trained, and what is known of each.

    How rows are cut into micro-batches does not matter, but where the answers to one prompt are: it comes twice then.
    """

    def __init__(self, rows: Iterable[str]) -> None:
        self._rows = blake2b("\n".join(rows).encode(), digest_size=_SIZE)
        self._parts: dict[str, blake2b] = {}

    def through(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, each looked at when it is taken."""
        for batch in batches:
            for name, values in _facts(batch).items():
                part = self._parts.setdefault(name, blake2b(digest_size=_SIZE))
                part.update(np.ascontiguousarray(values.detach().cpu().numpy()).data)
            yield batch

    def number(self) -> str:
        """What was looked at, as a hexadecimal number."""
        whole = self._rows.copy()
        for name in sorted(self._parts):
            whole.update(f"{name} {self._parts[name].hexdigest()}".encode())
        return whole.hexdigest()


def _facts(batch: Batch) -> dict[str, Tensor]:
    """What a batch says that comes from the data."""
    tokens = batch if isinstance(batch, TokenBatch) else batch.tokens
    found = {"tokens": tokens.tokens, "positions": tokens.positions, "trained": tokens.trained}
    if isinstance(batch, RankedBatch):
        found |= {"ranks": batch.ranks, "targets": batch.targets, "weights": batch.weights}
    elif isinstance(batch, LabelledBatch):
        found |= {"desirable": batch.desirable, "weights": batch.weights}
    elif isinstance(batch, TargetBatch):
        found |= {"targets": batch.targets}
    return found
