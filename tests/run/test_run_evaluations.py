"""What an evaluation leaves with a run: one file for each, plain JSON, and nothing where no finished run is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.config import SFTConfig, make_config
from posttrain.errors import DataError
from posttrain.run import Run, RunWriter
from posttrain.run.content import model_hash
from posttrain.run.evaluations import FORMAT, keep_evaluation

IDENTITY = {"by": "eval", "against": None, "judges": ["rm"], "data": ["d.jsonl"], "settings": {"seed": 0}}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run."""
    config = make_config(SFTConfig, {"model": "m", "data": "d", "out": tmp_path / "it"})
    with RunWriter.create(tmp_path / "it", config) as writer:
        writer.metrics(1, {"loss": 1.0})
        return writer.finish()


def test_an_evaluation_is_a_file_of_its_own_and_the_same_one_again_takes_its_place(run: Run) -> None:
    before = model_hash(run.path)
    first = keep_evaluation(str(run.path), IDENTITY, {"measures": {"nll": 2.0}, "count": 0})
    again = keep_evaluation(str(run.path), IDENTITY, {"measures": {"nll": 1.5}, "count": 0})
    other = keep_evaluation(str(run.path), {**IDENTITY, "data": ["e.jsonl"]}, {"measures": {"nll": float("nan")}})
    assert first is not None
    assert other is not None
    assert first == again
    assert sorted(first.parent.iterdir()) == sorted([first, other])
    kept = json.loads(first.read_text(encoding="utf-8"))
    assert (kept["format"], kept["run"], kept["model"]) == (FORMAT, run.record["id"], str(run.path))
    assert (kept["measures"], kept["judges"], kept["settings"]) == ({"nll": 1.5}, ["rm"], {"seed": 0})
    assert json.loads(other.read_text(encoding="utf-8"))["measures"] == {"nll": None}  # which JSON has no number for
    assert model_hash(run.path) == before  # no other model for it: a run that starts from it goes on


def test_what_is_no_finished_run_is_left_alone(run: Run, tmp_path: Path) -> None:
    assert keep_evaluation("HuggingFaceTB/SmolLM2-135M", IDENTITY, {}) is None
    (tmp_path / "model").mkdir()
    assert keep_evaluation(str(tmp_path / "model"), IDENTITY, {}) is None
    record = run.path / "run" / "run.json"
    facts = json.loads(record.read_text())
    record.write_text(json.dumps({**facts, "status": "running"}))
    assert keep_evaluation(str(run.path), IDENTITY, {}) is None
    record.write_text("{")
    with pytest.raises(DataError, match="damaged"):
        keep_evaluation(str(run.path), IDENTITY, {})
    assert not (run.path / "run" / "evaluations").exists()
