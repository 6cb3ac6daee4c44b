"""Metrics for other people's dashboards: thin adapters, each imported only when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from posttrain.errors import ConfigError, Problem


class Tracker(Protocol):
    """Takes the metrics of each step, and is closed at the end."""

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracked:
    """The run as a tracker knows it. `id` stays the same when the run goes on; `start` is the step it goes on from."""

    folder: Path
    name: str
    id: str
    settings: Mapping[str, Any]
    start: int


@contextmanager
def tracking(name: str | None, run: Tracked) -> Generator[list[Callable[[int, dict[str, float]], None]]]:
    """Hooks that hand every step to the tracker of that name; none for None. Raises ConfigError as check_tracker."""
    if name is None:
        yield []
        return
    check_tracker(name)
    tracker = _TRACKERS[name](run)
    try:
        yield [tracker]
    finally:
        tracker.close()


def check_tracker(name: str | None) -> None:
    """Raises ConfigError when the tracker's package is not installed."""
    if name is not None and find_spec(name) is None:
        problem = Problem(place="track", what=f"the package {name} is not installed", fix=f"pip install {name}")
        raise ConfigError([problem])


class TensorBoard:
    """Event files under `run/tensorboard`, each step at once. Going on, later steps of before are hidden."""

    def __init__(self, run: Tracked) -> None:
        module, folder = import_module("torch.utils.tensorboard"), run.folder / "tensorboard"
        purge = run.start + 1 if folder.is_dir() else None
        self._writer = module.SummaryWriter(log_dir=str(folder), purge_step=purge)

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a thread writes when it likes, at times two minutes later: a kill would leave a gap

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run of project `posttrain` under `run/wandb`: offline, to be synced by hand, unless WANDB_MODE is set.

    Online, steps that it has are not told again. Offline nothing says what it has: each start is a folder of its own.
    """

    def __init__(self, run: Tracked) -> None:
        self._run = import_module("wandb").init(
            project="posttrain",
            name=run.name,
            id=run.id,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.settings),
            mode=os.environ.get("WANDB_MODE", "offline"),
        )
        self._first: int = self._run.starting_step

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        if step >= self._first:  # it would drop the others, with a warning for each
            self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class Trackio:
    """A run of project `posttrain` in Trackio's own local database, which keeps a step as often as it is told."""

    def __init__(self, run: Tracked) -> None:
        self._module = import_module("trackio")
        self._module.init(
            project="posttrain", name=f"{run.name}-{run.id}", resume="allow", config=dict(run.settings), embed=False
        )

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        self._module.log(dict(metrics), step=step)

    def close(self) -> None:
        self._module.finish()


class MLflow:
    """A run of experiment `posttrain` in `run/mlflow.db`, or where MLFLOW_TRACKING_URI says."""

    def __init__(self, run: Tracked) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        where = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.folder.resolve()}/mlflow.db"
        self._client = import_module("mlflow").MlflowClient(tracking_uri=where)
        found = self._client.get_experiment_by_name("posttrain")
        experiment = self._client.create_experiment("posttrain") if found is None else found.experiment_id
        before = self._client.search_runs([experiment], f"tags.posttrain = '{run.id}'")
        self._id = (before[0] if before else self._new(experiment, run)).info.run_id
        self._told: dict[str, int] = {}
        """The last step that stands there, by metric."""

    def _new(self, experiment: str, run: Tracked) -> Any:
        made = self._client.create_run(experiment, run_name=run.name, tags={"posttrain": run.id})
        for name, value in run.settings.items():
            self._client.log_param(made.info.run_id, name, value)
        return made

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if name not in self._told:
                history = self._client.get_metric_history(self._id, name)
                self._told[name] = max((entry.step for entry in history), default=0)
            if step > self._told[name]:  # a run that goes on makes steps again, with the same numbers
                self._client.log_metric(self._id, name, value, step=step)
                self._told[name] = step

    def close(self) -> None:
        self._client.set_terminated(self._id)


_TRACKERS: Mapping[str, Callable[[Tracked], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
    "mlflow": MLflow,
}
