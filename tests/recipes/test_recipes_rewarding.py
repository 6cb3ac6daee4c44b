"""Rewards in real runs: sums, ensembles, Python functions, other tokenizers, and answers that have no score."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from stages import LORA, QUICK, Stages, write_rows
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import posttrain
from posttrain import hub
from posttrain.config import PPOConfig, make_config
from posttrain.console import open_console
from posttrain.data.pack import Budget
from posttrain.data.readers import read
from posttrain.errors import ModelError, RunExists
from posttrain.objectives import ScoreReader
from posttrain.ops.ensemble import lower_bound
from posttrain.recipes import setup
from posttrain.recipes.ppo import ppo
from posttrain.recipes.roles import Roles, cast_roles
from posttrain.recipes.scoring import answer_group, score_groups
from posttrain.run import Run
from posttrain.text.chat import Codec
from posttrain.types import Completion, Grader, PromptRecord, SamplingSpec

pytestmark = pytest.mark.medium
PPO: Mapping[str, Any] = {
    "steps": 2, "rollouts": 6, "group": 2, "max_new_tokens": 8, "ppo_epochs": 1, "critic": {"warmup": 0},
    "learning_rate": 0.01, "quiet": True,
}  # fmt: skip


def short(prompt: str, response: str) -> float:
    return -0.001 * len(response)


def fails_on_30(prompt: str, response: str) -> float:
    if prompt.startswith("30"):
        raise KeyError("thirty")
    return float(len(response))


@pytest.fixture(scope="module")
def second(stages: Stages, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Another reward model of all weights, another adapter, and one that reads with another template."""
    folder = tmp_path_factory.mktemp("second")
    plain = {"data": stages.rankings, "steps": 4, **QUICK, "seed": 5}
    posttrain.reward(model=stages.sft, out=folder / "weights", **plain)
    posttrain.reward(model=stages.sft_lora, out=folder / "lora", lora=LORA, **plain)
    posttrain.reward(model=stages.sft, out=folder / "notes", template="notes", score_at="mean", **plain)
    return {name: folder / name for name in ("weights", "lora", "notes")}


def cast(stages: Stages, model: Path, reward: object, **settings: Any) -> tuple[Roles, list[Completion]]:
    """The models of these settings, and two answers to each of four prompts by the start policy."""
    values = {"model": model, "reward": reward, "prompts": stages.prompts, "out": "unused", **settings}
    config, codec = make_config(PPOConfig, values), Codec.load(str(model))
    where = setup.machine()
    roles = cast_roles(config, codec, where, Budget(512), open_console(quiet=True))
    records = [record for record in read(str(stages.prompts), ("prompt",)).records if isinstance(record, PromptRecord)]
    sampler = setup.sampler(roles.start.policy, codec, roles.start.context, where)
    return roles, sampler(codec.prompts(records[:4]), SamplingSpec(max_new_tokens=8, samples=2, seed=3))


def scores_of(stages: Stages, model: Path, reward: Path, answers: Sequence[Completion]) -> Tensor:
    """What a reward model alone gives the answers."""
    return cast(stages, model, reward)[0].scorer(answers)


# --- sums and ensembles ----------------------------------------------------------------------------------------------


def test_a_sum_of_models_and_functions_is_what_each_of_them_says_alone(
    stages: Stages, second: Mapping[str, Path]
) -> None:
    mixture = [
        {"reward": stages.reward, "weight": 2.0},
        {"reward": short, "weight": -3.0},
        {"ensemble": [stages.reward, second["weights"]], "combine": "lower_bound", "deviations": 0.5, "name": "both"},
    ]
    roles, answers = cast(stages, stages.sft, mixture)
    one, other = (scores_of(stages, stages.sft, path, answers) for path in (stages.reward, second["weights"]))
    lengths = torch.tensor([-0.001 * len(answer.text) for answer in answers])
    assert isinstance(roles.scorer, Grader)
    found = roles.scorer.grade(answers)
    both = lower_bound(torch.stack([one, other]), 0.5)
    torch.testing.assert_close(found.total, 2 * one - 3 * lengths + both, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.parts["score/both"], both, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.parts["disagreement/both"], (one - other).abs() / 2, rtol=1e-5, atol=1e-5)


