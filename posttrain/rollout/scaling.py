"""What scores are divided by, so that one clip and one KL weight suit rewards of any size; no mean is shifted."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from posttrain.types import State


class ScoreScale:
    """The standard deviation of scores, divided by the count: of the step (`batch`), or of all so far (`running`).

    `kind` None: 1. Part of a run's checkpoints. Running sums are merged as in Chan 1979, in float64.
    """

    def __init__(self, kind: str | None) -> None:
        self._kind = kind
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def __call__(self, scores: Tensor) -> float:
        """What this step's scores [R] are divided by; a running deviation takes them in first."""
        if self._kind is None or len(scores) == 0:
            return 1.0
        if self._kind == "batch":
            return float(scores.double().std(correction=0))
        self._take(scores.double())
        return (self._squares / self._count) ** 0.5

    def _take(self, scores: Tensor) -> None:
        count, mean = len(scores), float(scores.mean())
        gap, total = mean - self._mean, self._count + count
        self._squares += float((scores - mean).square().sum()) + gap * gap * self._count * count / total
        self._mean += gap * count / total
        self._count = total

    def state(self) -> State:
        """The scores so far as count, mean and sum of squares."""
        return {"count": self._count, "mean": self._mean, "squares": self._squares}

    def load_state(self, state: State) -> None:
        """Goes on with the scores of `state`."""
        self._count = cast("int", state["count"])
        self._mean, self._squares = cast("float", state["mean"]), cast("float", state["squares"])
