"""KTO through its command: unpaired labels and rankings, the first step, and what each weight changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stages import LORA, QUICK, Stages, write_rows

import posttrain
from posttrain.run import Run

pytestmark = pytest.mark.medium


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    """Answers that were liked and others that were not; two ask the same prompt."""
    rows: list[dict[str, object]] = [
        {"prompt": f"{n // 2} + {n // 2} =", "completion": str(n) if n % 2 else "no", "label": n % 2 == 1}
        for n in range(16)
    ]
    return write_rows(tmp_path / "votes.jsonl", rows)


def train(stages: Stages, data: Path, out: Path, **settings: Any) -> Run:
    asked = {"steps": 2, "eval_data": None, "schedule": "constant", "warmup": 0.0, **QUICK, **settings}
    return posttrain.dpo(model=stages.base, data=data, out=out, loss="kto", **asked)


def test_kto_begins_at_one_half_and_its_baseline_at_0(stages: Stages, votes: Path, tmp_path: Path) -> None:
    for name, settings in (("weights", {}), ("lora", {"lora": LORA})):
        first, second = train(stages, votes, tmp_path / name, **settings).metrics
        assert (first["loss"], first["z0"], first["accuracy"]) == (0.5, 0.0, 0.5)
        assert (first["desirable_logratio"], first["undesirable_logratio"]) == (0.0, 0.0)
        assert second["desirable_logratio"] > second["undesirable_logratio"]


def test_the_weights_of_the_labels_multiply_the_loss(stages: Stages, votes: Path, tmp_path: Path) -> None:
    run = train(stages, votes, tmp_path / "run", batch_size=16, steps=1, desirable_weight=3.0, undesirable_weight=0.5)
    assert run.metrics[0]["loss"] == pytest.approx((8 * 3.0 + 8 * 0.5) / 16 / 2)


def test_an_update_does_not_depend_on_the_micro_batch(stages: Stages, votes: Path, tmp_path: Path) -> None:
    whole = train(stages, votes, tmp_path / "whole", steps=3, batch_size=8, micro_batch_tokens=4096)
    cut = train(stages, votes, tmp_path / "cut", steps=3, batch_size=8, micro_batch_tokens=1)
    # after the first update the baseline is no longer 0, and each step's is one number
    assert [row["z0"] for row in cut.metrics] == pytest.approx([row["z0"] for row in whole.metrics], rel=1e-3, abs=1e-5)
    first, second = (load_file(run.path / "model.safetensors") for run in (whole, cut))
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=2e-4)


def test_pairs_and_rankings_are_labels_of_their_best_and_worst_answers(stages: Stages, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": f"{n} =", "responses": [str(n), "well", "no"], "ranks": [1, 2, 3]} for n in range(8)
    ]
    run = train(stages, write_rows(tmp_path / "ranked.jsonl", rows), tmp_path / "run")
    said = (run.path / "run" / "log.txt").read_text()
    assert "8 answers between best and worst" in said
    assert "labels: 8 answers good, 8 bad" in said


def test_uneven_labels_are_said_with_the_weight_that_evens_them(stages: Stages, tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} =", "completion": str(n), "label": n % 6 > 0} for n in range(12)]
    run = train(stages, write_rows(tmp_path / "votes.jsonl", rows), tmp_path / "run", eval_data="30%")
    assert (
        "the good weigh 5 times as much as the bad; undesirable_weight 5 makes"
        in (run.path / "run" / "log.txt").read_text()
    )
    assert {"eval_loss", "eval_accuracy"} <= run.results.keys()


@pytest.mark.parametrize("label", [True, False])
def test_labels_that_all_say_the_same_are_refused(label: bool, stages: Stages, tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} =", "completion": str(n), "label": label} for n in range(6)]
    data = write_rows(tmp_path / "votes.jsonl", rows)
    said = "all of 6 answers are labelled " + ("good" if label else "bad")
    with pytest.raises(posttrain.DataError, match=said):
        train(stages, data, tmp_path / "run")
    found = posttrain.check(data, quiet=True)
    assert not found.trainable
    assert said in found.files[0].refusals[0].what


def test_check_knows_labelled_answers(stages: Stages, votes: Path) -> None:
    [file] = posttrain.check(votes, model=stages.base, quiet=True).files
    assert (file.kind, file.commands, file.trainable) == ("labelled", ("dpo --loss kto",), True)
    assert file.labels is not None
    assert (file.labels.good, file.labels.bad) == (8, 8)
    assert [shown.title for shown in file.shown[:2]] == ["row 1", "bad"]


def test_settings_of_pairs_are_refused(stages: Stages, votes: Path, tmp_path: Path) -> None:
    for settings, said in (
        ({"ties": "soft"}, "ties"), ({"nll": 1.0}, "nll"), ({"batch_size": 1}, "batch_size"),
        ({"reference": "none"}, "holds the policy to a reference"),
    ):  # fmt: skip
        with pytest.raises(posttrain.ConfigError, match=said):
            train(stages, votes, tmp_path / "out", **settings)


def test_what_is_labelled_good_becomes_frequent_in_fresh_samples(stages: Stages, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": f"{n // 2} + {n // 2} =", "completion": f"{n:02}" * 2 if n % 2 else "no way", "label": n % 2 == 1}
        for n in range(48)
    ]
    data = write_rows(tmp_path / "votes.jsonl", rows)
    run = train(stages, data, tmp_path / "run", steps=20, batch_size=16, learning_rate=0.003)

    def digits(model: Path) -> float:
        """The share of digits among the characters of answers to prompts that were not trained on."""
        out = tmp_path / f"{model.name}.jsonl"
        posttrain.sample(model, prompts=stages.prompts, out=out, k=8, max_new_tokens=6, seed=5, quiet=True)
        text = "".join(answer for line in out.read_text().splitlines() for answer in json.loads(line)["responses"])
        return sum(map(str.isdigit, text)) / len(text)

    before, after = digits(stages.base), digits(run.path)
    assert after > 3 * before, (before, after)
