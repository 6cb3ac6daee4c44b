"""A run folder as a report sees it: read once, whole, whether the run is done, goes on, or ended badly."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain.errors import DataError, Problem
from posttrain.run.evaluations import FOLDER
from posttrain.run.fingerprints import FIX, json_lines
from posttrain.run.folder import Facts, Run
from posttrain.run.lock import is_held
from posttrain.run.reading import read_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What a run folder holds. `settings`: the resolved ones by name, nested as in YAML.

    `metrics`: one mapping a step, in order, with `step` and `seconds`; values are numbers, or None for one that was not
    finite. `card`: the reward card, by `training` and `held_out`; None where there is none. `evaluations`: what was
    measured of the model afterwards, oldest first. `inspected`: the files of the token inspector, in the order of their
    steps. `problems`: what was wrong with rows of data; `failures`: the answers that a reward gave no score.
    """

    path: Path
    record: Facts
    settings: Facts
    metrics: Sequence[Facts]
    samples: Sequence[Facts]
    card: Facts | None
    evaluations: Sequence[Facts]
    inspected: Sequence[Path]
    problems: Sequence[Facts] = ()
    failures: Sequence[Facts] = ()

    @property
    def command(self) -> str:
        """The command that wrote the run: `sft`, `reward`, `ppo`, `dpo` and so on."""
        return self.record["command"]


def read(path: str | os.PathLike[str]) -> Read:
    """What is in a run folder. Raises ModelError where no run wrote it, DataError for a damaged file in it."""
    run = Run.open(path)
    inside = run.path / "run"
    evaluations = map(_facts, (inside / FOLDER).glob("*.json"))
    card = inside / "reward_card.json"
    return Read(
        path=run.path,
        record=_as_it_is(run),
        settings=run.config.model_dump(mode="json"),
        metrics=_numbers(run.metrics, inside / "metrics.jsonl"),
        samples=_texts(run.samples, inside / "samples.jsonl"),
        card=_facts(card) if card.is_file() else None,
        evaluations=sorted(evaluations, key=lambda facts: str(facts.get("made", ""))),
        inspected=sorted((inside / "inspect").glob("step-*.parquet"), key=lambda file: (len(file.name), file.name)),
        problems=[row for _, row in json_lines(inside / "problems.jsonl")],
        failures=list(read_lines(inside / "reward_failures.jsonl")),
    )


def _as_it_is(run: Run) -> Facts:
    """The record; its status is `stopped` where it says that the run goes on, but no process writes it any more."""
    gone = run.record["status"] == "running" and not is_held(run.path)
    return {**run.record, "status": "stopped"} if gone else run.record


def _numbers(metrics: Sequence[Facts], file: Path) -> Sequence[Facts]:
    """The metrics. Raises DataError where one is neither a number nor null."""
    for row in metrics:
        wrong = next((name for name, value in row.items() if not (value is None or type(value) in (int, float))), None)
        if wrong is not None:
            what = f"damaged: {wrong!r:.40} of step {row['step']} is {row[wrong]!r:.40}, expected a number or null"
            raise DataError([Problem(place=str(file), what=what, fix=FIX)])
    return metrics


def _texts(samples: Sequence[Facts], file: Path) -> Sequence[Facts]:
    """The samples. Raises DataError where one has no text of a prompt or an answer."""
    for row in samples:
        if not (isinstance(row.get("prompt"), str) and isinstance(row.get("answer"), str)):
            what = f"damaged: a sample of step {row['step']} has no text of a prompt and an answer"
            raise DataError([Problem(place=str(file), what=what, fix=FIX)])
    return samples


def _facts(file: Path) -> Facts:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError([Problem(place=str(file), what=f"damaged: {error}", fix="remove it")]) from error
    if not isinstance(found, dict):
        raise DataError([Problem(place=str(file), what="damaged: is no object", fix="remove it")])
    return found
