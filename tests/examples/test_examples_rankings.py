"""The example on human rankings: folds by prompt, accuracy by hand, and the whole of it on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from examples.human_rankings.folds import Rankings, accuracy, lengths, load_rankings, write_records
from examples.human_rankings.run import main
from posttrain.data.examples import RankedItem
from posttrain.data.readers import read
from posttrain.errors import DataError
from posttrain.types import PrefixGroup, Span


def item(ranks: tuple[int | None, ...]) -> RankedItem:
    """A ranking whose answers are 1, 2, 3 … tokens long."""
    branches = tuple(Span.all([7] * (place + 1), trained=True) for place in range(len(ranks)))
    group = PrefixGroup(id="row", root=Span.all([5], trained=False), branches=branches)
    return RankedItem(group=group, ranks=ranks, weight=1.0, margin=0.0, annotator=None)


@pytest.fixture(scope="module")
def rankings(repository: Path, tiny_model: Path) -> Rankings:
    """The small rankings beside the YAML examples."""
    return load_rankings(str(repository / "examples" / "data" / "ranked.jsonl"), str(tiny_model), 256)


def test_accuracy_counts_every_prompt_the_same() -> None:
    # first: 3 pairs, 2 of them right; second: 1 pair, wrong; mean of 2/3 and 0
    items = [item((1, 2, 3)), item((1, 2))]
    found = accuracy(items, [torch.tensor([2.0, 3.0, 1.0]), torch.tensor([0.0, 1.0])])
    assert found.value == pytest.approx(1 / 3)
    assert (found.prompts, found.pairs) == (2, 4)


def test_the_judge_of_lengths_prefers_the_longer_answer() -> None:
    items = [item((2, 1)), item((1, 2)), item((1, 1, 2, None))]
    assert accuracy(items[:1], lengths(items[:1])).value == 1.0
    assert accuracy(items[1:], lengths(items[1:])).value == 0.0


def test_folds_share_no_prompt_and_lose_none(rankings: Rankings) -> None:
    twice = Rankings(
        name="", codec=rankings.codec, limit=256, records=[*rankings.records, *rankings.records],
        losses=rankings.losses,
    )  # fmt: skip
    parts = twice.parts(3, seed=0)
    prompts = [{record.prompt for record in part} for part in parts]
    assert sum(len(part) for part in parts) == 16
    assert sum(len(part) for part in prompts) == len({record.prompt for record in rankings.records}) == 8
    assert [len(part) for part in prompts] == [3, 3, 2]
    assert parts != twice.parts(3, seed=1)
    with pytest.raises(DataError, match="8 prompts with a strict pair do not make 9 folds"):
        twice.parts(9, seed=0)


def test_what_is_cut_or_lost_is_counted(repository: Path, tiny_model: Path) -> None:
    data = str(repository / "examples" / "data" / "ranked.jsonl")
    found = load_rankings(data, str(tiny_model), 64)
    assert found.losses["answers truncated"] > 0
    assert all(len(branch.tokens) <= 64 for one in found.items(found.records) for branch in one.group.branches)


def test_written_rankings_are_read_as_they_were(rankings: Rankings, tmp_path: Path) -> None:
    path = write_records(tmp_path / "data" / "part.jsonl", rankings.records)
    assert [(r.prompt, r.responses, r.ranks) for r in read(path, "ranked").records] == [  # pyright: ignore[reportAttributeAccessIssue]
        (r.prompt, r.responses, r.ranks) for r in rankings.records
    ]


def test_real_rankings_are_recognised(shared: Path, stories_model: Path) -> None:
    oasst = load_rankings(str(shared / "data" / "oasst" / "ranked.jsonl"), str(stories_model), 512)
    assert len(oasst.records) == 142
    assert oasst.losses["prompts too long"] == 207 - 142
    solutions = shared / "data" / "gsm8k" / "example_model_solutions.jsonl"
    gsm8k = load_rankings(str(solutions), str(stories_model), 512)
    assert len(gsm8k.records) == 731
    assert gsm8k.losses["rankings without a strict pair"] == 1319 - 731


@pytest.mark.medium
def test_the_whole_reports_each_fold_and_what_was_learnt_by_heart(
    repository: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(repository / "examples" / "data" / "ranked.jsonl")
    where = ["--model", str(tiny_model), "--data", data, "--out", str(tmp_path), "--quiet"]
    few = ["--folds", "2", "--epochs", "1", "--max-length", "256", "--fit-prompts", "4", "--fit-epochs", "40"]
    assert main([*where, *few, "--learning-rate", "0.01"]) == 0
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert results["held_out"]["prompts"] == 8
    assert [fold["prompts"] for fold in results["by_fold"]] == [
        len(part) for part in load_rankings(data, str(tiny_model), 256).parts(2, seed=0)
    ]
    assert results["fitted"]["value"] == 1.0
    assert "learnt by heart" in capsys.readouterr().out
