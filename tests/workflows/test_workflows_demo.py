"""The demo runs every stage, refuses what is not its own, and goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from posttrain.console import Console, Silent
from posttrain.errors import RunExists
from posttrain.report.reading import read
from posttrain.workflows.demo import SMALL, Plan, demo


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a demo that is too short to learn anything."""
    out = tmp_path_factory.mktemp("demo") / "out"
    demo(str(out), seed=0, console=Console(Silent()), plan=SMALL)
    return out


@pytest.mark.medium
def test_every_stage_leaves_a_model_folder(small: Path) -> None:
    for name in ("base", "sft", "ppo", "dpo"):
        AutoModelForCausalLM.from_pretrained(small / "runs" / name)
        assert json.loads((small / "runs" / name / "run" / "run.json").read_text())["status"] == "done"
    AutoModelForSequenceClassification.from_pretrained(small / "runs" / "reward")


@pytest.mark.medium
def test_results_compare_all_models_on_both_kinds_of_held_out_prompts(small: Path) -> None:
    found = json.loads((small / "results.json").read_text(encoding="utf-8"))
    assert len(found["tables"]) == 5
    for rows in list(found["tables"].values())[:4]:
        assert [row["model"] for row in rows] == ["base", "sft", "ppo", "dpo"]
    assert found["reward"]["accuracy"]["count"] > 0
    assert (small / "results.md").read_text(encoding="utf-8").startswith("# Demo")


@pytest.mark.medium
def test_what_was_judged_of_each_model_stays_with_its_run(small: Path) -> None:
    table = json.loads((small / "results.json").read_text(encoding="utf-8"))["tables"]
    told = {row["model"]: row for rows in table.values() for row in rows if "gold" in row}
    for name in ("base", "sft", "ppo", "dpo"):
        known, unseen = sorted(read(small / "runs" / name).evaluations, key=lambda facts: facts["data"])
        assert (known["data"], unseen["data"]) == (["held_out_combination.jsonl"], ["held_out_template.jsonl"])
        score = known["estimates"]["score"]
        assert told[name]["gold"].startswith(f"{score['value']:.3f} ({score['interval'][0]:.3f} to ")
        assert known["count"] == len(known["per_prompt"]["score"]) == len(known["prompts"]) == told[name]["prompts"]
        wins = known["estimates"].get("win_rate")
        assert told[name]["wins/SFT"].startswith("" if wins is None else f"{wins['value']:.3f} (")
        assert (wins is None) == (name == "sft")


@pytest.mark.medium
def test_no_held_out_prompt_is_finetuned_or_ranked_on(small: Path) -> None:
    def prompts(name: str) -> set[str]:
        rows = [json.loads(line) for line in (small / "data" / name).read_text(encoding="utf-8").splitlines()]
        return {(row.get("messages") or row["prompt"])[0]["content"] for row in rows}

    held = prompts("held_out_combination.jsonl") | prompts("held_out_template.jsonl")
    assert held
    for name in ("instructions.jsonl", "to_rank.jsonl", "prompts.jsonl"):
        assert not held & prompts(name)


@pytest.mark.medium
def test_a_demo_of_another_seed_is_refused_and_the_same_one_is_not_trained_again(small: Path) -> None:
    before = (small / "runs" / "sft" / "run" / "metrics.jsonl").read_text()
    with pytest.raises(RunExists, match="another seed or size"):
        demo(str(small), seed=1, console=Console(Silent()), plan=SMALL)
    demo(str(small), seed=0, console=Console(Silent()), plan=SMALL)
    assert (small / "runs" / "sft" / "run" / "metrics.jsonl").read_text() == before


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunExists, match="no demo wrote"):
        demo(str(tmp_path), seed=0, console=Console(Silent()), plan=Plan(), fresh=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
