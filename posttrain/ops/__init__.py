"""Pure tensor functions: they see tensors and plain numbers, never batches, models, configurations or ranks.

A module is loaded when it is first used: what a ranking says (`ranking`) needs no tensor library.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from posttrain.ops import credit as credit
    from posttrain.ops import kl as kl
    from posttrain.ops import logprob as logprob
    from posttrain.ops import losses as losses
    from posttrain.ops import ragged as ragged
    from posttrain.ops import ranking as ranking
    from posttrain.ops import statistics as statistics
    from posttrain.ops import wins as wins

__all__ = ["credit", "kl", "logprob", "losses", "ragged", "ranking", "statistics", "wins"]


def __getattr__(name: str) -> ModuleType:
    if name not in __all__:
        raise AttributeError(f"module 'posttrain.ops' has no attribute {name!r}")
    return import_module(f"posttrain.ops.{name}")
