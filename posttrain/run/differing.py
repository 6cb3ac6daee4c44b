"""What differs between two runs: what they were made with, and the first step at which they part."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from posttrain.config.document import read
from posttrain.errors import DataError, ModelError, Problem
from posttrain.run.fingerprints import FILE, FIX, Fingerprints, read_fingerprints
from posttrain.run.folder import Facts, Run
from posttrain.run.reading import read_metrics
from posttrain.run.same import flat
from posttrain.run.weight_files import WeightsCompared, compare_weights

What: TypeAlias = Literal["batch", "loss", "weights", "metrics"]
Pair: TypeAlias = "tuple[object, object]"
Pairs: TypeAlias = Mapping[str, Pair]

_NOT_LEARNT = ("step", "seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDifference:
    """Where two runs part. `what` differs, in the order in which a step computes it.

    `weights`: the tensors with other bits after the step, of so many `tensors` that both train and have fingerprints
    of. `metrics`: those that differ, by name, None where a run lacks it; of a step that one run has no row of, `step`
    alone. Step 0 is before the first update.
    """

    step: int
    what: tuple[What, ...]
    weights: tuple[str, ...]
    tensors: int
    metrics: Pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two runs. `resumes`: the steps it went on from, each with the weights that were not as it left them.

    `steps` is its last step, `alone` are weights that the other run does not train.
    """

    path: str
    command: str
    status: str
    steps: int
    resumes: Mapping[int, tuple[str, ...]]
    fingerprints: bool
    alone: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two runs compared. Each of `settings`, `machine` and `origins` is (of the first, of the second) by name.

    `machine`: versions, hardware, threads. `origins`: data, files and parents, by content. `first`: where the steps
    part, None when they do not as far as both go. `weights`: those that are saved; None unless both runs are done.
    """

    sides: tuple[Side, Side]
    settings: Pairs
    machine: Pairs
    origins: Pairs
    first: StepDifference | None
    weights: WeightsCompared | None

    @property
    def identical(self) -> bool:
        """Whether both took the same steps to the same weights, bit for bit, whatever their settings say."""
        one, other = self.sides
        same_length = one.steps == other.steps and (one.status == "done") == (other.status == "done")
        same_weights = self.weights is None or self.weights.same
        return self.first is None and same_length and same_weights and not (one.alone or other.alone)

    @property
    def by_metrics(self) -> bool:
        """Whether one of the runs has no fingerprints, so that metrics alone tell its steps apart."""
        return not all(side.fingerprints for side in self.sides)

    def facts(self) -> dict[str, Any]:
        """All of it for JSON."""
        return {"identical": self.identical, **asdict(self)}


def diff(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> Difference:
    """What differs between two runs. Raises ModelError for what is no run, DataError for a damaged file of one."""
    one, other = _Read.of(first), _Read.of(second)
    done = one.record["status"] == other.record["status"] == "done"
    return Difference(
        sides=(one.side(other), other.side(one)),
        settings=_settings(one, other),
        machine=_differing(_machine(one.record), _machine(other.record)),
        origins=_origins(one.record, other.record),
        first=_parting(one, other),
        weights=compare_weights(one.path, other.path) if done else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    """A run folder as it stands."""

    path: Path
    record: Facts
    settings: Facts
    prints: Fingerprints
    metrics: Mapping[int, Facts]

    @staticmethod
    def of(folder: str | os.PathLike[str]) -> _Read:
        path = Path(folder)
        if not path.is_dir():
            raise ModelError(f"{path} is no folder\n  fix: give the folders of two runs")
        record = _record(Run.open(path))
        settings = flat(read(path / "run" / "config.yaml").values)
        metrics = read_metrics(path / "run" / "metrics.jsonl")
        prints = read_fingerprints(path / "run" / FILE)
        return _Read(path=path, record=record, settings=settings, prints=prints, metrics=metrics)

    @property
    def steps(self) -> set[int]:
        return {*self.prints.steps, *self.metrics}

    @property
    def measured(self) -> int:
        """The last step that has to have a row: of a run that is not done, rows come after the fingerprints."""
        return max(self.steps if self.record["status"] == "done" else self.metrics, default=-1)

    def side(self, other: _Read) -> Side:
        alone = [name for name in self.prints.names if name not in other.prints.names] if other.prints.names else []
        resumes = {int(each["step"]): tuple(each.get("weights", ())) for each in self.record.get("resumes", [])}
        return Side(
            path=str(self.path),
            command=self.record["command"],
            status=self.record["status"],
            steps=max(self.steps, default=0),
            resumes=resumes,
            fingerprints=bool(self.prints.steps),
            alone=tuple(alone),
        )


def _record(run: Run) -> Facts:
    """The content of run.json. Raises DataError where it is not what a run writes."""
    record = run.record
    if not all(_is_resume(each) for each in record.get("resumes", [])):
        place = str(run.path / "run" / "run.json")
        raise DataError([Problem(place=place, what="damaged: resumes is not what a run writes", fix=FIX)])
    return record


def _is_resume(facts: Facts) -> bool:
    names = facts.get("weights", [])
    texts = isinstance(names, list) and all(isinstance(name, str) for name in cast("list[object]", names))
    return isinstance(facts.get("step"), int) and texts


# --- what the runs were made with -----------------------------------------------------------------------------------


def _differing(one: Facts, other: Facts) -> dict[str, Pair]:
    names = dict.fromkeys([*one, *other])
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def _settings(one: _Read, other: _Read) -> dict[str, Pair]:
    """The settings that differ, and automatic ones that came to something else; where a run is written is none.

    Of runs of different commands those that both have.
    """
    found = _differing(one.settings, other.settings)
    if one.record["command"] != other.record["command"]:
        found = {name: pair for name, pair in found.items() if name in one.settings and name in other.settings}
        found = {"command": (one.record["command"], other.record["command"]), **found}
    chosen = _differing(one.record.get("automatic", {}), other.record.get("automatic", {}))
    found |= {f"{name} (automatic)": pair for name, pair in chosen.items() if None not in pair}
    found.pop("out", None)
    return found


def _machine(record: Facts) -> Facts:
    return {**record.get("versions", {}), **record.get("hardware", {}), **record.get("machine", {})}


def _origins(one: Facts, other: Facts) -> dict[str, Pair]:
    """Data, files and parents of which the content differs; the same content under another name does not."""
    found: dict[str, Pair] = {}
    for kind in ("data", "files"):
        changed = _differing(one.get(kind, {}), other.get(kind, {}))
        contents = [sorted(str(pair[side]) for pair in changed.values() if pair[side]) for side in (0, 1)]
        if contents[0] != contents[1]:
            found |= {name: (_short(pair[0]), _short(pair[1])) for name, pair in changed.items()}
    parents = one.get("parents", {}), other.get("parents", {})
    for name, pair in _differing(*parents).items():
        if not _same_parent(*pair):
            found[f"parent {name}"] = (_parent(pair[0]), _parent(pair[1]))
    return found


def _same_parent(one: object, other: object) -> bool:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return False
    facts = cast("Facts", one), cast("Facts", other)
    for known in (("content", "base"), ("command", "started", "parents")):
        if all(known[0] in each for each in facts):
            return all(facts[0].get(name) == facts[1].get(name) for name in known)
    return False


def _parent(found: object) -> str | None:
    if not isinstance(found, dict):
        return None
    facts = cast("Facts", found)
    if "started" in facts:
        return f"{facts.get('name')} ({facts.get('command')} of {facts['started']})"
    return f"{facts.get('name')} ({_short(facts['content'])})" if "content" in facts else str(facts.get("name"))


def _short(digest: object) -> str | None:
    return None if digest is None else str(digest)[:12]


# --- the steps --------------------------------------------------------------------------------------------------------


def _parting(one: _Read, other: _Read) -> StepDifference | None:
    """The first of the steps of both that is not the same; a step without its row is one of both."""
    common = [name for name in one.prints.names if name in set(other.prints.names)]
    both = min(one.measured, other.measured)
    for step in sorted(each for each in one.steps | other.steps if each <= both or each in one.steps & other.steps):
        found = _at(step, one, other, common)
        if found.what:
            return found
    return None


def _at(step: int, one: _Read, other: _Read, common: list[str]) -> StepDifference:
    metrics = _metrics_at(step, one, other)
    parts: dict[What, bool]
    weights: list[str] = []
    mine, theirs = one.prints.steps.get(step), other.prints.steps.get(step)
    if mine is None or theirs is None:
        by_name = any("loss" in name and not name.startswith("eval_") for name in metrics)
        parts, common = {"loss": by_name}, []
    else:
        if one.prints.names != other.prints.names or mine.weights != theirs.weights:
            before, after = one.prints.weights(step), other.prints.weights(step)
            weights = [name for name in common if before[name] != after[name]]
        parts = {"batch": mine.batch != theirs.batch, "loss": mine.loss != theirs.loss, "weights": bool(weights)}
    what: list[What] = [name for name, differs in parts.items() if differs]
    if metrics and not what:
        what.append("metrics")
    return StepDifference(step=step, what=tuple(what), weights=tuple(weights), tensors=len(common), metrics=metrics)


def _metrics_at(step: int, one: _Read, other: _Read) -> dict[str, Pair]:
    """The metrics that differ. What is measured, and whether before the first step, is a matter of the settings."""
    mine, theirs = one.metrics.get(step), other.metrics.get(step)
    alike = _measured_alike(one, other)
    if mine is None or theirs is None:
        gap = mine is not theirs and step <= min(one.measured, other.measured) and (step > 0 or alike)
        return {"step": (mine and step, theirs and step)} if gap else {}
    found = {name: pair for name, pair in _differing(mine, theirs).items() if name not in _NOT_LEARNT}
    return {name: pair for name, pair in found.items() if alike or (name in mine and name in theirs)}


def _measured_alike(one: _Read, other: _Read) -> bool:
    settings = [{name: value for name, value in each.settings.items() if name != "out"} for each in (one, other)]
    return settings[0] == settings[1] and one.record["command"] == other.record["command"]
