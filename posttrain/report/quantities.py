"""What the inspector can colour tokens by, in the order of the keys 1 to 9: each with its line and its formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from posttrain.records import JSON
from posttrain.report.terms import term


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A number of each token. `key`: its column, or what is worked out from one (`change`). `name`: that of its term.

    `kind`: a ratio is neutral at 1 and coloured by its logarithm; a flag is true or false.
    """

    key: str
    label: str
    name: str
    kind: Literal["number", "ratio", "flag"] = "number"

    def facts(self) -> dict[str, JSON]:
        """The same for the page, with its line and the place of its formula."""
        found = term(self.name)
        return {"key": self.key, "label": self.label, "kind": self.kind, "about": found.about, "link": found.link}


_PPO = (
    Quantity(key="old", label="log-prob", name="old log-prob"),
    Quantity(key="reference", label="reference", name="reference log-prob"),
    Quantity(key="kl", label="kl", name="kl"),
    Quantity(key="values", label="value", name="value"),
    Quantity(key="rewards", label="reward", name="reward"),
    Quantity(key="advantages", label="advantage", name="advantage"),
    Quantity(key="returns", label="return", name="return"),
    Quantity(key="ratio", label="ratio", name="ratio", kind="ratio"),
    Quantity(key="clipped", label="clipped", name="clipped", kind="flag"),
)
_DPO = (
    Quantity(key="log_ratio", label="log-ratio", name="log-ratio"),
    Quantity(key="policy", label="policy", name="log-prob"),
    Quantity(key="reference", label="reference", name="reference log-prob"),
)
_REWARD = (
    Quantity(key="scores", label="score so far", name="prefix score"),
    Quantity(key="change", label="change", name="prefix change"),
)
QUANTITIES: Mapping[str, Sequence[Quantity]] = {"ppo": _PPO, "dpo": _DPO, "online-dpo": _DPO, "reward": _REWARD}
_DPO_FIRST = "log_ratio"
SHOWN_FIRST: Mapping[str, str] = {"ppo": "advantages", "dpo": _DPO_FIRST, "online-dpo": _DPO_FIRST, "reward": "change"}


def quantities_of(method: str, columns: Sequence[str]) -> list[Quantity]:
    """Those that a file of these columns has."""
    given = {*columns, *(["change"] if "scores" in columns else [])}
    return [quantity for quantity in QUANTITIES.get(method, ()) if quantity.key in given]


def shown_first(method: str, quantities: Sequence[Quantity]) -> str:
    """The key of what tokens are coloured by before anybody chose; empty where there is nothing to colour by."""
    keys = [quantity.key for quantity in quantities]
    wanted = SHOWN_FIRST.get(method, "")
    return wanted if wanted in keys else next(iter(keys), "")