def test_a_run_from_python_with_a_model_and_a_function_writes_each_parts_mean(stages: Stages, tmp_path: Path) -> None:
    run = posttrain.ppo(
        model=stages.sft, reward=[stages.reward, short], prompts=stages.prompts, out=tmp_path / "run", **PPO
    )
    for row in run.metrics:
        assert row["score"] == pytest.approx(row["score/reward"] + row["score/short"], abs=1e-5)
        assert row["score/short"] < 0
    kept = pq.read_table(tmp_path / "run" / "run" / "inspect" / "step-000001.parquet").to_pylist()
    for answer in kept:
        assert answer["score"] == pytest.approx(answer["score/reward"] + answer["score/short"], abs=1e-5)
    spec = run.config.model_dump()["reward"][1]["reward"]
    assert Path(spec.rpartition(":")[0]).resolve() == Path(__file__).resolve()
    record = run.record
    assert record["functions"][spec].startswith("def short(")
    assert set(record["parents"]) == {"model", f"reward/{stages.reward}", f"reward/{spec}"}
    assert str(Path(__file__)) not in record["files"], "the rest of the file is no part of the run"
    again = posttrain.ppo(
        model=stages.sft, reward=[stages.reward, short], prompts=stages.prompts, out=tmp_path / "run", **PPO
    )
    assert again.record["id"] == record["id"]


def test_another_body_of_a_function_makes_another_run(stages: Stages, tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    settings = {"model": stages.sft, "prompts": stages.prompts, "out": tmp_path / "run", **PPO, "steps": 1}
    for number, factor in enumerate((1.0, 2.0)):
        names: dict[str, Any] = {}
        exec(compile(f"def mine(prompt, response): return {factor} * len(response)", "<stdin>", "exec"), names)
        found[str(number)] = names["mine"]
    posttrain.ppo(reward=found["0"], **settings)
    with pytest.raises(RunExists, match="<session>:mine: its content changed"):
        posttrain.ppo(reward=found["1"], **settings)


def test_a_quarter_and_three_quarters_of_a_reward_model_train_as_the_whole(stages: Stages, tmp_path: Path) -> None:
    settings = {"model": stages.sft, "prompts": stages.prompts, **PPO, "critic": {"warmup": 0, "init": "policy"}}
    sums = [{"reward": stages.reward, "weight": 0.25}, {"reward": stages.reward, "weight": 0.75}]
    summed = posttrain.ppo(reward=sums, out=tmp_path / "sum", **settings)
    same = posttrain.ppo(reward=stages.reward, out=tmp_path / "same", **settings)
    for one, other in zip(summed.metrics, same.metrics, strict=True):
        for name in ("score", "reward", "kl", "actor_loss", "critic_loss"):
            assert one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-6), name


# --- critic and layout -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["adapters", "separate"])
def test_the_critic_starts_from_the_only_reward_model_with_its_weight(layout: str, stages: Stages) -> None:
    mixture = [{"reward": stages.reward_lora, "weight": -2.0}, short]
    roles, answers = cast(stages, stages.sft_lora, mixture, lora=LORA, layout=layout)
    assert roles.layout == layout
    alone = scores_of(stages, stages.sft, stages.reward_lora, answers)
    critic = roles.critic
    assert critic is not None
    groups = [answer_group(done.prompt.id, done.prompt.tokens, [done.tokens]) for done in answers]
    values = score_groups(ScoreReader(model=critic, mean=False), groups, 512)
    torch.testing.assert_close(values, -2.0 * alone, rtol=1e-4, atol=1e-4)


