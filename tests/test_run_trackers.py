"""Trackers: what each package is told, the same run when it goes on, and nothing imported unasked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from posttrain.config import SFTConfig, make_config
from posttrain.errors import ConfigError
from posttrain.run import check_out, trackers
from posttrain.run.trackers import Tracked, tracking

NAMES = ("tensorboard", "wandb", "trackio", "mlflow")


def tracked(folder: Path, *, start: int = 0) -> Tracked:
    return Tracked(folder=folder, name="sft", id="abc", settings={"seed": 3}, start=start)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> MagicMock:
    """What every tracker gets in place of its package, which need not be installed."""
    fake = MagicMock()
    fake.init.return_value.starting_step = 0
    monkeypatch.setattr(trackers, "import_module", lambda name: fake)
    monkeypatch.setattr(trackers, "find_spec", lambda name: object())
    for name in ("WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return fake


def steps(name: str | None, run: Tracked) -> None:
    with tracking(name, run) as hooks:
        for hook in hooks:
            hook(1, {"loss": 2.0})
            hook(2, {"loss": 1.0})


def test_none_is_no_hook(tmp_path: Path) -> None:
    with tracking(None, tracked(tmp_path)) as hooks:
        assert hooks == []


@pytest.mark.medium
def test_no_tracker_is_imported_unasked() -> None:
    code = f"import sys, posttrain.recipes.sft; print([name for name in {NAMES} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_package_is_named_with_the_command_before_anything_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    config = make_config(SFTConfig, {"model": "base", "data": "d.jsonl", "out": tmp_path / "run", "track": name})
    with pytest.raises(ConfigError, match=f"the package {name} is not installed\n  fix: pip install {name}"):
        check_out(config, config.out, fresh=False)
    assert not (tmp_path / "run").exists()


def test_tensorboard_hides_what_came_after_the_step_it_goes_on_from(tmp_path: Path, package: MagicMock) -> None:
    steps("tensorboard", tracked(tmp_path))
    package.SummaryWriter.assert_called_with(log_dir=str(tmp_path / "tensorboard"), purge_step=None)
    writer = package.SummaryWriter.return_value
    assert [call.args for call in writer.add_scalar.call_args_list] == [("loss", 2.0, 1), ("loss", 1.0, 2)]
    writer.close.assert_called_once()
    (tmp_path / "tensorboard").mkdir()
    for start in (6, 0):
        steps("tensorboard", tracked(tmp_path, start=start))
        package.SummaryWriter.assert_called_with(log_dir=str(tmp_path / "tensorboard"), purge_step=start + 1)


@pytest.mark.medium
def test_tensorboard_has_every_step_on_the_disk_at_once(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tracking("tensorboard", tracked(tmp_path)) as [hook]:
        hook(1, {"loss": 2.0})
        hook(2, {"loss": 1.0})
        events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
        assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 2.0), (2, 1.0)]


@pytest.mark.parametrize(("environment", "mode"), [(None, "offline"), ("online", "online")])
def test_wandb_stays_offline_unless_the_environment_says_otherwise(
    environment: str | None, mode: str, tmp_path: Path, package: MagicMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    if environment is not None:
        monkeypatch.setenv("WANDB_MODE", environment)
    steps("wandb", tracked(tmp_path))
    given = package.init.call_args.kwargs
    assert (given["mode"], given["id"], given["resume"], given["dir"]) == (mode, "abc", "allow", str(tmp_path))
    run = package.init.return_value
    assert [(call.args[0], call.kwargs["step"]) for call in run.log.call_args_list] == [
        ({"loss": 2.0}, 1),
        ({"loss": 1.0}, 2),
    ]
    run.finish.assert_called_once()


def test_wandb_is_not_told_again_what_it_has(tmp_path: Path, package: MagicMock) -> None:
    run = package.init.return_value
    run.starting_step = 2  # what wandb goes on with where it has step 1
    steps("wandb", tracked(tmp_path))
    assert [call.kwargs["step"] for call in run.log.call_args_list] == [2]


def test_trackio_goes_on_with_the_run_of_that_name(tmp_path: Path, package: MagicMock) -> None:
    steps("trackio", tracked(tmp_path))
    given = package.init.call_args.kwargs
    assert (given["name"], given["resume"]) == ("sft-abc", "allow")
    assert "space_id" not in given
    package.log.assert_called_with({"loss": 1.0}, step=2)
    package.finish.assert_called_once()


def test_mlflow_finds_its_run_again(tmp_path: Path, package: MagicMock) -> None:
    client = package.MlflowClient.return_value
    client.search_runs.return_value = []
    client.create_run.return_value = SimpleNamespace(info=SimpleNamespace(run_id="new"))
    steps("mlflow", tracked(tmp_path))
    assert package.MlflowClient.call_args.kwargs["tracking_uri"] == f"sqlite:///{tmp_path}/mlflow.db"
    client.log_metric.assert_called_with("new", "loss", 1.0, step=2)
    client.search_runs.return_value = [SimpleNamespace(info=SimpleNamespace(run_id="old"))]
    steps("mlflow", tracked(tmp_path, start=6))
    client.create_run.assert_called_once()
    client.log_metric.assert_called_with("old", "loss", 1.0, step=2)
    client.log_metric.reset_mock()
    client.get_metric_history.return_value = [SimpleNamespace(step=1)]
    steps("mlflow", tracked(tmp_path))  # step 1 again, after a kill
    client.log_metric.assert_called_once_with("old", "loss", 1.0, step=2)
    client.set_terminated.assert_called_with("old")
