"""A reward model's run: its card in the folder and on the screen, and what its demonstrations and annotators do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stages import QUICK, Stages, write_rows

import posttrain

pytestmark = pytest.mark.medium


@pytest.fixture(scope="module")
def ranked_twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve prompts ranked by anna; ben ranked the first four of them too, and turned every order around."""
    rows = [
        {"prompt": f"{n} + {n} =", "responses": [str(2 * n), "no", f"{n} or so"], "ranks": [1, 2, 3], "annotator": who}
        for n in range(12)
        for who in (("anna", "ben") if n < 4 else ("anna",))
    ]
    for row in rows:
        if row["annotator"] == "ben":
            row["ranks"] = [3, 2, 1]
    return write_rows(tmp_path_factory.mktemp("ranked") / "rankings.jsonl", rows)


def test_the_card_of_a_run_is_kept_and_that_of_eval_says_the_same(
    stages: Stages, ranked_twice: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run = posttrain.reward(model=stages.sft, data=ranked_twice, eval_data=None, out=out, steps=2, **QUICK)
    cards = json.loads((out / "run" / "reward_card.json").read_text())
    assert set(cards) == {"training"}
    card = cards["training"]
    assert card["accuracy"]["value"] == run.results["training_accuracy"]["value"]
    assert card["accuracy"]["count"] == 16 * 3
    assert {name: part["count"] for name, part in card["by_annotator"].items()} == {"anna": 36, "ben": 12}
    assert card["agreement"]["people"] | {"interval_over_prompts": []} == {
        "value": 0.0, "interval": pytest.approx([0, 0.2425], abs=1e-3), "count": 12, "prompts": 4,
        "interval_over_prompts": [],
    }  # fmt: skip
    assert card["agreement"]["model"]["value"] == 0.5  # who is right about one of the two is wrong about the other
    found = posttrain.evaluate(out, data=ranked_twice, quiet=True)
    assert found["reward_card"]["by_gap"] == card["by_gap"]
    assert found["accuracy"]["value"] == card["accuracy"]["value"]


def test_a_card_of_held_out_rankings_is_shown_and_stands_beside_that_of_the_training_rankings(
    stages: Stages, ranked_twice: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = {**QUICK, "quiet": False}
    posttrain.reward(model=stages.sft, data=ranked_twice, eval_data="40%", out=tmp_path / "run", steps=1, **plain)
    cards = json.loads((tmp_path / "run" / "run" / "reward_card.json").read_text())
    assert cards["training"]["rankings"] + cards["held_out"]["rankings"] == 16
    shown = capsys.readouterr().out
    assert "reward card, held-out rankings" in shown
    assert "two people agree" in shown
