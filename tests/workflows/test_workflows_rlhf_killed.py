"""A loop that is killed anywhere goes on to what one leaves that never was; a wait ends when people have ranked."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from killing import LIMIT, At, Nursery, differing, hunt, wait_for
from loops import PPO, facts, left, rows, write_loop
from person import Person
from stages import Stages

from posttrain.cli import main

pytestmark = pytest.mark.medium

ADDRESS = re.compile(r"rank at (http://\S+)")
PERSON = Path(__file__).resolve().parents[1] / "person.py"

MOMENTS = (
    At("rollout", 4),  # while answers are sampled
    At("ranking", 5),  # while annotators rank
    At("save", 2),  # in reward training, half a file of a checkpoint
    At("optimizer", 2),
    At("stage"),  # between two stages
    At("annotation"),  # in PPO
    At("gradient", 2),
    At("done"),  # the policy is done, its checkpoints are there
    At("compared"),
    At("round"),
    At("ranking", 2),  # in the second round
    At("finish"),  # the reward model is written, and not said to be
    At("update", 2),
    At("compared", 3),
)


def test_a_loop_that_is_killed_anywhere_ends_with_the_same_files(
    stages: Stages, nursery: Nursery, tmp_path: Path
) -> None:
    whole = write_loop(tmp_path / "whole", stages)
    assert main(["rlhf", str(whole), "--quiet"]) == 0
    killed = write_loop(tmp_path / "killed", stages)
    out = tmp_path / "killed" / "loop"
    tale = hunt(nursery, ["rlhf", str(killed), "--out", str(out)], out, MOMENTS)
    assert tale.kills == len(MOMENTS), tale.codes
    assert differing(left(tmp_path / "whole" / "loop"), left(out)) == []


def test_a_wait_is_killed_interrupted_and_ended_by_another_process_that_ranks(
    stages: Stages, nursery: Nursery, tmp_path: Path
) -> None:
    file = write_loop(tmp_path, stages, PPO, annotated=False)
    out, log = tmp_path / "loop", tmp_path / "loop.log"
    words = ["rlhf", str(file), "--out", str(out), "--rounds", "1"]

    def waits(_: Path) -> bool:
        return log.is_file() and "waiting for rankings" in log.read_text()

    for how, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130), (signal.SIGTERM, 130)):
        log.unlink(missing_ok=True)
        child = nursery.start(words, log)
        assert wait_for(waits, out, nursery)
        os.kill(child, how)
        assert nursery.code() == code
        if code == 130:
            assert "interrupted while waiting for rankings: 0 of 8 prompts ranked or passed on" in log.read_text()
            assert "in round 1 of 1: the same posttrain rlhf goes on" in log.read_text()
    log.unlink()
    nursery.start(words, log)
    assert wait_for(waits, out, nursery)
    page = [sys.executable, "-m", "posttrain", "rank", "--db", str(out / "feedback.db"), "--port", "0", "--json"]
    with subprocess.Popen(page, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}) as served:
        assert served.stderr is not None
        address = next(found for line in served.stderr if (found := ADDRESS.search(line))).group(1)
        assert Person(address, "ada").rank_all() == 8
        served.send_signal(signal.SIGINT)
        assert served.wait(LIMIT) == 0
    assert nursery.code() == 0, log.read_text()[-3000:]
    ranked = [row for file in (out / "round-1" / "rankings").iterdir() for row in rows(file)]
    assert {row["annotator"] for row in ranked} == {"ada"}
    assert facts(out / "round-1" / "eval.json")["reward"]["people_agree"] is None  # one person agrees with nobody


def test_the_loop_serves_the_page_itself_while_it_waits(stages: Stages, nursery: Nursery, tmp_path: Path) -> None:
    file = write_loop(tmp_path, stages, f"{PPO}serve: true\nrank: {{port: 0}}\n", annotated=False)
    out, log = tmp_path / "loop", tmp_path / "loop.log"
    nursery.start(["rlhf", str(file), "--out", str(out), "--rounds", "1"], log)
    assert wait_for(lambda _: log.is_file() and ADDRESS.search(log.read_text()) is not None, out, nursery)
    found = ADDRESS.search(log.read_text())
    assert found is not None
    subprocess.run([sys.executable, str(PERSON), found.group(1), "bo"], check=True, timeout=LIMIT)
    assert nursery.code() == 0, log.read_text()[-3000:]
    ranked = [row for path in (out / "round-1" / "rankings").iterdir() for row in rows(path)]
    assert len(ranked) == 8
    assert {row["annotator"] for row in ranked} == {"bo"}


def test_two_loops_in_one_folder_are_refused(stages: Stages, nursery: Nursery, tmp_path: Path) -> None:
    file = write_loop(tmp_path, stages, annotated=False)
    out, log = tmp_path / "loop", tmp_path / "loop.log"
    child = nursery.start(["rlhf", str(file), "--out", str(out)], log)
    assert wait_for(lambda _: log.is_file() and "waiting for rankings" in log.read_text(), out, nursery)
    assert main(["rlhf", str(file), "--out", str(out)]) == 2
    os.kill(child, signal.SIGKILL)
    nursery.code()
