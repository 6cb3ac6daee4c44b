"""Measures of answers while finetuning goes on: what they say, on which rows, and that they disturb nothing."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from commands import trained_on
from safetensors.torch import load_file
from stages import write_rows

import posttrain
from posttrain.errors import ConfigError, DataError, Interrupted
from posttrain.recipes.measuring import Evaluation
from posttrain.run import Run

FEW: Mapping[str, Any] = {"steps": 4, "eval_every": 2, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"prompt": f"{n} + {n} =", "completion": f"so #### {2 * n}"} for n in range(24)]
    return write_rows(tmp_path_factory.mktemp("sums") / "sums.jsonl", rows)


def steps_of(run: Run) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in run.metrics]


@pytest.mark.medium
def test_exact_match_rises_while_a_model_learns_its_task(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"Is {n} a number?", "completion": "yes"} for n in range(40)]
    run = trained_on(
        write_rows(tmp_path / "rows.jsonl", rows), tiny_model, tmp_path / "out",
        eval_data="25%", eval_every=1, steps=4, batch_size=8, measures=["exact_match", "chrf"], max_new_tokens=5,
    )  # fmt: skip
    course = [row["eval_exact_match"] for row in run.metrics if "eval_exact_match" in row]
    assert (len(course), course[0], course[-1]) == (4, 0.0, 1.0)
    result = run.results["eval_exact_match"]
    assert result["value"] == 1.0
    assert result["interval"][0] < 0.8  # a dozen answers say no more
    assert run.results["eval_chrf"]["value"] == 100.0


def test_the_results_of_a_run_are_those_of_eval_on_the_same_rows(sums: Path, tiny_model: Path, tmp_path: Path) -> None:
    held = write_rows(
        tmp_path / "held.jsonl", [{"prompt": f"{n} + 1 =", "completion": f"{n + 1}"} for n in range(30, 36)]
    )
    measures = ["exact_match", "token_f1", "bleu", "chrf", "rouge1", "rouge2", "rougeL"]
    run = trained_on(sums, tiny_model, tmp_path / "out", eval_data=str(held), measures=measures, **FEW)
    found = posttrain.evaluate(run.path, data=held, measures=measures, temperature=0.0, max_new_tokens=6, quiet=True)
    assert {name: run.results[f"eval_{name}"] for name in measures} == {name: found[name] for name in measures}
    last = steps_of(run)[-1]
    assert {name: last[f"eval_{name}"] for name in measures} == {name: found[name]["value"] for name in measures}


@pytest.mark.medium
def test_measuring_changes_nothing_of_the_training(sums: Path, tiny_model: Path, tmp_path: Path) -> None:
    lora = {"rank": 4, "alpha": 8.0, "dropout": 0.3}
    few = {**FEW, "eval_data": "25%", "lora": lora}
    plain = trained_on(sums, tiny_model, tmp_path / "plain", **{k: v for k, v in few.items() if k != "max_new_tokens"})
    with_measures = trained_on(sums, tiny_model, tmp_path / "measured", **few, measures=["token_f1"])
    ours, theirs = (load_file(run.path / "adapter_model.safetensors") for run in (with_measures, plain))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_the_rows_that_are_measured_are_drawn_by_the_seed_whatever_their_order(
    sums: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    measure = Evaluation.__call__

    def noted(self: Evaluation) -> dict[str, float]:
        asked.append([prompt.record.messages[0].content for prompt in self._questions.prompts])
        return measure(self)

    monkeypatch.setattr(Evaluation, "__call__", noted)
    rows = [{"id": f"row {n}", "prompt": f"{n} + 1 =", "completion": f"{n + 1}"} for n in range(30, 50)]
    forward, backward = write_rows(tmp_path / "a.jsonl", rows), write_rows(tmp_path / "b.jsonl", rows[::-1])
    for number, (file, seed) in enumerate(((forward, 0), (backward, 0), (forward, 1))):
        settings = {**FEW, "steps": 1, "measure_rows": 3, "measures": ["chrf"], "seed": seed}
        trained_on(sums, tiny_model, tmp_path / f"out-{number}", eval_data=str(file), **settings)
    sets = [set(texts) for texts in asked]
    assert [len(texts) for texts in sets] == [3, 3, 3]
    assert sets[0] == sets[1] != sets[2]


def test_only_rows_that_the_marker_can_judge_are_measured(sums: Path, tiny_model: Path, tmp_path: Path) -> None:
    held = [{"prompt": "1 + 1 =", "completion": "so #### 2"}, {"prompt": "1 + 2 =", "completion": "three"}]
    file = write_rows(tmp_path / "held.jsonl", held)
    settings = {**FEW, "measures": ["exact_match"], "answer_after": "####"}
    run = trained_on(sums, tiny_model, tmp_path / "out", eval_data=str(file), **settings)
    assert run.results["eval_exact_match"]["count"] == 1
    assert "measures: 1 row whose reference lacks '####', not measured" in (run.path / "run" / "log.txt").read_text()
    with pytest.raises(DataError, match="no reference holds answer_after '=>'"):
        trained_on(sums, tiny_model, tmp_path / "none", eval_data=str(file), **{**settings, "answer_after": "=>"})


def test_text_has_nothing_to_answer(tiny_model: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": f"It is {n} o'clock."} for n in range(20)])
    with pytest.raises(DataError, match="measures need held-out conversations"):
        trained_on(rows, tiny_model, tmp_path / "out", eval_data="25%", measures=["bleu"], **FEW)
    assert not (tmp_path / "out").exists()


@pytest.mark.medium
def test_a_run_stopped_while_it_measures_goes_on_to_the_same_bits(
    sums: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**FEW, "eval_data": "25%", "measures": ["token_f1", "chrf"], "save_every": 1}
    whole = trained_on(sums, tiny_model, tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "__call__", _stopping(Evaluation.__call__))
        with pytest.raises(Interrupted):
            trained_on(sums, tiny_model, tmp_path / "stopped", **settings)
    stopped = trained_on(sums, tiny_model, tmp_path / "stopped", **settings)
    assert steps_of(stopped) == steps_of(whole)
    assert stopped.results == whole.results
    ours, theirs = (load_file(run.path / "model.safetensors") for run in (stopped, whole))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def _stopping(measure: Callable[[Evaluation], dict[str, float]]) -> Callable[[Evaluation], dict[str, float]]:
    def stopped(self: Evaluation) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return measure(self)

    return stopped


def test_measures_that_are_asked_for_need_a_reference(tiny_model: Path, tmp_path: Path) -> None:
    asked = write_rows(tmp_path / "asked.jsonl", [{"prompt": "Hi"}])
    with pytest.raises(ConfigError, match="--measures  no row has a reference"):
        posttrain.evaluate(tiny_model, data=asked, measures=["chrf"], max_new_tokens=1, quiet=True)
    assert posttrain.evaluate(tiny_model, data=asked, max_new_tokens=1, quiet=True)["answers"] == 1


def test_eval_takes_the_best_of_several_references(tiny_model: Path, tmp_path: Path) -> None:
    texts = write_rows(tmp_path / "one.jsonl", [{"prompt": "Say it", "reference": "x"}])
    once = posttrain.evaluate(tiny_model, data=texts, max_new_tokens=3, temperature=0.0, measures=["chrf"], quiet=True)
    [answer] = [json.loads(line)["responses"][0] for line in _pool(tiny_model, texts, tmp_path).splitlines()]
    several = write_rows(tmp_path / "several.jsonl", [{"prompt": "Say it", "reference": ["x", answer, "y"]}])
    settings = {"max_new_tokens": 3, "temperature": 0.0, "measures": ["exact_match", "chrf"], "quiet": True}
    best = posttrain.evaluate(tiny_model, data=several, **settings)
    assert once["chrf"]["value"] < 100
    assert (best["exact_match"]["value"], best["chrf"]["value"]) == (1.0, pytest.approx(100.0))


def _pool(model: Path, prompts: Path, folder: Path) -> str:
    settings = {"max_new_tokens": 3, "temperature": 0.0, "out": folder / "pool.jsonl", "quiet": True}
    return posttrain.sample(model, prompts=prompts, **settings).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"measures": ["rougel"]}, "expected exact_match or token_f1 or bleu or chrf or rouge1 or rouge2 or rougeL"),
        ({"measures": "bleu", "eval_data": None}, "nothing is held out to measure on: set eval_data"),
        ({"answer_after": "####"}, "nothing is compared: set measures"),
        ({"measure_rows": 5}, "measure_rows: nothing is answered: set measures|nothing is answered: set measures"),
        ({"max_new_tokens": 5}, "nothing is answered: set measures"),
        ({"measures": ["bleu"], "normalize": "squad"}, "squad is of exact_match"),
        ({"measures": ["chrf"], "bleu_tokenizer": "zh"}, "is of bleu, which measures do not name"),
    ],
)
def test_a_setting_of_measures_that_would_do_nothing_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        posttrain.sft(model="m", data="d.jsonl", out="o", quiet=True, **settings)
