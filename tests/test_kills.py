"""A run that is killed at any moment and started again ends with the same bits as one that never was."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest
from killed import METHODS, Words, commands
from killing import (
    At,
    Nursery,
    Undisturbed,
    differing,
    everything,
    hunt,
    kill_often,
    lines_written,
    undisturbed,
    wait_for,
)
from points import POINTS
from stages import Stages

from posttrain.cli import main
from posttrain.run import Run

pytestmark = pytest.mark.medium

KILLS = {
    "sft": (At("metrics", 5), At("rename", 2), At("end")),
    "sft-dropout": (At("optimizer", 5), At("samples", 2), At("renamed", 2)),
    "reward": (At("save", 5), At("cut"), At("finish")),
    "classify": (At("update", 5), At("removal"), At("done")),
    "dpo": (At("reference", 2), At("gradient", 6), At("tokenizer")),
    "dpo-kto": (At("start"), At("start"), At("save", 8)),  # the second has made no progress since the first
    "online-dpo": (At("annotation", 4), At("rollout", 40), At("record", 2)),
    "ppo-separate": (At("rollout", 10), At("rename", 2), At("restore")),  # at the second save the first is whole
    "ppo-adapters": (At("save", 7), At("inspected"), At("settings")),  # the ratio of a round that a checkpoint has
    "ppo-trunk": (At("gradient", 7), At("rename"), At("inspected")),
    "ppo-kept": (At("optimizer", 5), At("kept", 2), At("clearing")),
    "ppo-functions": (At("failures", 4), At("annotation", 2), At("removal")),
}
"""Three for each method, one after another; together they pass every point."""


@pytest.fixture(scope="module")
def words(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Words]:
    """The commands, without `--out`."""
    return commands(stages, tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def whole(
    words: Mapping[str, Words], nursery: Nursery, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Undisturbed]:
    """A run of a method that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    return cache(lambda method: undisturbed(nursery, words[method], folder / method))


def test_every_method_has_three_kills_and_every_point_has_one() -> None:
    assert KILLS.keys() == {*METHODS}
    assert {len(kills) for kills in KILLS.values()} == {3}
    assert {kill.point for kills in KILLS.values() for kill in kills} == POINTS.keys()


