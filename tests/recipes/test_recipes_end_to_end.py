"""Every command for a few steps on the tiny model, from the base to PPO and DPO on a stack of adapters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from stages import LORA, QUICK, Stages, write_rows
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig, PreTrainedModel

import posttrain
from posttrain.models.load import load_scalar
from posttrain.models.parity import gate_scalar
from posttrain.objectives import ScoreReader
from posttrain.recipes.scoring import answer_group, score_groups
from posttrain.run import Run
from posttrain.text.chat import Codec
from posttrain.types import Message, PromptRecord

pytestmark = pytest.mark.medium

Settings = Mapping[str, Any]
PPO: Settings = {
    "steps": 2, "rollouts": 8, "group": 2, "max_new_tokens": 12, "ppo_epochs": 2, "critic": {"warmup": 1},
    "learning_rate": 0.01, "quiet": True,
}  # fmt: skip


def weights(run: Path) -> dict[str, Tensor]:
    file = "adapter_model.safetensors" if (run / "adapter_config.json").is_file() else "model.safetensors"
    return load_file(run / file)


def commands(stages: Stages, lora: bool) -> dict[str, tuple[Callable[..., Run], Settings]]:
    """Each training command with settings that work, all weights or adapters."""
    adapters = {"lora": LORA} if lora else {}
    start, judge = (stages.sft_lora, stages.reward_lora) if lora else (stages.sft, stages.reward)
    quick = {"steps": 3, **QUICK, **adapters}
    return {
        "sft": (posttrain.sft, {"model": stages.base, "data": stages.chats, **quick}),
        "reward": (posttrain.reward, {"model": start, "data": stages.rankings, **quick}),
        "dpo": (posttrain.dpo, {"model": start, "data": stages.rankings, **quick}),
        "ppo": (posttrain.ppo, {"model": start, "reward": judge, "prompts": stages.prompts, **PPO, **adapters}),
    }


@pytest.mark.parametrize("lora", [False, True], ids=["weights", "lora"])
@pytest.mark.parametrize("command", ["sft", "reward", "dpo", "ppo"])
def test_two_identical_runs_give_identical_weights_and_metrics(
    command: str, lora: bool, stages: Stages, tmp_path: Path
) -> None:
    train, settings = commands(stages, lora)[command]
    runs = []
    for name in ("first", "second"):
        torch.rand(7)  # what else the process has drawn is of no account
        runs.append(train(out=tmp_path / name, **settings))
    first, second = (weights(run.path) for run in runs)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    metrics = [
        [{key: value for key, value in row.items() if "second" not in key and key != "time"} for row in run.metrics]
        for run in runs
    ]
    assert metrics[0] == metrics[1]
    third = weights(train(out=tmp_path / "third", **{**settings, "seed": 1}).path)
    assert any(not torch.equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize("lora", [False, True], ids=["weights", "lora"])
@pytest.mark.parametrize("command", ["sft", "dpo", "ppo"])
def test_a_run_folder_is_a_model_folder_and_keeps_its_record(
    command: str, lora: bool, stages: Stages, tmp_path: Path
) -> None:
    train, settings = commands(stages, lora)[command]
    run = train(out=tmp_path / "run", **settings)
    written = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    model = {"adapter_config.json", "adapter_model.safetensors"} if lora else {"config.json", "model.safetensors"}
    assert written >= model | {
        "tokenizer.json", "chat_template.jinja", "generation_config.json", "README.md",
        "run/config.yaml", "run/run.json", "run/metrics.jsonl", "run/log.txt",
    }  # fmt: skip
    assert run.status == "done"
    assert len(run.metrics) == (4 if command == "ppo" else 3)
    tokenizer = AutoTokenizer.from_pretrained(run.path)
    assert GenerationConfig.from_pretrained(run.path).eos_token_id in (
        tokenizer.eos_token_id,
        [tokenizer.eos_token_id],
    )
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "1 + 1 ="}], tokenize=False)
    assert "1 + 1 =" in asked


def test_every_loss_is_a_number_and_falls_where_it_must(stages: Stages, tmp_path: Path) -> None:
    found: dict[str, list[float]] = {}
    for command in ("sft", "reward", "dpo"):
        train, settings = commands(stages, lora=False)[command]
        run = train(out=tmp_path / command, **{**settings, "steps": 12, "schedule": "constant", "warmup": 0.0})
        found[command] = [row["loss"] for row in run.metrics]
    for command, losses in found.items():
        assert sum(losses[-4:]) < 0.9 * sum(losses[:4]), command
    assert found["dpo"][0] == pytest.approx(0.693147, abs=1e-6)


def test_lora_all_the_way_saves_one_adapter_against_the_first_base(stages: Stages, tmp_path: Path) -> None:
    train, settings = commands(stages, lora=True)["ppo"]
    run = train(out=tmp_path / "ppo", **settings)
    adapter = json.loads((run.path / "adapter_config.json").read_text())
    assert Path(adapter["base_model_name_or_path"]) == stages.base.resolve()
    assert adapter["r"] == 8  # the finetuning's 4 and the policy's own 4
    assert "layout adapters" in (run.path / "run" / "log.txt").read_text()
    start, trained = weights(stages.sft_lora), weights(run.path)
    for name, factor in start.items():
        if "lora_A" in name:
            assert torch.equal(trained[name][:4], factor), name


def raw_scores(run: Path) -> tuple[list[list[int]], Tensor]:
    """Conversations of unequal length as tokens, and our raw scores of them."""
    codec = Codec.load(str(run))
    asked = [PromptRecord(id=str(n), messages=(Message(role="user", content="?" * n),)) for n in (1, 9, 4)]
    answers = [codec.answer(record, text) for record, text in zip(asked, ("no", "yes, 12", ""), strict=True)]
    prompts = [codec.prompt(record).tokens for record in asked]
    scalar, own = load_scalar(str(run))
    assert gate_scalar(scalar, own).packing
    groups = [answer_group("", prompt, [answer]) for prompt, answer in zip(prompts, answers, strict=True)]
    tokens = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    return tokens, score_groups(ScoreReader(model=scalar), groups, budget=512)


def classifier_scores(model: PreTrainedModel | PeftModel, run: Path, tokens: list[list[int]]) -> Tensor:
    """The same conversations in one padded batch, padded as the folder's own tokenizer does it."""
    batch = AutoTokenizer.from_pretrained(run).pad({"input_ids": tokens}, return_tensors="pt", padding_side="right")
    with torch.no_grad():
        return model(**batch).logits.squeeze(-1)


