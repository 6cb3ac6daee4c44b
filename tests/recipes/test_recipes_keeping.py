"""Weights kept beside a run's own: the average and the best, and what a trip wire leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stages import LORA, Stages
from torch import Tensor, nn

import posttrain
from posttrain.cli import main
from posttrain.errors import Tripped
from posttrain.models.precision import master_of, set_values
from posttrain.recipes.keeping import Average, Best, worn, write_model
from posttrain.run import Run

Settings = Mapping[str, Any]
SHORT: Settings = {
    "rollouts": 8, "group": 2, "max_new_tokens": 8, "ppo_epochs": 2, "critic": {"warmup": 0}, "learning_rate": 0.05,
    "quiet": True, "save_every": 2,
}  # fmt: skip


def weights(*values: float) -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor([value])) for value in values]


def put(parameters: list[nn.Parameter], *values: float) -> None:
    with torch.no_grad():
        for part, value in zip(parameters, values, strict=True):
            part.fill_(value)


def test_the_average_forgets_by_its_decay_and_takes_no_skipped_update() -> None:
    parts = weights(1.0, -2.0)
    average = Average(parts, 0.9)
    expected = [1.0, -2.0]
    for values, metrics in (((2.0, 0.0), {}), ((5.0, 1.0), {"kl_stopped": 1.0}), ((3.0, 4.0), {"kl_stopped": 0.0})):
        put(parts, *values)
        average.after(1, metrics)
        if not metrics.get("kl_stopped"):
            expected = [0.9 * old + 0.1 * new for old, new in zip(expected, values, strict=True)]
    found = [float(kept) for kept in tensors(average.state())]
    assert found == pytest.approx(expected, rel=1e-6)


def test_what_is_kept_of_weights_in_bf16_is_their_values_before_rounding(tmp_path: Path) -> None:
    part = nn.Parameter(torch.zeros(1).bfloat16())
    set_values(part, torch.tensor([1.0]))
    average, best = Average([part], 0.999), Best([part], "score")
    expected = 1.0
    for number in range(1, 11):
        set_values(part, torch.tensor([1 + number / 1000]))  # below the spacing of bfloat16, 1 / 128
        average.after(number, {})
        best.consider(number, {"score": float(number)})
        expected = 0.999 * expected + 0.001 * (1 + number / 1000)
    assert float(average.state()["0"]) == pytest.approx(expected, abs=1e-6)
    assert float(best.state()["0"]) == pytest.approx(1.01, abs=1e-6)
    written: list[float] = []

    def save(folder: Path) -> None:
        folder.mkdir()
        written.append(float(master_of(part)))

    average.write(tmp_path / "ema", save)
    assert written == [pytest.approx(expected, abs=1e-6)]
    assert float(master_of(part)) == pytest.approx(1.01, abs=1e-6)


def tensors(state: Mapping[str, Any]) -> list[Tensor]:
    return [state[str(place)] for place in range(2)]


def test_an_average_goes_on_from_its_state_to_the_bit() -> None:
    parts = weights(1.0, 2.0)
    first, second = Average(parts, 0.7), Average(weights(0.0, 0.0), 0.7)
    put(parts, 0.1, 0.3)
    first.after(1, {})
    second.load_state(first.state())
    assert torch.equal(torch.cat(tensors(first.state())), torch.cat(tensors(second.state())))


def test_the_best_is_the_first_of_the_highest_and_healthy_ones() -> None:
    parts = weights(0.0, 0.0)
    best = Best(parts, "score", healthy=lambda metrics: metrics["kl"] < 9)
    assert best.facts == {}
    course = [(math.nan, 1), (0.5, 1), (math.nan, 1), (2.0, 1), (2.0, 1), (7.0, 10), (1.0, 1)]
    for step, (score, nats) in enumerate(course):
        put(parts, step, -step)
        best.consider(step, {"score": score, "kl": nats})
    assert best.facts == {"step": 3, "score": 2.0}
    assert [float(kept) for kept in tensors(best.state())] == [3.0, -3.0]


@pytest.mark.parametrize(("measure", "step"), [("eval_loss", 2), ("eval_accuracy", 1), ("score", 1)])
def test_the_best_of_a_loss_is_the_first_of_its_lowest_and_of_all_else_the_first_of_its_highest(
    measure: str, step: int
) -> None:
    parts = weights(0.0, 0.0)
    best = Best(parts, measure)
    for number, value in enumerate((0.5, 0.7, 0.25, math.nan, 0.7, 0.25)):
        put(parts, number, -number)
        best.consider(number, {measure: value})
    assert best.facts["step"] == step
    again = Best(weights(0.0, 0.0), measure)
    again.load_state(best.state())
    for number, value in ((7, 0.3), (8, 0.25), (9, 0.7)):  # none is better
        again.consider(number, {measure: value})
    assert [float(kept) for kept in tensors(again.state())] == [float(step), -float(step)]


def test_a_state_that_was_noted_stays_what_it_was() -> None:
    parts = weights(1.0, 1.0)
    best = Best(parts, "score")
    best.consider(1, {"score": 1.0})
    noted = best.state()
    put(parts, 8.0, 8.0)
    best.consider(2, {"score": 2.0})
    assert [float(kept) for kept in tensors(noted)] == [1.0, 1.0]
    again = Best(weights(0.0, 0.0), "score")
    again.load_state(noted)
    assert again.facts == {"step": 1, "score": 1.0}


def test_the_best_by_another_measure_is_dropped_and_said() -> None:
    first = Best(weights(5.0, 6.0), "eval_score")
    first.consider(3, {"eval_score": 9.0})
    state, said = first.state(), list[str]()
    parts = weights(1.0, 2.0)
    other = Best(parts, "score", say=said.append)
    other.load_state(state)
    assert (other.facts, other.state()) == ({}, {})
    other.consider(4, {"score": 1.0})  # lower than the other measure was
    assert other.facts == {"step": 4, "score": 1.0}
    assert [float(kept) for kept in tensors(other.state())] == [1.0, 2.0]
    assert said == [
        "the best model so far, of step 3, is dropped, which was by eval_score: from here on it is by score"
    ]


def test_a_measure_that_goes_to_null_and_back_begins_anew() -> None:
    first, said = Best(weights(5.0, 6.0), "score"), list[str]()
    first.consider(3, {"score": 9.0})
    none, again = Best(weights(0.0, 0.0), None, say=said.append), Best(weights(0.0, 0.0), "score", say=said.append)
    none.load_state(first.state())
    assert none.state() == {}
    again.load_state(none.state())
    again.consider(5, {"score": 2.0})
    assert again.facts == {"step": 5, "score": 2.0}
    assert said == ["the best model so far, of step 3, is dropped, which was by score: from here on none is kept"]


def test_only_an_evaluation_measures_the_weights_after_an_update() -> None:
    parts = weights(3.0, 3.0)
    of_rollouts, evaluated, none = Best(parts, "score"), Best(parts, "eval_score"), Best(parts, None)
    for best in (of_rollouts, evaluated, none):
        best.after(4, {"score": 1.0, "eval_score": 1.0})
    assert [bool(best.facts) for best in (of_rollouts, evaluated, none)] == [False, True, False]


def test_a_model_wears_other_weights_only_while_it_is_written(tmp_path: Path) -> None:
    parts = weights(1.0, 2.0)
    seen: list[list[float]] = []

    def save(folder: Path) -> None:
        folder.mkdir()
        seen.append([float(part.detach()) for part in parts])

    with worn(parts, [torch.tensor([5.0]), torch.tensor([6.0])]):
        write_model(tmp_path / "best", save)
    assert seen == [[5.0, 6.0]]
    assert [float(part.detach()) for part in parts] == [1.0, 2.0]
    assert [item.name for item in tmp_path.iterdir()] == ["best"]


# --- in a run -----------------------------------------------------------------------------------------------------


@pytest.fixture
def given(stages: Stages, tmp_path: Path) -> Settings:
    """A policy, prompts, and a reward that wants answers with the letter e."""
    reward = tmp_path / "rewards.py"
    reward.write_text("def letters(prompt, response):\n    return float(response.count('e'))\n")
    return {"model": stages.sft_lora, "reward": f"{reward}:letters", "prompts": stages.prompts, "lora": LORA, **SHORT}


@pytest.mark.medium
def test_a_wire_stops_the_run_and_its_best_model_answers(
    given: Settings, stages: Stages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, steady = tmp_path / "ppo", {**given, "schedule": "constant", "warmup": 0.0}
    with pytest.raises(Tripped, match=r"stop_if\.kl: the KL to the start policy is") as caught:
        posttrain.ppo(**steady, out=out, steps=8, stop_if={"kl": 0.05})
    assert f"the best model so far is kept in {out}/run/best: step " in str(caught.value)
    run = Run.open(out)
    *healthy, last = run.metrics
    assert run.status == "failed"
    assert last["kl"] > 0.05  # the step that broke the rule is written down
    assert all(row["kl"] <= 0.05 for row in healthy)
    # the best weights are those that sampled the round with the highest objective, two updates to a round
    best = max(healthy, key=lambda row: row["objective"])
    assert run.record["kept"]["best"] == {"step": best["step"] - 1, "objective": best["objective"]}
    rounds, kept = (best["step"] - 1) // 2, load_file(out / "run" / "best" / "adapter_model.safetensors")
    if rounds:
        shorter = posttrain.ppo(**steady, out=tmp_path / "shorter", steps=rounds)
        expected = load_file(shorter.path / "adapter_model.safetensors")
        assert all(torch.equal(expected[name], kept[name]) for name in expected)
    words = f"sample {out}/run/best --prompts {stages.prompts} --out {tmp_path}/pool.jsonl --max_new_tokens 4 --quiet"
    assert main(words.split()) == 0
    capsys.readouterr()
    # the same command trips again at the same place; a higher wire goes on from the last checkpoint to the end
    file = out / "run" / "config.yaml"
    assert main(["ppo", str(file), "--quiet"]) == 4
    assert f"error: stopped at step {last['step']} by a trip wire" in capsys.readouterr().err
    assert main(["ppo", str(file), "--stop_if.kl", "1e9", "--quiet"]) == 0
    assert Run.open(out).record["resumes"][-1]["step"] == last["step"] - 1
    assert "stop_if.kl: 0.05 -> 1000000000.0, from here on" in (out / "run" / "log.txt").read_text()


@pytest.mark.medium
def test_the_average_and_the_best_stand_under_the_run_and_it_says_which_is_its_model(
    given: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ppo"
    run = posttrain.ppo(**{**given, "quiet": False}, out=out, steps=3, ema=0.5, best="score")
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(f"saved {out}, the last weights; the best in {out}/run/best (step ")
    assert said.endswith(f"; their average in {out}/run/ema (decay 0.5)")
    assert run.results["ema"] == {"decay": 0.5}
    best = max(run.metrics, key=lambda row: row["score"])
    assert run.results["best"]["score"] == best["score"]
    models = [load_file(folder / "adapter_model.safetensors") for folder in (out, out / "run/best", out / "run/ema")]
    assert len({tuple(float(tensor.sum()) for tensor in model.values()) for model in models}) == 3
    for name in ("best", "ema"):
        assert (out / "run" / name / "tokenizer.json").is_file()
        assert (out / "run" / name / "generation_config.json").is_file()
