"""Health in words: rules that look at the metrics of a run and say what they see, in what state, and by which rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Health: TypeAlias = Literal["fine", "watch", "act"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a rule saw. `sentence` has the numbers; `rule` says with its limits what made the state."""

    name: str
    state: Health
    sentence: str
    rule: str