def test_several_adapters_score_on_the_policys_own_base_as_they_do_apart(
    stages: Stages, second: Mapping[str, Path]
) -> None:
    ensemble = {"ensemble": [stages.reward_lora, second["lora"]], "combine": "min"}
    found: list[Tensor] = []
    for layout in ("adapters", "separate"):
        roles, answers = cast(stages, stages.sft_lora, ensemble, lora=LORA, layout=layout)
        found.append(roles.scorer(answers))
        assert roles.critic is not None
        assert roles.critic.shift == 0.0, "with two reward models the critic starts from the policy"
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
    one, other = (scores_of(stages, stages.sft, path, answers) for path in (stages.reward_lora, second["lora"]))
    torch.testing.assert_close(found[0], torch.minimum(one, other), rtol=1e-5, atol=1e-5)


# --- a reward model that reads with its own tokenizer and template ---------------------------------------------------


def test_a_reward_model_with_its_own_template_scores_the_text_as_it_would_by_itself(
    stages: Stages, second: Mapping[str, Path]
) -> None:
    path = second["notes"]
    roles, answers = cast(stages, stages.sft, path)
    found = roles.scorer(answers)
    own = Codec.load(str(path))
    assert own.template.jinja != Codec.load(str(stages.sft)).template.jinja
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    card = json.loads((path / "reward.json").read_text())
    for answer, score in zip(answers, found.tolist(), strict=True):
        record = answer.prompt.record
        assert record.messages is not None
        prompt = own.prompt(record).tokens
        text = own.answer(record, answer.text, ended=answer.stopped)
        ids = torch.tensor([[*prompt, *text]])
        with torch.no_grad():
            hidden = model.model(ids).last_hidden_state[0]
            raw = model.score(hidden)[len(prompt) :, 0].mean()  # score_at: mean
        assert score == pytest.approx((float(raw) - card["shift"]) / card["scale"], abs=1e-4)


def test_a_reward_model_with_another_tokenizer_scores_the_text_as_it_would_by_itself(
    stages: Stages, tmp_path: Path
) -> None:
    # The same bytes under other ids: a policy's tokens would mean something else to it.
    base, other = stages.base, tmp_path / "other"
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    words = sorted((word for word in vocabulary if len(word) == 1), key=vocabulary.get)
    turned = dict(zip(words, [vocabulary[word] for word in reversed(words)], strict=True))
    tokenizer["model"]["vocab"] = {**vocabulary, **turned}
    other.mkdir()
    for file in base.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    rm = posttrain.reward(model=other, data=stages.rankings, out=tmp_path / "rm", steps=2, **QUICK)
    roles, answers = cast(stages, stages.sft, rm.path)
    words_of = AutoTokenizer.from_pretrained(rm.path)
    model = AutoModelForSequenceClassification.from_pretrained(rm.path).eval()
    card = json.loads((rm.path / "reward.json").read_text())
    own = Codec.load(str(rm.path))
    for answer, score in zip(answers, roles.scorer(answers).tolist(), strict=True):
        # the plain template writes a space between what asks and the answer
        ids = [*own.prompt(answer.prompt.record).tokens, *words_of.encode(f" {answer.text}", add_special_tokens=False)]
        ids += [own.end_of_turn] if answer.stopped else []
        with torch.no_grad():
            raw = float(model(torch.tensor([ids])).logits)
        assert score == pytest.approx((raw - card["shift"]) / card["scale"], abs=1e-4)


# --- answers without a score -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"prompt": f"{n} + {n} =", "answer": str(2 * n)} for n in (28, 29, 30)]
    return write_rows(tmp_path_factory.mktemp("prompts") / "asked.jsonl", rows)


def test_answers_that_a_function_fails_on_are_told_and_the_run_goes_on(
    stages: Stages, prompts: Path, tmp_path: Path
) -> None:
    run = posttrain.ppo(
        model=stages.sft, reward=fails_on_30, prompts=prompts, out=tmp_path / "run", functions={"max_failures": "40%"},
        **PPO,
    )  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "run" / "run" / "reward_failures.jsonl").read_text().splitlines()]
    assert [(row["step"], row["sample"], row["error"]) for row in rows] == [
        (step, sample, "KeyError: 'thirty'") for step in (1, 2) for sample in (0, 1)
    ]
    assert all(row["prompt"].endswith("asked.jsonl:3") and row["reward"] == "fails_on_30" for row in rows)
    assert [row["unscored"] for row in run.metrics] == [2.0, 2.0]
    assert "step 1: 2 of 6 answers have no score and take no part" in (tmp_path / "run" / "run" / "log.txt").read_text()


