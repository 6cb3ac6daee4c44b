"""A reward model's run: its card in the folder and on the screen, and what its demonstrations and annotators do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stages import QUICK, Stages, write_rows

import posttrain
from posttrain.data.readers import read
from posttrain.models.heads import scalar_head
from posttrain.models.load import load_scalar
from posttrain.objectives import ScoreReader
from posttrain.recipes.scoring import RewardCard, answer_group, score_groups
from posttrain.run import Run
from posttrain.text.chat import Codec
from posttrain.types import ChatRecord, PromptRecord

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


@pytest.mark.parametrize("kind", ["reward", "reward_lora"])
def test_the_head_of_a_finished_run_has_moved_from_where_the_seed_put_it(kind: str, stages: Stages) -> None:
    head = load_scalar(str(getattr(stages, kind)))[0].score.weight.detach()
    drawn = scalar_head(head.shape[1], generator=torch.Generator().manual_seed(0)).weight.detach()
    # AdamW moves every entry, so the direction changes; a scale that is folded into the head does not change it
    assert 0.5 < float(torch.cosine_similarity(head, drawn)) < 0.9995


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


# --- annotators -------------------------------------------------------------------------------------------------------

Rows = list[dict[str, Any]]


def ranked(count: int) -> Rows:
    """Rankings of anna, of ben and of nobody in turn."""
    who = ("anna", "ben", None)
    orders = ([1, 2, 3], [3, 1, 2], [2, 2, 1])
    return [
        {"prompt": f"{n} + {n} =", "responses": [str(2 * n), "no", f"{n} or so"], "ranks": orders[n % 3]}
        | ({"annotator": who[n % 3]} if who[n % 3] else {})
        for n in range(count)
    ]


def trained(stages: Stages, rows: Rows, out: Path, **settings: Any) -> Run:
    file = write_rows(out.with_suffix(".jsonl"), rows)
    plain: Mapping[str, Any] = {**QUICK, "steps": 3, "eval_data": None}
    return posttrain.reward(model=stages.sft, data=file, out=out, **plain, **settings)


def weights_equal(one: Run, other: Run) -> bool:
    first, second = (load_file(run.path / "model.safetensors") for run in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first)


def test_an_annotators_weight_is_that_of_the_rows_that_are_theirs(stages: Stages, tmp_path: Path) -> None:
    rows = ranked(12)
    by_name = trained(stages, rows, tmp_path / "a", annotators={"weights": {"anna": 3.0, "ben": 0.5}, "others": 2.0})
    factor = {"anna": 3.0, "ben": 0.5, None: 2.0}
    by_row = trained(stages, [{**row, "weight": factor[row.get("annotator")]} for row in rows], tmp_path / "b")
    assert weights_equal(by_name, by_row)
    assert not weights_equal(by_name, trained(stages, rows, tmp_path / "c"))
    log = (by_name.path / "run" / "log.txt").read_text()
    assert "annotators: anna 4 rankings x 3, ben 4 rankings x 0.5, 4 rankings of others x 2" in log


def test_it_multiplies_the_weight_of_the_row(stages: Stages, tmp_path: Path) -> None:
    heavy = [{**row, "weight": 1.0 + n} for n, row in enumerate(ranked(9))]
    both = trained(stages, heavy, tmp_path / "a", annotators={"weights": {"ben": 4.0}})
    by_row = [{**row, "weight": row["weight"] * (4.0 if row.get("annotator") == "ben" else 1.0)} for row in heavy]
    assert weights_equal(both, trained(stages, by_row, tmp_path / "b"))


def test_rankings_of_weight_0_are_as_if_they_were_not_there(stages: Stages, tmp_path: Path) -> None:
    rows = ranked(24)
    left_out = trained(stages, rows, tmp_path / "a", annotators={"weights": {"anna": 1.0}, "others": 0.0})
    alone = trained(stages, [row for row in rows if row.get("annotator") == "anna"], tmp_path / "b")
    assert weights_equal(left_out, alone)
    assert "anna 8 rankings x 1, 16 rankings of others left out" in (left_out.path / "run" / "log.txt").read_text()
    card = json.loads((left_out.path / "run" / "reward_card.json").read_text())["training"]
    assert set(card["by_annotator"]) == {"anna"}


def test_names_that_no_ranking_has_are_refused_all_at_once(stages: Stages, tmp_path: Path) -> None:
    with pytest.raises(posttrain.ConfigError) as caught:
        trained(stages, ranked(6), tmp_path / "a", annotators={"weights": {"ana": 1.0, "zoe": 2.0, "ben": 1.0}})
    said = str(caught.value)
    assert "annotators.weights  no ranking is by 'ana'; did you mean anna?" in said
    assert "no ranking is by 'zoe'; there are anna, ben" in said
    with pytest.raises(posttrain.DataError, match="every annotator has weight 0"):
        trained(stages, ranked(6), tmp_path / "b", annotators={"others": 0.0})


# --- centring ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score_at", ["last", "mean"])
def test_the_scores_of_the_demonstrations_have_mean_0_and_deviation_1(
    score_at: str, stages: Stages, tmp_path: Path
) -> None:
    run = trained(stages, ranked(9), tmp_path / "rm", center=stages.chats, score_at=score_at)
    card, codec = RewardCard.read(str(run.path)), Codec.load(str(run.path))
    scalar, _ = load_scalar(str(run.path))
    groups = []
    for record in read(str(stages.chats), ("chat",)).records:
        assert isinstance(record, ChatRecord)
        asked = PromptRecord(id=record.id, messages=record.messages[:-1])
        groups.append(
            answer_group(record.id, codec.prompt(asked).tokens, [codec.answer(asked, record.messages[-1].content)])
        )
    raw = score_groups(ScoreReader(model=scalar, mean=score_at == "mean"), groups, 999)
    scores = (raw - card.shift) / card.scale
    assert float(scores.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(scores.std()) == pytest.approx(1.0, abs=1e-5)
    assert card.score_at == score_at
