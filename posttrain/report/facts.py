"""Facts of run.json for reading: as they are where they are of their kind, and else none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard, cast

from posttrain.records import JSON
from posttrain.run.folder import Facts


def mapping(facts: Mapping[str, Any], *names: str) -> Facts:
    """What stands under names, one in another; empty where there is no mapping."""
    found: Any = facts
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return cast("Facts", found) if isinstance(found, dict) else {}


def text(facts: Mapping[str, Any], name: str) -> str:
    """What stands under a name, as text; empty where nothing does."""
    found = facts.get(name)
    return "" if found is None else str(found)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a fact is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def steps_of(found: object) -> list[float]:
    """The steps that a list of run.json names, such as `resumes`."""
    rows = cast("list[object]", found) if isinstance(found, list) else [found]
    steps = [cast("Facts", row).get("step") for row in rows if isinstance(row, dict)]
    return [float(step) for step in steps if is_number(step)]


def numbers_in(facts: Mapping[str, Any]) -> dict[str, JSON]:
    """The numbers of facts by name; those of facts within, with their own name after it."""
    found: dict[str, JSON] = {}
    for name, value in facts.items():
        if is_number(value):
            found[name] = value
        elif isinstance(value, dict):
            found |= {f"{name} · {inner}": each for inner, each in numbers_in(cast("Facts", value)).items()}
    return found