@pytest.mark.parametrize("method", METHODS)
def test_a_run_killed_three_times_ends_with_the_same_bits(
    method: str, words: Mapping[str, Words], nursery: Nursery, whole: Callable[[str], Undisturbed], tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    tale = hunt(nursery, [*words[method], "--out", str(killed)], killed, KILLS[method])
    assert tale.landed == Counter(kill.point for kill in KILLS[method])
    assert differing(whole(method).left, everything(killed)) == []
    assert not (killed / "run" / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_run_killed_at_many_instants_and_points_ends_with_the_same_bits(
    method: str, words: Mapping[str, Words], nursery: Nursery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toll = kill_often(nursery, words[method], tmp_path, random.Random(f"many {method}"), kills=20)
    with capsys.disabled():
        sys.stdout.write(f"\n{toll.told(method)}\n")
    assert toll.wrong == []
    assert toll.tale.kills >= 20
    assert toll.missed == set()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_saves_and_the_same_command_goes_on(
    how: signal.Signals,
    words: Mapping[str, Words],
    nursery: Nursery,
    whole: Callable[[str], Undisturbed],
    tmp_path: Path,
) -> None:
    command = [*words["ppo-trunk"]]
    command[command.index("--save_every") + 1] = "null"  # no save but the one that is asked for
    out = tmp_path / "stopped"
    tale = hunt(nursery, [*command, "--out", str(out)], out, [lines_written(5)], how=how)
    assert tale.codes == [130]
    step = Run.open(out).record["resumes"][0]["step"]
    assert step >= 5
    log = out.with_name(f"{out.name}.log").read_text()
    assert f"interrupted: checkpoint at step {step} of 12; the same command goes on" in log
    assert f"going on from the checkpoint of step {step} of 12" in log
    saving = {"run/config.yaml", "README.md"}  # which say when it is saved
    assert {*differing(whole("ppo-trunk").left, everything(out))} == saving


@pytest.mark.parametrize(("method", "point"), [("dpo", "reference"), ("sft", "tokenizer")])
def test_sigterm_before_and_after_the_training_loop_is_said_and_the_same_command_goes_on(
    method: str,
    point: str,
    words: Mapping[str, Words],
    nursery: Nursery,
    whole: Callable[[str], Undisturbed],
    tmp_path: Path,
) -> None:
    out, log, command = (
        tmp_path / "stopped",
        tmp_path / "stopped.log",
        [*words[method], "--out", str(tmp_path / "stopped")],
    )
    child = nursery.start(command, log, point=point, count=1)
    assert nursery.stopped()
    os.kill(child, signal.SIGTERM)
    os.kill(child, signal.SIGCONT)
    assert nursery.code() == 130
    assert Run(out).status == "interrupted"
    assert "error: interrupted\n" in log.read_text()
    assert f"saved {out}" not in log.read_text()
    assert hunt(nursery, command, out, []).code == 0
    assert differing(whole(method).left, everything(out)) == []


def test_a_second_process_is_refused_and_the_first_goes_on(
    words: Mapping[str, Words], nursery: Nursery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = [*words["reward"], "--out", str(out)]
    child = nursery.start(command, tmp_path / "log")
    assert wait_for(lines_written(1), out, nursery)
    os.kill(child, signal.SIGSTOP)
    for more in ([], ["--fresh"]):
        assert main([*command, *more, "--quiet"]) == 2
        assert f"is being written by process {child} on " in capsys.readouterr().err
    os.kill(child, signal.SIGCONT)
    assert nursery.code() == 0


# --- beside the run folder ------------------------------------------------------------------------------------------


def test_a_kill_while_tokens_are_kept_leaves_nothing_that_reads_like_them(
    words: Mapping[str, Words], nursery: Nursery, whole: Callable[[str], Undisturbed], tmp_path: Path
) -> None:
    out, cache_home = tmp_path / "killed", tmp_path / "cache"
    moments = [At("tokens"), At("tokens")]
    command = [*words["sft"], "--out", str(out)]
    tale = hunt(nursery, command, out, moments, environment={"POSTTRAIN_CACHE": str(cache_home)})
    assert tale.landed == {"tokens": 2}
    assert differing(whole("sft").left, everything(out)) == []
    assert not list((cache_home / "tokens").glob(".draft-*"))  # the last start built one, and took the rest away


def test_a_kill_while_an_earlier_run_is_cleared_away_leaves_none_that_is_done(
    words: Mapping[str, Words], nursery: Nursery, whole: Callable[[str], Undisturbed], tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    command = [*words["sft"], "--out", str(out)]
    hunt(nursery, command, out, [])
    log = tmp_path / "log"
    child = nursery.start([*command, "--seed", "7", "--fresh"], log, point="fresh", count=3)
    assert nursery.stopped()
    os.kill(child, signal.SIGKILL)
    assert nursery.code() == -signal.SIGKILL
    hunt(nursery, command, out, [])  # not the command that was killed, and without --fresh
    assert differing(whole("sft").left, everything(out)) == []


def test_tensorboard_has_every_step_once(words: Mapping[str, Words], nursery: Nursery, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "killed"
    command = [*words["reward"], "--track", "tensorboard", "--out", str(out)]
    tale = hunt(nursery, command, out, [At("metrics", 3), At("update", 9), At("rename", 2)])
    assert tale.kills == 3
    events = accumulator.EventAccumulator(str(out / "run" / "tensorboard")).Reload()
    rows = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    expected = [(row["step"], pytest.approx(row["loss"])) for row in rows]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == expected
