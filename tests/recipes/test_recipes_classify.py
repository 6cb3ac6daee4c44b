"""Heads for labels end to end: what they learn, what the saved folder gives, and what is refused."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from stages import QUICK, write_rows
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import posttrain
from posttrain.cli import main
from posttrain.errors import ConfigError, DataError, Interrupted, ModelError
from posttrain.recipes import classify as recipe
from posttrain.run import Run

WORDS = ("red", "round", "loud")
FEW: Mapping[str, Any] = {**QUICK, "eval_data": "25%", "eval_every": 2, "steps": 4}


def texts(count: int = 40) -> list[dict[str, object]]:
    """Rows whose class is the word that they end with."""
    return [{"text": f"{n} is {WORDS[n % 3]}", "label": WORDS[n % 3]} for n in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classify")


@pytest.fixture(scope="module")
def rows(folder: Path) -> Path:
    return write_rows(folder / "rows.jsonl", texts())


@pytest.fixture(scope="module")
def trained(rows: Path, tiny_model: Path, folder: Path) -> Run:
    """A classifier that has learnt its task."""
    settings = {**FEW, "steps": 24, "batch_size": 8, "eval_every": 8}
    return posttrain.classify(model=tiny_model, data=rows, out=folder / "trained", **settings)


def test_a_head_learns_classes_and_says_how_sure_that_is(trained: Run) -> None:
    course = [row["eval_accuracy"] for row in trained.metrics if "eval_accuracy" in row]
    assert course[-1] == 1.0
    assert trained.results["eval_accuracy"]["value"] == 1.0
    assert trained.results["eval_accuracy"]["interval"][0] < 1.0
    assert trained.results["eval_macro_f1"]["value"] == 1.0
    assert trained.results["eval_loss"]["value"] == pytest.approx(trained.metrics[-1]["eval_loss"])
    assert (
        "task classification: 3 classes, loud (13), red (14), round (13)" in (trained.path / "run/log.txt").read_text()
    )


def test_the_saved_folder_gives_the_same_outputs_with_padding(trained: Run, rows: Path, tmp_path: Path) -> None:
    said = posttrain.evaluate(trained.path, data=rows, out=tmp_path / "said.json", quiet=True)["predictions"]
    model = AutoModelForSequenceClassification.from_pretrained(trained.path)
    words = AutoTokenizer.from_pretrained(trained.path)
    assert model.config.id2label == {0: "loud", 1: "red", 2: "round"}
    assert model.config.label2id == {"loud": 0, "red": 1, "round": 2}
    longer = [row["text"] for row in texts(len(said))]
    batch = words(longer, padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    assert (batch["attention_mask"] == 0).any()
    with torch.no_grad():
        probabilities = model(**batch).logits.softmax(dim=1)
    ours = torch.tensor([[row["scores"][name] for name in ("loud", "red", "round")] for row in said])
    torch.testing.assert_close(ours, probabilities, atol=1e-5, rtol=0)
    guess = pipeline("text-classification", model=str(trained.path))("7 is round")[0]
    assert guess["label"] == "round"


def test_eval_measures_labelled_rows_and_answers_all(trained: Run, tmp_path: Path) -> None:
    wrong = [{"text": "3 is red", "label": "loud"}, {"text": "4 is red", "label": "red"}]
    found = posttrain.evaluate(trained.path, data=write_rows(tmp_path / "wrong.jsonl", wrong), quiet=True)
    assert (found["rows"], found["accuracy"]["value"], found["accuracy"]["count"]) == (2, 0.5, 2)
    assert "predictions" not in found
    plain = write_rows(tmp_path / "plain.jsonl", [{"text": "5 is loud"}])
    with pytest.raises(ConfigError, match="the rows have no label, so nothing can be measured"):
        posttrain.evaluate(trained.path, data=plain, quiet=True)
    posttrain.evaluate(trained.path, data=plain, out=tmp_path / "p.json", quiet=True)
    [row] = json.loads((tmp_path / "p.json").read_text())["predictions"]
    assert (row["id"], row["predicted"]) == ("plain.jsonl:1", "loud")
    assert sum(row["scores"].values()) == pytest.approx(1.0)


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_give_the_same_outputs_in_their_library(
    rows: Path, tiny_model: Path, folder: Path, tmp_path: Path
) -> None:
    run = posttrain.classify(
        model=tiny_model, data=rows, out=folder / "lora", **FEW, lora={"rank": 4, "alpha": 8.0, "dropout": 0.2}
    )
    said = posttrain.evaluate(run.path, data=rows, out=tmp_path / "said.json", quiet=True)["predictions"]
    words = AutoTokenizer.from_pretrained(run.path)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=3)
    base.config.pad_token_id = words.pad_token_id
    model = PeftModel.from_pretrained(base, run.path).eval()
    batch = words([row["text"] for row in texts()], padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        probabilities = model(**batch).logits.softmax(dim=1)
    ours = torch.tensor([list(row["scores"].values()) for row in said])
    torch.testing.assert_close(ours, probabilities, atol=1e-5, rtol=0)
    assert "num_labels=3" in (run.path / "README.md").read_text()


@pytest.mark.medium
def test_numbers_become_a_regression(tiny_model: Path, folder: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{n} " + "much " * (n % 6), "label": (n % 6) / 4} for n in range(60)]
    file = write_rows(tmp_path / "numbers.jsonl", rows)
    settings = {**FEW, "steps": 60, "batch_size": 8, "eval_every": 60}
    run = posttrain.classify(model=tiny_model, data=file, out=folder / "numbers", **settings)
    assert run.results["eval_spearman"]["value"] > 0.8
    assert run.results["eval_pearson"]["value"] > 0.8
    said = posttrain.evaluate(run.path, data=file, out=tmp_path / "said.json", quiet=True)
    model = AutoModelForSequenceClassification.from_pretrained(run.path)
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    words = AutoTokenizer.from_pretrained(run.path)
    with torch.no_grad():
        value = model(**words(str(rows[5]["text"]), return_tensors="pt", return_token_type_ids=False)).logits.item()
    assert said["predictions"][5]["predicted"] == pytest.approx(value, abs=1e-5)


@pytest.mark.medium
def test_a_run_stopped_on_the_way_goes_on_to_the_same_bits(rows: Path, tiny_model: Path, tmp_path: Path) -> None:
    settings = {**FEW, "save_every": 1, "lora": {"rank": 4, "alpha": 8.0, "dropout": 0.2}}
    whole = posttrain.classify(model=tiny_model, data=rows, out=tmp_path / "whole", **settings)
    measure = recipe.head_outputs

    def stopped(*given: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return measure(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "head_outputs", stopped)
        with pytest.raises(Interrupted):
            posttrain.classify(model=tiny_model, data=rows, out=tmp_path / "stopped", **settings)
    again = posttrain.classify(model=tiny_model, data=rows, out=tmp_path / "stopped", **settings)
    steps = [[{k: v for k, v in row.items() if k != "seconds"} for row in run.metrics] for run in (again, whole)]
    assert steps[0] == steps[1]
    assert again.results == whole.results
    ours, theirs = (load_file(run.path / "adapter_model.safetensors") for run in (again, whole))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.mark.medium
def test_packing_off_trains_the_same(rows: Path, tiny_model: Path, tmp_path: Path) -> None:
    runs = [
        posttrain.classify(model=tiny_model, data=rows, out=tmp_path / way, **{**FEW, "steps": 2}, packing=way)
        for way in ("auto", "off")
    ]
    ours, theirs = (load_file(run.path / "model.safetensors") for run in runs)
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=0)


def test_a_dry_run_writes_nothing(
    rows: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"--model {tiny_model} --data {rows} --out {tmp_path / 'out'} --dry-run"
    assert main(["classify", *words.split()]) == 0
    assert not (tmp_path / "out").exists()
    assert "what this run takes" in capsys.readouterr().out


def test_an_evaluation_file_with_a_class_of_its_own_is_refused(rows: Path, tiny_model: Path, tmp_path: Path) -> None:
    held = write_rows(tmp_path / "held.jsonl", [{"text": "x", "label": "red"}, {"text": "y", "label": "blue"}])
    with pytest.raises(DataError) as refused:
        posttrain.classify(model=tiny_model, data=rows, out=tmp_path / "out", **{**FEW, "eval_data": str(held)})
    assert str(refused.value).startswith(
        "held.jsonl:2  label 'blue' is no class of the training data: loud, red, round"
    )
    assert not (tmp_path / "out").exists()


def test_one_class_alone_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    same = write_rows(tmp_path / "same.jsonl", [{"text": f"{n}", "label": "a"} for n in range(9)])
    with pytest.raises(DataError, match="every label is 'a': there is nothing to tell apart"):
        posttrain.classify(model=tiny_model, data=same, out=tmp_path / "out", **FEW)


@pytest.mark.medium
def test_conversations_are_labelled_too(tiny_model: Path, tmp_path: Path) -> None:
    talks = [
        {"messages": [{"role": "user", "content": f"Say {n}"}, {"role": "assistant", "content": word}], "label": word}
        for n in range(20)
        for word in ("yes", "no")
    ]
    run = posttrain.classify(
        model=tiny_model, data=write_rows(tmp_path / "talks.jsonl", talks), out=tmp_path / "out",
        **{**FEW, "steps": 20, "batch_size": 8, "eval_every": 20},
    )  # fmt: skip
    assert run.results["eval_accuracy"]["value"] == 1.0


def test_a_classifier_writes_no_answers(trained: Run, tmp_path: Path) -> None:
    prompts = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "Hi"}])
    with pytest.raises(ModelError, match="is a classifier: it labels texts and writes none"):
        posttrain.sample(trained.path, prompts=prompts, out=tmp_path / "pool.jsonl", quiet=True)
    with pytest.raises(ConfigError, match="is a classifier, which writes no answers"):
        posttrain.evaluate(trained.path, data=prompts, temperature=0.0, quiet=True)


@pytest.mark.parametrize("card", ["reward.json", "classifier.json"])
def test_settings_of_answers_are_refused_for_a_model_that_writes_none(card: str, tmp_path: Path) -> None:
    (tmp_path / card).write_text("{}")
    for setting in ({"judge": "rewards.py:short"}, {"measures": ["bleu"]}, {"temperature": 0.5}):
        with pytest.raises(ConfigError, match=f"--{next(iter(setting))} .*, which writes no answers"):
            posttrain.evaluate(tmp_path, data="rows.jsonl", quiet=True, **setting)
