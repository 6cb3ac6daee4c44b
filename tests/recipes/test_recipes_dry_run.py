"""The dry run: it writes nothing, tells what the run takes, and prints settings that train the same model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commands import EVERY, commands, stopped_at_its_end
from killing import differing, remains
from stages import Stages

from posttrain.cli import main
from posttrain.recipes.forecast import CACHE, highest


@pytest.mark.medium
@pytest.mark.parametrize("method", EVERY)
def test_a_dry_run_writes_nothing_and_tells_what_the_run_takes(
    method: str, stages: Stages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "run"
    before = sorted(stages.base.parent.rglob("*")) + sorted(stages.sft.parent.rglob("*"))
    words = [*commands(stages)[method], "--out", str(out), "--dry-run"]
    assert main([*words, "--json"]) == 0
    shown = capsys.readouterr()
    assert list(tmp_path.iterdir()) == []
    assert sorted(stages.base.parent.rglob("*")) + sorted(stages.sft.parent.rglob("*")) == before
    facts = json.loads(shown.out)
    samples = words[0] in ("ppo", "online-dpo")
    assert facts["command"] == words[0]
    assert facts["steps"] == (1 if samples else 2)
    assert facts["growth"] == highest(facts["memory"]) > 0
    assert facts["seconds"] > 0
    assert facts["at_most"] is samples
    assert (CACHE in facts["memory"]) is samples
    assert f"dry run: nothing is written to {out}" in shown.err
    for part in ("memory · weights", "memory · beyond the weights", "disk · model", "time · "):
        assert part in shown.err
    pace = next(line for line in shown.err.splitlines() if "time · " in line)
    assert ("at most" in pace) is samples


@pytest.mark.medium
@pytest.mark.parametrize("method", EVERY)
def test_the_settings_that_a_dry_run_prints_train_the_same_model(
    method: str, stages: Stages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, again, file = tmp_path / "run", tmp_path / "again", tmp_path / "saved.yaml"
    words = commands(stages)[method]
    assert main([*words, "--out", str(out), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("version: "))
    last = next(place for place, line in enumerate(lines[first:], first) if not re.match(r"[\w.]+:|[ -]", line))
    file.write_text("\n".join(lines[first:last]) + "\n")
    assert main([words[0], str(file), "--quiet"]) == 0
    assert main([*words, "--out", str(again), "--quiet"]) == 0
    assert differing(remains(out), remains(again)) == []


def test_a_dry_run_beside_a_run_that_is_under_way_leaves_it_alone(stages: Stages, tmp_path: Path) -> None:
    words = [*commands(stages)["sft"], "--save_every", "1", "--quiet", "--out", str(tmp_path / "run")]
    stopped_at_its_end(words)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert main([*words, "--dry-run"]) == 0
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
