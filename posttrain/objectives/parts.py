"""What every objective is made of: metrics that merge, and the batch that it expects."""

from __future__ import annotations

from typing import cast

from torch import Tensor

from posttrain.types import Batch, Mean, RankedBatch


def mean(total: Tensor, count: Tensor) -> Mean:
    """A metric of a micro-batch, without gradient."""
    return Mean(total=total.detach(), count=count.detach())


def ranked(batch: Batch) -> RankedBatch:
    """The batch as ranked answers: a recipe joins sources and objectives that fit."""
    return cast("RankedBatch", batch)
