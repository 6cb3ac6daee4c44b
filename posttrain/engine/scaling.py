"""Loss scaling for float16: gradients that would round to zero are carried larger (Micikevicius 2018, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from posttrain.types import State

FIRST = 2.0**16
PATIENCE = 1000
"""Updates without an overflow after which the scale is tried twice as large."""


@dataclass(slots=True)
class LossScale:
    """What losses are multiplied with, and gradients divided by, a power of two."""

    value: float = FIRST
    good: int = 0

    def raised(self) -> None:
        """Notes an update whose gradient was finite."""
        self.good += 1
        if self.good == PATIENCE:
            self.value, self.good = 2 * self.value, 0

    def lowered(self) -> bool:
        """Halves the scale after a gradient that was not finite; False when it cannot fall."""
        if self.value <= 1:
            return False
        self.value, self.good = self.value / 2, 0
        return True

    def state(self) -> State:
        """Where the scale stands."""
        return {"scale": self.value, "good": self.good}

    def load_state(self, state: State) -> None:
        """Goes on from there."""
        self.value, self.good = cast("float", state["scale"]), cast("int", state["good"])
