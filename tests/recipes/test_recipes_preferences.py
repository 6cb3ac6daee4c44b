"""The preference family through its command: what holds at the first step, and what each setting changes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from stages import QUICK, Stages, write_rows

import posttrain
from posttrain.run import Run

pytestmark = pytest.mark.medium

LOG_2 = 0.6931471805599453


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Pairs whose chosen answers are twice as long as the others: 4 bytes and the end, and 2 and the end."""
    rows = [{"prompt": f"{n} + {n} =", "chosen": f"{2 * n:04}", "rejected": "no"} for n in range(16)]
    return write_rows(tmp_path / "pairs.jsonl", rows)


def train(stages: Stages, data: Path, out: Path, **settings: Any) -> Run:
    asked = {"steps": 2, "eval_data": None, "schedule": "constant", "warmup": 0.0, **QUICK, **settings}
    return posttrain.dpo(model=stages.base, data=data, out=out, **asked)


@pytest.mark.parametrize(
    ("loss", "settings", "expected"),
    [
        ("sigmoid", {}, LOG_2),
        ("sigmoid", {"label_smoothing": 0.2, "length_normalize": True}, LOG_2),
        ("robust", {"label_smoothing": 0.2}, LOG_2),
        ("hinge", {"length_normalize": True}, 1.0),
        ("ipo", {"beta": 0.25}, 4.0),
        ("ipo", {"beta": 0.5, "length_normalize": True}, 1.0),
    ],
)
def test_a_loss_with_a_reference_begins_at_margin_0(
    loss: str, settings: dict[str, object], expected: float, stages: Stages, pairs: Path, tmp_path: Path
) -> None:
    first, second = train(stages, pairs, tmp_path / "run", loss=loss, **settings).metrics
    assert first["loss"] == pytest.approx(expected, abs=1e-6)
    assert (first["margin"], first["accuracy"]) == (0.0, 0.5)
    assert (first["chosen_logratio"], first["rejected_logratio"]) == (0.0, 0.0)
    assert second["margin"] > 0


def test_simpo_and_orpo_load_no_reference_and_their_losses_are_those_of_the_log_probs(
    stages: Stages, pairs: Path, tmp_path: Path
) -> None:
    simpo = train(stages, pairs, tmp_path / "simpo", loss="simpo", beta=3.0, gamma=0.25, steps=1, batch_size=16)
    orpo = train(stages, pairs, tmp_path / "orpo", loss="orpo", lam=0.2, steps=1, batch_size=16)
    for run in (simpo, orpo):
        said = (run.path / "run" / "log.txt").read_text()
        assert "reference none" in said
        assert "computed once" not in said
    # random weights: every token has about the same chance, so all means are alike and no pair is far from the mean
    [row] = simpo.metrics
    assert row["loss"] == pytest.approx(math.log(1 + math.exp(-(3.0 * row["margin"] - 0.25))), rel=1e-2)
    [row] = orpo.metrics
    p, q = math.exp(row["chosen_logprob"]), math.exp(row["rejected_logprob"])
    odds = (p / (1 - p)) / (q / (1 - q))
    assert row["loss"] == pytest.approx(0.2 * math.log(1 + 1 / odds), rel=1e-2)
    assert row["nll"] == pytest.approx(-row["chosen_logprob"], rel=1e-2)


def test_an_added_likelihood_is_measured_and_makes_the_best_answers_likelier(
    stages: Stages, pairs: Path, tmp_path: Path
) -> None:
    plain = train(stages, pairs, tmp_path / "plain", steps=6)
    added = train(stages, pairs, tmp_path / "added", steps=6, nll=1.0)
    assert "nll" not in plain.metrics[0]
    assert added.metrics[0]["loss"] == pytest.approx(LOG_2, abs=1e-6)
    assert added.metrics[-1]["nll"] < added.metrics[0]["nll"]
    assert added.metrics[-1]["chosen_logratio"] > plain.metrics[-1]["chosen_logratio"]


def test_settings_of_another_loss_are_refused_with_what_to_do(stages: Stages, tmp_path: Path) -> None:
    for settings, said in (
        ({"gamma": 1.0}, "gamma.*use loss simpo"),
        ({"loss": "simpo", "length_normalize": True}, "simpo takes means per token as it is"),
        ({"loss": "orpo", "beta": 0.2}, "lam"),
        ({"loss": "orpo", "nll": 1.0}, "nll"),
        ({"loss": "simpo", "reference": "start"}, "no reference"),
        ({"reference": "none"}, "holds the policy to a reference"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing"),
    ):
        with pytest.raises(posttrain.ConfigError, match=said):
            train(stages, stages.rankings, tmp_path / "out", **settings)
