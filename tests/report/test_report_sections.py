"""The sections of every run: where it comes from, its curves, answers, lost rows, cost, and how to run it again."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from read_at_hand import a_run, an_evaluation, charts, flat, said, tables
from reported import change, written

from posttrain.errors import DataError, Problem
from posttrain.report.parts import Answers, Folded, Section
from posttrain.report.reading import Read, read
from posttrain.report.sections.answers import AT_ONCE, MOST, answers
from posttrain.report.sections.cost import cost
from posttrain.report.sections.curves import curves, slug
from posttrain.report.sections.lineage import lineage
from posttrain.report.sections.losses import losses
from posttrain.report.sections.reproduce import commands, reproduce
from posttrain.report.sections.verdict import verdict

STARTED = "2026-01-01T00:00:00.000+00:00"
BASE = {"name": "base", "content": "b" * 64}
SFT = {"name": "runs/sft", "command": "sft", "started": STARTED, "content": "5" * 64, "parents": {"model": BASE}}
REWARD = {"name": "runs/rm", "command": "reward", "started": STARTED, "parents": {"model": SFT}}


def said_by(section: Section | None) -> dict[str, list[tuple[str, str]]]:
    """By prompt the label and the text of each answer."""
    assert section is not None
    found = [part for part in flat(section.parts) if isinstance(part, Answers)]
    return {part.prompt: [(answer.label, answer.text) for answer in part.answers] for part in found}


# --- where it comes from ----------------------------------------------------------------------------------------------


def test_the_lineage_is_a_chain_and_what_a_model_comes_from_stands_once() -> None:
    section = lineage(a_run(parents={"model": SFT, "reward": REWARD}, data={"p.jsonl": "d" * 64}, files={}))
    assert section.facts == {"chain": ["base", "sft (sft)", "it (ppo)"]}
    models, data = tables(section)
    assert [row[:3] for row in models.rows] == [
        ["model", "runs/sft", "sft"],
        ["· model", "base", ""],
        ["reward", "runs/rm", "reward"],
        ["· model", "runs/sft", "sft, as above"],
    ]
    assert data.rows == [["p.jsonl", "d" * 12]]


def test_a_run_without_files_says_what_it_learnt_from() -> None:
    assert "its own answers" in said(lineage(a_run(data={}, files={})))


# --- curves -----------------------------------------------------------------------------------------------------------


def test_what_is_held_out_stands_in_the_chart_of_what_is_trained_and_interruptions_are_marked() -> None:
    rows = [{"step": step, "seconds": 1.0, "loss": 1.0 / step, "oddity": None} for step in range(1, 5)]
    rows[-1] |= {"eval_loss": 0.5, "eval_chrf": 0.2}
    kept = {"best": {"step": 4, "eval_loss": 0.5}}
    section = curves(a_run("sft", metrics=rows, resumes=[{"step": 2}, {"step": 3}], kept=kept, shortage={"step": 1}))
    found = charts(section)
    assert [*found] == ["curve-loss", "curve-chrf", "curve-oddity"]
    assert [(line.name, line.x, line.y) for line in found["curve-loss"].series] == [
        ("training", [1, 2, 3, 4], [1.0, 0.5, 1 / 3, 0.25]),
        ("held out", [4], [0.5]),
    ]
    assert found["curve-loss"].marks == {4: "best", 1: "less memory", 2: "went on", 3: "went on"}
    assert found["curve-oddity"].series[0].y == [None] * 4
    assert section is not None
    assert isinstance(section.parts[-1], Folded)  # the oddity


def test_there_are_no_curves_before_the_first_step() -> None:
    assert curves(a_run()) is None


def test_ids_of_charts_are_told_apart_whatever_a_metric_is_called() -> None:
    assert slug("a b") != slug("a_b") != slug("a/b")
    assert slug('"><b>').replace("-", "").isalnum()


# --- answers ----------------------------------------------------------------------------------------------------------


def test_a_prompt_has_its_first_and_last_answer_and_that_of_the_run_before(tmp_path: Path) -> None:
    say = [{"step": step, "prompt": "Hi", "answer": f"answer {step}", "stopped": step > 5} for step in (5, 10, 20)]
    parent = written(tmp_path / "sft", samples=[{"step": 9, "prompt": "Hi", "answer": "before", "stopped": True}])
    run = read(written(tmp_path / "dpo", "dpo", model=parent, samples=say))
    found = said_by(answers(run))
    assert found == {"Hi": [("before: sft", "before"), ("step 5", "answer 5"), ("step 20", "answer 20")]}
    moved = parent.rename(tmp_path / "elsewhere")
    assert said_by(answers(run)) == {"Hi": [("step 5", "answer 5"), ("step 20", "answer 20")]}
    moved.rename(parent)
    change(parent, started=STARTED)  # another run stands there now
    assert said_by(answers(run)) == {"Hi": [("step 5", "answer 5"), ("step 20", "answer 20")]}


def test_greedy_and_sampled_answers_are_told_apart_and_have_their_scores(tmp_path: Path) -> None:
    say = [
        {"step": step, "prompt": "Hi", "answer": f"{drawn} {step}", "stopped": True, "drawn": drawn, "score": step / 3}
        for step in (0, 8)
        for drawn in ("greedy", "sampled")
    ]
    section = answers(read(written(tmp_path / "ppo", "ppo", samples=say)))
    labels = [label for label, _ in said_by(section)["Hi"]]
    assert labels == ["step 0, greedy", "step 8, greedy", "step 0, sampled", "step 8, sampled"]
    assert section is not None
    [part] = [part for part in section.parts if isinstance(part, Answers)]
    assert [answer.note for answer in part.answers] == ["score 0", "score 2.667", "score 0", "score 2.667"]


def test_prompts_that_were_answered_once_stand_in_their_order_by_round(tmp_path: Path) -> None:
    say = [{"step": step, "prompt": f"p{step}", "answer": "a", "stopped": True} for step in (1, 4)]
    section = answers(read(written(tmp_path / "ppo", "ppo", samples=say)))
    assert said_by(section) == {"p1": [("round 1", "a")], "p4": [("round 4", "a")]}
    assert section is not None
    assert section.title == "Answers along the way"


def test_a_page_carries_some_of_many_prompts_and_says_so(tmp_path: Path) -> None:
    say = [{"step": step, "prompt": f"p{n}", "answer": "a", "stopped": True} for n in range(500) for step in (1, 2)]
    section = answers(read(written(tmp_path / "sft", samples=say)))
    assert len(said_by(section)) == AT_ONCE + MOST
    assert f"The page carries {AT_ONCE + MOST} of 500 prompts." in said(section)


def test_an_evaluation_shows_both_answers() -> None:
    row = {"prompt": "Hi", "answer": "new", "against_answer": "old", "score": 2.0, "against_score": 1.0}
    alone = {"prompt": "Ho", "answer": "new"}
    of_start = an_evaluation(prompts=[row, alone])
    others = [an_evaluation(run="before", prompts=[row]), an_evaluation(against="runs/dpo", prompts=[row])]
    run = a_run(evaluations=[of_start, *others, {"prompts": 7}])
    assert said_by(answers(run)) == {"Hi": [("before: runs/sft", "old"), ("after", "new")]}
    assert answers(a_run(evaluations=others)) is None, "another run's, and no start of this one"
    assert answers(a_run()) is None


# --- lost data --------------------------------------------------------------------------------------------------------


def test_lost_rows_are_counted_by_source_and_reason(tmp_path: Path) -> None:
    rows = {"train.jsonl": {"kept": 90, "held out": 10, "overlong": 3, "duplicates": 0}}
    problems = [Problem(place=f"train.jsonl:{line}", what=f"row {line} is empty", fix="fill it") for line in (3, 17)]
    run = read(written(tmp_path / "run", rows=rows, problems=problems))
    section = losses(run)
    assert "5 rows of 95 (5.3%) took no part; 90 are used." in said(section)
    counts, kinds = tables(section)
    assert [*counts.rows] == [["train.jsonl", "kept", 90], ["", "held out", 10], ["", "overlong", 3]]
    assert [*kinds.rows] == [["row 3 is empty", 2, "train.jsonl:3", "fill it"]]


def test_nothing_lost_is_said_too_and_answers_without_a_score_are_told() -> None:
    assert "Nothing was lost: all 7 rows are used." in said(losses(a_run(**{"d.jsonl_rows": {"kept": 7}})))
    assert losses(a_run()) is None
    failure = {"step": 3, "reward": "short", "error": "KeyError: 'word'", "answer": "…"}
    run = a_run()
    section = losses(Read(**{name: getattr(run, name) for name in Read.__slots__} | {"failures": [failure, failure]}))
    assert "2 answers had no score and took no part." in said(section)
    assert tables(section)[0].rows[0][:4] == ["short", "KeyError: 'word'", 2, 3]


# --- cost -------------------------------------------------------------------------------------------------------------


def test_the_cost_is_beside_its_forecast(tmp_path: Path) -> None:
    run = read(change(written(tmp_path / "run", steps=20), resumes=[{"step": 4}]))
    rows = {str(row[0]): row[1:] for row in tables(cost(run))[0].rows}
    assert rows["steps"] == [20, 20]
    assert rows["tokens"] == [2000, ""]
    assert rows["training"][1] == "30 s"
    assert rows["times it went on after an interruption"] == [1, ""]
    assert rows["memory · activations"] == ["", "50 MB"]
    assert cost(run).facts["tokens"] == 2000
    assert [line.x for line in charts(cost(run))["pace"].series] == [[*range(2, 21)]]


def test_a_run_that_goes_on_has_no_end_yet(tmp_path: Path) -> None:
    rows = {
        str(row[0]): row[1:] for row in tables(cost(read(written(tmp_path / "run", steps=0, ending="running"))))[0].rows
    }
    assert rows["ended"][0] == "not yet: running"
    assert rows["training"] == ["", "30 s"]


# --- again ------------------------------------------------------------------------------------------------------------


def test_the_commands_run_it_again_whatever_it_is_called(tmp_path: Path) -> None:
    run = read(written(tmp_path / "odd $(name); 'x'"))
    first, second = commands(run).split("\n")
    out = str(run.path)
    assert shlex.split(first) == ["posttrain", "sft", f"{out}/run/config.yaml", "--out", f"{out}-again"]
    assert shlex.split(second) == ["posttrain", "runs", "diff", out, f"{out}-again"]


def test_everything_that_numbers_depend_on_is_there(tmp_path: Path) -> None:
    section = reproduce(read(change(written(tmp_path / "run"), functions={"short": "def short(): ..."})))
    text = said(section)
    assert "give the same bits" in text
    assert "batch_size" in text  # the settings
    assert "def short(): ..." in text
    assert "but for rounding" in said(reproduce(read(change(tmp_path / "run", shortage={"step": 3}))))


# --- what was damaged -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "line", "says"),
    [
        ("metrics.jsonl", '{"step": 1, "loss": "low"}', r"'loss' of step 1 is 'low', expected a number or null"),
        ("metrics.jsonl", "{", r"metrics\.jsonl:1.*is not JSON"),
        ("samples.jsonl", '{"step": 1, "prompt": 3}', r"a sample of step 1 has no text"),
        ("problems.jsonl", "[]", r"problems\.jsonl:1.*is no object"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path: Path, name: str, line: str, says: str) -> None:
    run = written(tmp_path / "run", steps=0)
    (run / "run" / name).write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=says):
        read(run)


def test_a_run_whose_process_is_gone_is_not_said_to_go_on(tmp_path: Path) -> None:
    killed = read(written(tmp_path / "run", steps=3, ending="stopped"))
    assert killed.record["status"] == "stopped"
    assert "stopped at step 3 without a word" in said(verdict(killed))
