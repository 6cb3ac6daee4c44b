"""A run folder as a report sees it: read once, whole, whether the run is done, goes on, or ended badly."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain.errors import DataError, Problem
from posttrain.run.folder import Facts, Run

EVALUATIONS = "evaluations"
"""The folder in `run/` with what `posttrain eval` found of the run's model, a JSON file each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a run folder holds. `settings`: the resolved ones by name, nested as in YAML.

    `metrics`: one mapping a step, in order, with `step` and `seconds`. `card`: the reward card, by `training` and
    `held_out`; None where there is none. `evaluations`: what was measured of the model afterwards, oldest first.
    `inspected`: the files of the token inspector, in the order of their steps.
    """

    path: Path
    record: Facts
    settings: Facts
    metrics: Sequence[Facts]
    samples: Sequence[Facts]
    card: Facts | None
    evaluations: Sequence[Facts]
    inspected: Sequence[Path]

    @property
    def command(self) -> str:
        """The command that wrote the run: `sft`, `reward`, `ppo`, `dpo` and so on."""
        return self.record["command"]


def read(path: str | os.PathLike[str]) -> Read:
    """What is in a run folder. Raises ModelError where no run wrote it, DataError for a damaged file in it."""
    run = Run.open(path)
    inside = run.path / "run"
    card = inside / "reward_card.json"
    return Read(
        path=run.path,
        record=run.record,
        settings=run.config.model_dump(mode="json"),
        metrics=run.metrics,
        samples=run.samples,
        card=_facts(card) if card.is_file() else None,
        evaluations=[_facts(file) for file in sorted((inside / EVALUATIONS).glob("*.json"))],
        inspected=sorted((inside / "inspect").glob("step-*.parquet")),
    )


def _facts(file: Path) -> Facts:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError([Problem(place=str(file), what=f"damaged: {error}", fix="remove it")]) from error
    if not isinstance(found, dict):
        raise DataError([Problem(place=str(file), what="damaged: is no object", fix="remove it")])
    return found
