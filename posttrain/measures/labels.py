"""What a head's outputs say of labels: accuracy and macro F1 of classes, correlations and errors of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from posttrain.measures.shares import Estimate, share
from posttrain.ops import losses
from posttrain.ops.statistics import bootstrap, confusion, macro_f1, pearson, spearman

Statistic: TypeAlias = Callable[[Tensor], float]
"""A number of the rows at int64 [M] places, which may repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadOutputs:
    """Outputs beside targets of N rows. `outputs`: float [N, K] logits of K classes, or [N] values; `targets`: [N]."""

    outputs: Tensor
    targets: Tensor

    @property
    def right(self) -> Tensor:
        """Bool [N]: whether the likeliest class is that of the label."""
        return self.outputs.argmax(dim=1) == self.targets

    def values(self) -> dict[str, float]:
        """The measures alone, by name; none of no rows."""
        everything = torch.arange(len(self.targets))
        return (
            {name: statistic(everything) for name, statistic in self._statistics().items()} if len(everything) else {}
        )

    def estimates(self) -> dict[str, Estimate]:
        """The measures with 95 % intervals: accuracy has Wilson's, the others those of a bootstrap over rows."""
        rows = len(self.targets)
        found: dict[str, Estimate] = {}
        for name, value in self.values().items():
            if name == "accuracy":
                found[name] = share(float(self.right.sum()), rows)
            else:
                interval = bootstrap(self._statistics()[name], rows)
                found[name] = Estimate(value=value, interval=interval, count=rows)
        return found

    def _statistics(self) -> Mapping[str, Statistic]:
        if self.outputs.dim() == 1:
            worth = losses.squared_error(self.outputs.double(), self.targets.double())
            return {
                "loss": partial(_mean, worth),
                "spearman": lambda rows: spearman(self.outputs[rows], self.targets[rows]),
                "pearson": lambda rows: pearson(self.outputs[rows], self.targets[rows]),
            }
        classes = self.outputs.shape[1]
        said, wanted = self.outputs.argmax(dim=1), self.targets.long()
        worth = F.cross_entropy(self.outputs.double(), wanted, reduction="none")
        return {
            "loss": partial(_mean, worth),
            "accuracy": partial(_mean, self.right.double()),
            "macro_f1": lambda rows: macro_f1(confusion(wanted[rows], said[rows], classes)),
        }


def _mean(values: Tensor, rows: Tensor) -> float:
    return float(values[rows].mean())
