"""One task with its own measure on real weights and real text: what is learnt shows in the task's measure."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from stages import write_rows

import posttrain

pytestmark = pytest.mark.slow

NAMED = re.compile(r"^(.{0,120}?named ([A-Z][a-z]+)\b[^.!?]*[.!?])", re.DOTALL)


def names_in(file: Path) -> list[dict[str, object]]:
    """Beginnings of stories that name somebody, and the name."""
    rows: list[dict[str, object]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        found = NAMED.match(json.loads(line)["text"])
        if found:
            rows.append({"prompt": f"{found[1]} Who is it about?", "completion": found[2]})
    return rows


def test_finetuning_finds_the_name_in_a_story_ever_more_often(
    shared: Path, stories_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stories = shared / "data" / "tinystories"
    rows, held = names_in(stories / "train.jsonl"), names_in(stories / "valid.jsonl")
    run = posttrain.sft(
        model=stories_model, data=write_rows(tmp_path / "train.jsonl", rows), out=tmp_path / "out", quiet=True,
        eval_data=str(write_rows(tmp_path / "held.jsonl", held)), eval_every=10, steps=150, batch_size=16,
        measures=["exact_match", "chrf"], max_new_tokens=8, measure_rows=100,
    )  # fmt: skip
    course = [(row["step"], row["eval_exact_match"]) for row in run.metrics if "eval_exact_match" in row]
    with capsys.disabled():
        sys.stdout.write(f"\n{len(rows):,} rows; exact match {course}; {run.results['eval_exact_match']}\n")
    assert course[-1][1] > course[0][1] + 0.2
    assert run.results["eval_exact_match"]["interval"][0] > course[0][1]


def test_a_head_on_a_model_of_stories_tells_good_reviews_from_bad(
    shared: Path, stories_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reviews = [str(shared / "data" / "sentiment" / f"{name}_labelled.txt") for name in ("yelp", "amazon_cells", "imdb")]
    run = posttrain.classify(
        model=stories_model,
        data=reviews,
        out=tmp_path / "out",
        eval_data="20%",
        epochs=3.0,
        eval_every="25%",
        quiet=True,
    )
    course = [(row["step"], round(row["eval_accuracy"], 3)) for row in run.metrics if "eval_accuracy" in row]
    with capsys.disabled():
        sys.stdout.write(f"\naccuracy {course}; {run.results}\n")
    assert run.results["eval_accuracy"]["interval"][0] > 0.7