def test_too_many_failures_stop_the_run_which_goes_on_when_more_are_allowed(
    stages: Stages, prompts: Path, tmp_path: Path
) -> None:
    settings = {"model": stages.sft, "reward": fails_on_30, "prompts": prompts, "out": tmp_path / "run", **PPO}
    with pytest.raises(ModelError, match="2 of 6 answers have no score, more than max_failures 5%") as caught:
        posttrain.ppo(**settings)
    assert "KeyError: 'thirty'" in str(caught.value)
    assert (tmp_path / "run" / "run" / "reward_failures.jsonl").read_text().count("thirty") == 2
    assert posttrain.ppo(functions={"max_failures": "50%"}, **settings).status == "done"


def test_a_missing_column_is_told_before_anything_is_loaded(stages: Stages, prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text("def f(prompt, response, label):\n    return 1.0\n", encoding="utf-8")
    with pytest.raises(posttrain.DataError, match="takes 'label', which is no column of 3 prompts; columns: answer"):
        posttrain.ppo(model=stages.sft, reward=f"{tmp_path / 'r.py'}:f", prompts=prompts, out=tmp_path / "run", **PPO)


def test_columns_reach_the_function_in_a_run(stages: Stages, prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text(
        "async def f(prompt, response, answer):\n    return float(answer) + float(prompt.split()[0]) / 100\n", "utf-8"
    )
    settings = {"model": stages.sft, "prompts": prompts, "out": tmp_path / "run", **PPO, "steps": 1}
    run = posttrain.ppo(reward=f"{tmp_path / 'r.py'}:f", **settings)
    assert run.metrics[0]["score"] == pytest.approx(2 * 29 + 0.29, abs=1e-4)


_CALLS: dict[str, int] = {"left": 0}


def stops_once(prompt: str, response: str) -> float:
    """Asks the run to stop when so many calls are made; fails on one prompt."""
    _CALLS["left"] -= 1
    if _CALLS["left"] == 0:
        signal.raise_signal(signal.SIGINT)
    return fails_on_30(prompt, response)


def test_a_run_with_failures_goes_on_as_if_it_had_never_stopped(stages: Stages, prompts: Path, tmp_path: Path) -> None:
    settings = {
        "model": stages.sft, "reward": [{"reward": stages.reward, "weight": 0.5}, stops_once], "prompts": prompts,
        **PPO, "steps": 3, "save_every": 1, "functions": {"max_failures": "50%"}, "reward_scale": "running",
    }  # fmt: skip
    _CALLS["left"] = 0
    whole = posttrain.ppo(out=tmp_path / "whole", **settings)
    _CALLS["left"] = 9  # in the middle of the second step's answers
    with pytest.raises(KeyboardInterrupt):
        posttrain.ppo(out=tmp_path / "stopped", **settings)
    # what is left in the file from after the checkpoint must go
    failures = tmp_path / "stopped" / "run" / "reward_failures.jsonl"
    with failures.open("a", encoding="utf-8") as file:
        file.write('{"step": 2}\n')
    stopped = posttrain.ppo(out=tmp_path / "stopped", **settings)
    assert stopped.record["resumes"][0]["step"] == 1
    assert failures.read_text() == (tmp_path / "whole" / "run" / "reward_failures.jsonl").read_text()
    rows = [[{**row, "seconds": 0} for row in run.metrics] for run in (whole, stopped)]
    assert rows[0] == rows[1]
    first, second = (load_file(run.path / "model.safetensors") for run in (whole, stopped))
    assert all(torch.equal(first[name], second[name]) for name in first)


# --- judges ----------------------------------------------------------------------------------------------------------


def test_a_judge_is_a_sum_too_and_what_it_fails_on_is_left_out_of_every_mean(
    stages: Stages, prompts: Path, tmp_path: Path
) -> None:
    found = posttrain.evaluate(
        stages.sft, data=prompts, judge=[fails_on_30, {"reward": short, "weight": 2.0}], against=stages.base,
        functions={"max_failures": "50%"}, max_new_tokens=6, out=tmp_path / "found.json", quiet=True,
    )  # fmt: skip
    assert found["judge_score"] == pytest.approx(
        found["judge score/fails_on_30"] + 2 * found["judge score/short"], abs=0.01
    )
    assert found["win_rate"]["count"] == 2
    assert found["unjudged"] == 2  # one answer of each model
    assert json.loads((tmp_path / "found.json").read_text())["judge_failures"][0]["error"] == "KeyError: 'thirty'"
    with pytest.raises(ModelError, match="1 of 3 answers have no score, more than max_failures 5%"):
        posttrain.evaluate(stages.sft, data=prompts, judge=fails_on_30, max_new_tokens=6, quiet=True)


def test_an_ensemble_judges_with_its_disagreement(stages: Stages, second: Mapping[str, Path], prompts: Path) -> None:
    judge = {"ensemble": [stages.reward, second["weights"]]}
    found = posttrain.evaluate(stages.sft, data=prompts, judge=judge, max_new_tokens=6, quiet=True)
    assert found["judge disagreement/ensemble"] > 0


def test_the_record_of_a_run_with_functions_reads_back(stages: Stages, prompts: Path, tmp_path: Path) -> None:
    config = make_config(
        PPOConfig, {"model": stages.sft, "reward": short, "prompts": prompts, "out": tmp_path / "run", **_few()}
    )
    run = ppo(config, console=open_console(quiet=True))
    assert Run.open(run.path).config.model_dump() == config.model_dump()


def _few() -> dict[str, Any]:
    return {name: value for name, value in PPO.items() if name != "quiet"} | {"steps": 1}


# --- reward models of others -----------------------------------------------------------------------------------------


def theirs(stages: Stages, folder: Path) -> Path:
    """A classifier with one output that no posttrain wrote, with the tokenizer of the base."""
    config = AutoConfig.from_pretrained(stages.base, num_labels=1)
    torch.manual_seed(9)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(stages.base).save_pretrained(folder)
    return folder


def test_a_classifier_of_others_with_one_output_scores_as_it_stands(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = theirs(stages, tmp_path / "theirs")
    roles, answers = cast(stages, stages.sft, folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for answer, score in zip(answers, roles.scorer(answers).tolist(), strict=True):
        with torch.no_grad():
            raw = float(model(torch.tensor([[*answer.prompt.tokens, *answer.tokens]])).logits)
        assert score == pytest.approx(raw, abs=1e-4)
    # the same by a name of the hub, of which a copy is here
    cache = tmp_path / "cache" / "models--someone--reward"
    shutil.copytree(folder, cache / "snapshots" / "a1")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("a1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub._answers.cache_clear()  # pyright: ignore[reportPrivateUsage]  # what was asked before
    again, _ = cast(stages, stages.sft, "someone/reward")
    hub._answers.cache_clear()  # pyright: ignore[reportPrivateUsage]
    assert torch.equal(again.scorer(answers), roles.scorer(answers))


def test_a_model_that_scores_nothing_is_no_reward(stages: Stages) -> None:
    with pytest.raises(ModelError, match=r"is no reward model: it has no reward\.json, and is no classifier with one"):
        cast(stages, stages.sft, stages.base)


def test_a_file_without_the_name_of_a_function_is_told_how_to_write_it(stages: Stages, tmp_path: Path) -> None:
    (tmp_path / "r.py").write_text("def f(prompt, response):\n    return 1.0\n", encoding="utf-8")
    with pytest.raises(ModelError, match=r"r\.py names no function\n  fix: write .*r\.py:NAME"):
        posttrain.ppo(model=stages.sft, reward=tmp_path / "r.py", prompts=stages.prompts, out=tmp_path / "run", **PPO)