def test_a_reward_run_scores_the_same_as_a_sequence_classifier(stages: Stages) -> None:
    tokens, expected = raw_scores(stages.reward)
    model = AutoModelForSequenceClassification.from_pretrained(stages.reward)
    torch.testing.assert_close(classifier_scores(model, stages.reward, tokens), expected, rtol=1e-5, atol=1e-5)
    assert float(expected.std()) > 1e-3


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_reward_adapter_scores_the_same_as_a_sequence_classifier_through_peft(stages: Stages) -> None:
    tokens, expected = raw_scores(stages.reward_lora)
    base = AutoModelForSequenceClassification.from_pretrained(stages.base, num_labels=1)
    model = PeftModel.from_pretrained(base, stages.reward_lora)
    torch.testing.assert_close(classifier_scores(model, stages.reward_lora, tokens), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("begin", ["<s>", "</s>"])
def test_a_classifier_never_pads_with_the_end_of_an_answer(begin: str, stages: Stages, tmp_path: Path) -> None:
    start = tmp_path / "start"
    shutil.copytree(stages.base, start)
    tokenizer = AutoTokenizer.from_pretrained(start, bos_token=begin, pad_token="</s>", unk_token=None)
    tokenizer.save_pretrained(start)
    run = posttrain.reward(model=start, data=stages.rankings, out=tmp_path / "reward", steps=1, **QUICK)
    saved = AutoTokenizer.from_pretrained(run.path)
    model = AutoModelForSequenceClassification.from_pretrained(run.path)
    assert saved.pad_token_id == model.config.pad_token_id != saved.eos_token_id
    tokens, expected = raw_scores(run.path)
    torch.testing.assert_close(classifier_scores(model, run.path, tokens), expected, rtol=1e-5, atol=1e-5)


def test_samples_and_measures_of_a_trained_model(stages: Stages, tmp_path: Path) -> None:
    out = posttrain.sample(stages.sft_lora, prompts=stages.prompts, out=tmp_path / "pool.jsonl", k=2, quiet=True,
                           max_new_tokens=8)  # fmt: skip
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 12
    assert all(len(row["responses"]) == len(row["stopped"]) == 2 for row in rows)
    found = posttrain.evaluate(stages.sft, data=stages.chats, against=stages.base, judge=stages.reward, quiet=True,
                               max_new_tokens=8)  # fmt: skip
    assert {"nll", "exact_match", "win_rate", "kl_per_answer", "median_tokens"} <= found.keys()
    accuracy = posttrain.evaluate(stages.reward_lora, data=stages.rankings, quiet=True)["accuracy"]
    assert accuracy["count"] == 16 * 2


def test_an_adapters_dropout_works_in_finetuning_and_is_off_when_it_is_measured(stages: Stages, tmp_path: Path) -> None:
    held = write_rows(tmp_path / "held.jsonl", [{"prompt": f"{n} - {n} =", "completion": "0"} for n in range(8)])

    def train(dropout: float, out: str) -> Run:
        lora = posttrain.Lora(rank=4, alpha=8.0, dropout=dropout)
        return posttrain.sft(
            model=stages.base, data=stages.chats, eval_data=held, out=tmp_path / out, steps=2, lora=lora,
            eval_every=1, learning_rate=0.05, quiet=True,
        )  # fmt: skip

    plain, dropped = train(0.0, "plain"), train(0.5, "dropped")
    assert plain.metrics[1]["loss"] != dropped.metrics[1]["loss"]
    # Measured after the last step and once more at the end: equal only without dropout.
    assert dropped.metrics[-1]["eval_loss"] == dropped.results["eval_loss"]


def test_no_other_command_takes_dropout(stages: Stages, tmp_path: Path) -> None:
    with pytest.raises(posttrain.ConfigError, match=r"lora\.dropout"):
        posttrain.dpo(
            model=stages.base, data=stages.rankings, out=tmp_path / "out", lora=posttrain.Lora(dropout=0.1), quiet=True
        )


def test_data_without_a_row_that_fits_is_an_error_and_not_a_run(stages: Stages, tmp_path: Path) -> None:
    with pytest.raises(posttrain.DataError, match="no row is left"):
        posttrain.sft(
            model=stages.base, data=stages.chats, eval_data=None, max_length=4, out=tmp_path / "out", quiet=True
        )
