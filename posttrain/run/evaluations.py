"""What was measured of a run's model afterwards, kept beside it: a JSON file for each evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import cast

from posttrain.run.folder import Run
from posttrain.run.record import now, write_json

FOLDER = "evaluations"
"""The folder in `run/`."""
FORMAT = 1


def keep_evaluation(model: str, identity: Mapping[str, object], found: Mapping[str, object]) -> Path | None:
    """The file that holds what was found of a run's model; None where no run that is done wrote `model`.

    `identity` is all that makes this evaluation another one than those before: data, judge, settings. The same one
    again takes the place of the earlier. Raises OSError where nothing can be written there, and DataError for a
    damaged run.
    """
    run = Run(Path(model))
    if not run.exists() or run.status != "done":
        return None
    folder = run.path / "run" / FOLDER
    folder.mkdir(exist_ok=True)
    name = sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:12]
    file = folder / f"{name}.json"
    heading = {"format": FORMAT, "made": now(), "run": run.record.get("id")}
    write_json(file, _plain({**heading, "model": model, **identity, **found}))
    return file


def _plain(value: object) -> object:
    """A value that JSON has: numbers that are not finite are null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in cast("Mapping[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in cast("Sequence[object]", value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)
