"""What automatic settings come to is said, kept in run.json, and printed by a dry run as settings that run."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from posttrain.cli import main
from posttrain.config import PPOConfig, SFTConfig, load_config, make_config
from posttrain.config.automatic import auto_best_of_rows, resolved
from posttrain.console import open_console


def test_what_was_chosen_replaces_auto_and_nothing_else() -> None:
    given = {"model": "m", "reward": "r", "prompts": "p", "out": "o", "max_length": 64}
    config = make_config(PPOConfig, given)
    found = resolved(config, {"max_length": 512, "learning_rate": 1e-3, "critic.learning_rate": 2e-3})
    assert (found.max_length, found.learning_rate, found.critic.learning_rate) == (64, 1e-3, 2e-3)
    assert found.precision == "auto"


def test_a_choice_is_said_and_kept() -> None:
    stream = io.StringIO()
    console = open_console(stream=stream)
    console.choose("precision", "fp32", "precision fp32: few CPUs are faster in bf16")
    assert console.choices == {"precision": "fp32"}
    assert stream.getvalue() == "precision fp32: few CPUs are faster in bf16\n"


@pytest.mark.parametrize(
    ("passes", "evaluations", "measure", "reason"),
    [
        (3.0, 10, "eval_loss", "best eval_loss: 3 passes over the rows may be too many"),
        (1.5, 2, "eval_loss", "best eval_loss: 1.5 passes over the rows may be too many"),
        (1.49, 10, None, "best null: the rows are passed over once"),
        (3.0, 1, None, "best null: only the last weights are evaluated"),
        (3.0, 0, None, "best null: nothing is evaluated"),
    ],
)
def test_the_best_weights_are_kept_where_the_last_ones_may_be_worse(
    passes: float, evaluations: int, measure: str | None, reason: str
) -> None:
    assert auto_best_of_rows("auto", passes=passes, evaluations=evaluations) == (measure, reason)
    for asked in (None, "eval_accuracy"):
        assert auto_best_of_rows(asked, passes=passes, evaluations=evaluations) == (asked, "")


@pytest.mark.medium
def test_a_dry_run_prints_settings_without_auto_and_the_run_notes_them(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("chat.jsonl").write_text('{"prompt": "Say 1", "response": "1"}\n' * 2, encoding="utf-8")
    words = ["sft", "--model", str(tiny_model), "--data", "chat.jsonl", "--out", "out", "--eval_data", "null"]
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    Path("again.yaml").write_text(said[said.index("version: 1") : said.index("what this run takes")], encoding="utf-8")
    again = load_config(SFTConfig, "again.yaml", {})
    assert "auto" not in (again.learning_rate, again.precision, again.max_length, again.micro_batch_tokens)
    assert main(words) == 0
    automatic = json.loads(Path("out/run/run.json").read_text(encoding="utf-8"))["automatic"]
    assert automatic["learning_rate"] == again.learning_rate
    assert automatic["micro_batch_tokens"] == again.micro_batch_tokens


def test_prompts_without_room_for_all_tokens_and_rows_left_out_are_said(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.jsonl").write_text('{"prompt": "Say 1"}\n', encoding="utf-8")
    words = ["sample", str(tiny_model), "--prompts", "prompts.jsonl", "--out", "pool.jsonl", "--max_new_tokens", "9999"]
    assert main(words) == 0
    assert "max_new_tokens 9,999: 1 of 1 prompt can have only shorter answers, within " in capsys.readouterr().out
    rows = '{"prompt": "Say 1", "response": "1"}\n{"prompt": "Say 2", "response": ""}\n'
    Path("chat.jsonl").write_text(rows, encoding="utf-8")
    settings = ["--eval_data", "null", "--max_bad", "50%"]
    assert main(["sft", "--model", str(tiny_model), "--data", "chat.jsonl", "--out", "out", *settings]) == 0
    said = capsys.readouterr().out
    assert (
        "what is left out as bad is listed in out/run/problems.jsonl; the first: chat.jsonl:2  response is empty"
        in said
    )
