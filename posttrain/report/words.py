"""Numbers and names as a sentence of a report has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard, cast

from posttrain.report.parts import Cell


def short(value: float) -> str:
    """A number with three digits that tell; what is nothing but rounding is 0."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) >= 1e-4 else "0"


def percent(value: float) -> str:
    """A share: `66.1%`."""
    return f"{value:.1%}"


def interval_of(measure: Mapping[str, Any]) -> tuple[float, float] | None:
    """The 95 % interval of a measure, over prompts where it has one; None for one that says nothing."""
    if measure.get("prompts", 2) < 2:
        return None
    found = measure.get("interval_over_prompts", measure.get("interval"))
    return (
        (float(found[0]), float(found[1])) if isinstance(found, list) and len(cast("list[Any]", found)) == 2 else None
    )


def share_of(measure: Mapping[str, Any]) -> str:
    """`66.1% (95 % 62.2% to 69.8%)`, of a measure as it is stored."""
    return _with_interval(measure, percent)


def number_of(measure: Mapping[str, Any]) -> str:
    """`0.877 (95 % 0.86 to 0.893)`, of a measure as it is stored."""
    return _with_interval(measure, short)


def _with_interval(measure: Mapping[str, Any], words: Any) -> str:
    found = interval_of(measure)
    value = words(float(measure["value"]))
    return value if found is None else f"{value} (95 % {words(found[0])} to {words(found[1])})"


def is_measure(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether a stored value is a number with its interval."""
    return isinstance(value, Mapping) and isinstance(cast("Mapping[str, Any]", value).get("value"), int | float)


def cells_of(name: str, measure: Mapping[str, Any]) -> Sequence[Cell]:
    """A row of a table of measures: name, value, both ends of the interval, cases."""
    low, high = interval_of(measure) or (None, None)
    return [name, float(measure["value"]), low, high, measure.get("count")]


MEASURE_COLUMNS = ("measure", "value", "95 % from", "to", "cases")
"""What `cells_of` fills."""


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([part for part in (", ".join(names[:-1]), names[-1]) if part]) if names else ""
