"""The best weights of every method: which they are, that their folder is a model, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from safetensors.torch import load_file
from stages import LORA, QUICK, Stages, write_rows
from torch import Tensor

import posttrain
from posttrain.cli import main
from posttrain.config import CONFIGS
from posttrain.engine.local import LocalEngine
from posttrain.errors import ConfigError, DataError, Diverged
from posttrain.models.load import load_scalar
from posttrain.objectives import ScoreReader
from posttrain.recipes.scoring import RewardCard, answer_group, score_groups
from posttrain.run import Run
from posttrain.text.chat import Codec
from posttrain.types import Message, PromptRecord

pytestmark = pytest.mark.medium

WORDS = ("red", "round", "loud")
STEADY: Mapping[str, Any] = {
    **QUICK, "steps": 12, "learning_rate": 0.03, "eval_every": 1, "schedule": "constant", "warmup": 0.0,
    "save_every": None,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Method:
    """A run over rows: its command, its settings, the measure of its best weights, and which value that is."""

    train: Callable[..., Run]
    settings: Mapping[str, Any]
    measure: str
    best: Callable[[Sequence[float]], float]


def ranked(first: int, last: int) -> list[dict[str, object]]:
    return [
        {"prompt": f"{n} + {n} =", "responses": [str(2 * n), "no", f"{n} or so"], "ranks": [1, 2, 3]}
        for n in range(first, last)
    ]


def labelled(first: int, last: int) -> list[dict[str, object]]:
    return [{"text": f"{n} is {WORDS[n % 3]}", "label": WORDS[n % 3]} for n in range(first, last)]


@pytest.fixture(scope="module")
def methods(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Method]:
    """Every method over rows, with held-out rows in a file of their own."""
    folder = tmp_path_factory.mktemp("rows")
    # Answers of another kind than those that are trained: their loss soon rises.
    chats = write_rows(folder / "held.jsonl", [{"prompt": f"{n} + {n} =", "completion": "no, red"} for n in (3, 40)])
    rankings = write_rows(folder / "held_ranked.jsonl", ranked(50, 58))
    labels, others = (
        write_rows(folder / "labels.jsonl", labelled(0, 24)),
        write_rows(folder / "held_labels.jsonl", labelled(24, 36)),
    )
    sft = {"model": stages.base, "data": stages.chats, "eval_data": str(chats)}
    on_ranks = {"model": stages.sft, "data": stages.rankings, "eval_data": str(rankings)}
    lora = {"model": stages.sft_lora, "lora": LORA}
    kto, fast = {**on_ranks, "loss": "kto", "steps": 5}, {"learning_rate": 0.1}
    classes = {"model": stages.base, "data": labels, "eval_data": str(others)}
    return {
        "sft": Method(train=posttrain.sft, settings=sft, measure="eval_loss", best=min),
        "sft-lora": Method(train=posttrain.sft, settings={**sft, **lora}, measure="eval_loss", best=min),
        "classify": Method(train=posttrain.classify, settings=classes, measure="eval_macro_f1", best=max),
        "reward": Method(train=posttrain.reward, settings=on_ranks, measure="eval_accuracy", best=max),
        "reward-lora": Method(train=posttrain.reward, settings={**on_ranks, **lora}, measure="eval_loss", best=min),
        "dpo": Method(train=posttrain.dpo, settings={**on_ranks, **lora, **fast}, measure="eval_margin", best=max),
        "dpo-kto": Method(train=posttrain.dpo, settings=kto, measure="eval_loss", best=min),
    }  # fmt: skip


METHODS = ("sft", "sft-lora", "classify", "reward", "reward-lora", "dpo", "dpo-kto")


@pytest.fixture(scope="module")
def trained(methods: Mapping[str, Method], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """A run of a method that keeps its best weights; it is made once."""
    folder = tmp_path_factory.mktemp("runs")

    @cache
    def run(name: str) -> Run:
        method = methods[name]
        return method.train(out=folder / name, best=method.measure, **{**STEADY, **method.settings})

    return run


def weights(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", METHODS)
def test_the_best_weights_are_those_of_a_run_that_ends_at_the_best_evaluation(
    name: str, methods: Mapping[str, Method], trained: Callable[[str], Run], tmp_path: Path
) -> None:
    run, method = trained(name), methods[name]
    course = {row["step"]: row[method.measure] for row in run.metrics}
    value = method.best([*course.values()])
    step = next(number for number, found in course.items() if found == value)
    assert run.results["best"] == {"step": step, method.measure: value}
    assert step < len(course)
    shorter = method.train(out=tmp_path / "shorter", best=None, **{**STEADY, **method.settings, "steps": step})
    assert same(run.path / "run" / "best", shorter.path)
    assert not same(run.path / "run" / "best", run.path)
    assert not (shorter.path / "run" / "best").exists()


# --- its folder is a model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "found"), [("sft", "nll"), ("classify", "macro_f1"), ("reward", "accuracy")])
def test_eval_finds_of_the_best_model_what_the_run_found(
    name: str, found: str, methods: Mapping[str, Method], trained: Callable[[str], Run]
) -> None:
    run, method = trained(name), methods[name]
    measured = posttrain.evaluate(run.path / "run" / "best", data=method.settings["eval_data"], quiet=True)[found]
    value = measured["value"] if isinstance(measured, dict) else measured
    assert value == pytest.approx(run.results["best"][method.measure], abs=1e-5)


@pytest.mark.parametrize("name", ["sft", "sft-lora", "dpo", "dpo-kto"])
def test_the_best_model_answers_and_is_trained_on(
    name: str, stages: Stages, trained: Callable[[str], Run], tmp_path: Path
) -> None:
    best = trained(name).path / "run" / "best"
    words = f"sample {best} --prompts {stages.prompts} --out {tmp_path}/pool.jsonl --max_new_tokens 2 --quiet"
    assert main(words.split()) == 0
    further = f"sft --model {best} --data {stages.chats} --out {tmp_path}/further --steps 1 --quiet"
    assert main([*further.split(), *(["--lora.rank", "4"] if "lora" in name or name == "dpo" else [])]) == 0


@pytest.mark.parametrize("name", ["reward", "reward-lora"])
def test_the_scores_of_the_best_reward_model_are_centred_by_its_own_weights(
    name: str, stages: Stages, trained: Callable[[str], Run]
) -> None:
    run = trained(name)
    for folder in (run.path, run.path / "run" / "best"):
        card, codec = RewardCard.read(str(folder)), Codec.load(str(folder))
        raw = score_groups(ScoreReader(model=load_scalar(str(folder))[0]), _answers(stages, codec), 999)
        scores = (raw - card.shift) / card.scale
        assert (float(scores.mean()), float(scores.std())) == (pytest.approx(0, abs=1e-4), pytest.approx(1, abs=1e-4))
    log = (run.path / "run" / "log.txt").read_text()
    assert "scores of run/best: shift " in log
    assert "scores: shift " in log


def _answers(stages: Stages, codec: Codec) -> Iterator[Any]:
    """All answers of the training rankings."""
    for line, row in enumerate(stages.rankings.read_text().splitlines()):
        facts = json.loads(row)
        asked = PromptRecord(id=str(line), messages=(Message(role="user", content=facts["prompt"]),))
        answers = [codec.answer(asked, text) for text in facts["responses"]]
        yield answer_group(str(line), codec.prompt(asked).tokens, answers)


def test_the_best_classifier_is_one_of_the_library_with_its_names(trained: Callable[[str], Run]) -> None:
    best = trained("classify").path / "run" / "best"
    assert json.loads((best / "config.json").read_text())["id2label"] == {"0": "loud", "1": "red", "2": "round"}
    assert json.loads((best / "classifier.json").read_text())["labels"] == ["loud", "red", "round"]


# --- which measures there are -----------------------------------------------------------------------------------------


def offered(command: str) -> set[str]:
    """The measures that `best` of a command takes."""
    parts = get_args(CONFIGS[command].model_fields["best"].annotation)
    named = [value for part in parts if get_origin(part) is Literal for value in get_args(part)]
    return {value for value in named if value != "auto"}


def written(*runs: Run) -> set[str]:
    return {name for run in runs for row in run.metrics for name in row}


def test_every_measure_of_best_is_one_that_the_method_writes(
    methods: Mapping[str, Method], trained: Callable[[str], Run], tmp_path: Path
) -> None:
    few: dict[str, Any] = {**STEADY, "steps": 2}
    measures = ["exact_match", "token_f1", "bleu", "chrf", "rouge1", "rouge2", "rougeL"]
    sft = posttrain.sft(
        out=tmp_path / "sft", measures=measures, max_new_tokens=4, **few, **methods["sft"].settings
    )  # fmt: skip
    rows = [{"text": f"{n} " + "much " * (n % 6), "label": (n % 6) / 4} for n in range(24)]
    numbers = write_rows(tmp_path / "numbers.jsonl", rows)
    asked = {**methods["classify"].settings, "data": numbers, "eval_data": "30%"}
    regression = posttrain.classify(out=tmp_path / "numbers", **few, **asked)
    assert offered("sft") <= written(sft)
    assert offered("classify") <= written(trained("classify"), regression)
    assert offered("reward") <= written(trained("reward"))
    assert offered("dpo") <= written(trained("dpo"))
    assert offered("dpo") - {"eval_margin"} <= written(trained("dpo-kto"))


def test_a_measure_that_there_is_not_is_refused_with_those_that_there_are(
    stages: Stages, methods: Mapping[str, Method], tmp_path: Path
) -> None:
    for name, settings, said in (
        ("sft", {"best": "eval_accuracy"}, "best: expected auto or eval_loss or eval_exact_match or .* or null, got"),
        ("sft", {"best": "eval_bleu"}, "eval_bleu is of bleu, which measures do not name; add it"),
        ("reward", {"best": "eval_score"}, "best: expected auto or eval_loss or eval_accuracy or eval_margin or null"),
        ("dpo", {"best": "eval_loss", "eval_data": None}, "eval_loss needs eval_data and eval_every"),
        ("dpo-kto", {"best": "eval_margin"}, "loss kto has no pairs, and so no margin; there are eval_loss"),
        ("classify", {"best": "eval_pearson"}, "eval_pearson is no measure of a classification; there are eval_loss"),
        ("classify", {"best": "eval_accuracy", "task": "regression"}, "no measure of a regression; there are"),
    ):
        method = methods[name]
        with pytest.raises(ConfigError, match=said):
            method.train(out=tmp_path / "out", **{**STEADY, **method.settings, **settings})
    with pytest.raises(DataError, match="eval_data 0%: no prompt falls into it, and best eval_loss is measured on it"):
        posttrain.sft(
            model=stages.base, data=stages.chats, eval_data="0%", best="eval_loss", out=tmp_path / "out", **QUICK
        )
    assert not (tmp_path / "out").exists()


# --- what is chosen and said ------------------------------------------------------------------------------------------


def test_a_run_of_several_passes_keeps_its_best_by_itself_and_one_of_a_single_pass_does_not(
    methods: Mapping[str, Method], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**methods["sft"].settings, **STEADY, "quiet": False, "steps": 6}
    run = posttrain.sft(out=tmp_path / "twice", **settings)
    said = capsys.readouterr().out.splitlines()
    assert "best eval_loss: 1.6 passes over the rows may be too many" in said  # 24 of 15, one of which is held out too
    assert run.record["automatic"]["best"] == "eval_loss"
    step, value = run.results["best"]["step"], run.results["best"]["eval_loss"]
    kept = f"the best in {run.path}/run/best (step {step}, eval_loss {value:.4g})"
    assert said[-1] == f"saved {run.path}, the last weights; {kept}"
    run = posttrain.sft(out=tmp_path / "once", **{**settings, "steps": 4})
    said = capsys.readouterr().out.splitlines()
    assert "best null: the rows are passed over once" in said
    assert said[-1] == f"saved {run.path}"
    assert not (run.path / "run" / "best").exists()


def test_a_run_that_diverges_leaves_its_best_model_and_names_it(
    methods: Mapping[str, Method], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    update, done = LocalEngine.step, list[int]()

    def diverging(engine: LocalEngine, rows: Sequence[str]) -> dict[str, float]:
        done.append(1)
        if len(done) == 3:
            raise Diverged("the gradient is not finite; nothing was updated")
        return update(engine, rows)

    monkeypatch.setattr(LocalEngine, "step", diverging)
    out = tmp_path / "run"
    with pytest.raises(Diverged) as caught:
        posttrain.sft(out=out, best="eval_loss", **STEADY, **methods["sft"].settings)
    monkeypatch.undo()
    first, second = (row["eval_loss"] for row in Run.open(out).metrics)
    step = 1 if first <= second else 2
    assert str(caught.value).endswith(
        f"\n  the best model so far is kept in {out}/run/best: step {step}, eval_loss {min(first, second):.4g}"
    )
    shorter = posttrain.sft(out=tmp_path / "shorter", best=None, **{**STEADY, "steps": step}, **methods["sft"].settings)
    assert same(out / "run" / "best", shorter.path)


# --- on the policy's own answers --------------------------------------------------------------------------------------


def test_online_dpo_keeps_the_weights_whose_answers_had_most_of_the_reward(stages: Stages, tmp_path: Path) -> None:
    file = tmp_path / "rewards.py"
    file.write_text("def digits(prompt, response):\n    return float(sum(map(str.isdigit, response)))\n")
    asked: dict[str, Any] = {
        "model": stages.sft, "reward": f"{file}:digits", "prompts": stages.prompts, "rollouts": 8, "group": 4,
        "max_new_tokens": 6, "learning_rate": 0.01, "schedule": "constant", "warmup": 0.0, "quiet": True,
    }  # fmt: skip
    run = posttrain.online_dpo(out=tmp_path / "run", best="reward", steps=6, **asked)
    # the answers of a round are those of the weights before its update
    course = {row["step"] - 1: row["reward"] for row in run.metrics}
    step = max(course, key=lambda number: course[number])
    assert run.results["best"] == {"step": step, "reward": course[step]}
    best = run.path / "run" / "best"
    before = stages.sft
    if step:
        before = posttrain.online_dpo(out=tmp_path / "shorter", steps=step, **asked).path
    assert same(best, before)
    assert not same(best, run.path)
    assert not (tmp_path / "shorter" / "run" / "best").exists()
