"""The JSON files beside a model's weights: what they hold, and what is said where it is not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from posttrain.errors import ModelError

NUMBER = (int, float)


def facts_in(file: Path, kinds: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """What a file says by the names in `kinds`, each of its kind; other names are left alone.

    Raises ModelError, with the file and the name, for what is no JSON, is missing or is of another kind.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(file, f"cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise _broken(file, f"holds a {type(found).__name__}, expected an object")
    facts = cast("dict[str, Any]", found)
    for name, kind in kinds.items():
        if name not in facts:
            raise _broken(file, f"has no {name}")
        if not isinstance(facts[name], kind) or isinstance(facts[name], bool):
            raise _broken(file, f"{name} is {facts[name]!r:.40}, which it cannot be")
    return {name: facts[name] for name in kinds}


def _broken(file: Path, what: str) -> ModelError:
    return ModelError(f"{file}  {what}\n  fix: copy the folder again, whole, from where it was trained")
