"""Bad input through the real command line: exit 2, the place and the fix, no traceback, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from posttrain.cli import main

CHAT = {"prompt": "Say 1", "response": "1"}
RANKED = {"prompt": "Say 1", "responses": ["a", "b", "c"], "ranks": [1, 2, 3]}


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model, good rows of each kind, and nothing else."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, "model")
    write("chat.jsonl", json.dumps(CHAT))
    write("ranked.jsonl", json.dumps(RANKED))
    return tmp_path


def write(name: str, *lines: str) -> None:
    Path(name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def refused(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command says on standard error; it exits with 2 and writes nothing but what was there."""
    before = sorted(str(path) for path in Path().rglob("*"))
    code = main(list(words))
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert sorted(str(path) for path in Path().rglob("*")) == before
    return error.removeprefix("error: ")


def sft(data: str, *more: str) -> list[str]:
    return ["sft", "--model", "model", "--data", data, "--out", "out", *more]


def test_a_missing_file_names_the_nearest_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(sft("chta.jsonl"), capsys) == (
        "chta.jsonl  there is no such file or folder\n  fix: did you mean chat.jsonl?\n"
    )


def test_broken_json_names_line_and_column(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("broken.jsonl", json.dumps(CHAT), '{"prompt": "a" "response": "b"}')
    assert refused(sft("broken.jsonl"), capsys).startswith("broken.jsonl:2  broken JSON in column 16")


def test_empty_data_is_no_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("empty.jsonl")
    assert refused(sft("empty.jsonl"), capsys).startswith("empty.jsonl  the file is empty")


def test_the_wrong_kind_says_which_command_takes_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(["reward", "--model", "model", "--data", "chat.jsonl", "--out", "out"], capsys)
    assert error.startswith("chat.jsonl  this looks like chat data")
    assert "sft takes this file" in error


def test_ranks_must_be_as_many_as_responses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("ranks.jsonl", json.dumps({**RANKED, "ranks": [1, 2]}))
    error = refused(["reward", "--model", "model", "--data", "ranks.jsonl", "--out", "out"], capsys)
    assert error.startswith("ranks.jsonl:1  3 responses but 2 ranks")


def test_an_unknown_setting_gets_a_suggestion(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(sft("chat.jsonl", "--max_lenght", "8"), capsys) == (
        "--max_lenght  unknown flag; did you mean --max_length?\n"
    )


def test_a_model_folder_without_weights_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model" / "model.safetensors").unlink()
    assert refused(sft("chat.jsonl"), capsys).startswith("model has no weights: no *.safetensors file\n  fix: ")


def test_a_folder_with_only_a_pickle_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "model" / "model.safetensors").rename(folder / "model" / "pytorch_model.bin")
    assert "pickles are never loaded" in refused(sft("chat.jsonl"), capsys)


@pytest.mark.parametrize("command", ["sample", "ppo"])
def test_a_prompt_longer_than_the_context_is_named(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("long.jsonl", json.dumps({"prompt": "word " * 2000}))
    words = ["sample", "model", "--prompts", "long.jsonl", "--out", "pool.jsonl"]
    if command == "ppo":
        write("rewards.py", "def short(prompt, response):", "    return -len(response)")
        words = ["ppo", "--model", "model", "--reward", "rewards.py:short", "--prompts", "long.jsonl", "--out", "out"]
    error = refused(words, capsys)
    assert error.startswith("long.jsonl:1  the prompt has ")
    assert "leaves no room for an answer" in error


def test_an_out_path_with_other_files_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("mine")
    assert "holds files that no run wrote: thesis.txt" in refused(sft("chat.jsonl"), capsys)


def test_a_reward_that_is_no_reward_model_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ppo", "--model", "model", "--reward", "model", "--prompts", "chat.jsonl", "--out", "out"]
    assert refused(words, capsys).startswith("model is no reward model: it has no reward.json")


@pytest.mark.parametrize(
    ("card", "says"),
    [
        ("x", "cannot be read as JSON: Expecting value"),
        ("[]", "holds a list, expected an object"),
        ('{"shift": 0.0, "score_at": "last"}', "has no scale"),
        ('{"shift": "0", "scale": 1.0, "score_at": "last"}', "shift is '0', which it cannot be"),
        ('{"shift": 0.0, "scale": 0.0, "score_at": "last"}', "shift 0.0 and scale 0.0 make no score of a number"),
        ('{"shift": 1e999, "scale": 1.0, "score_at": "last"}', "shift inf and scale 1.0 make no score of a number"),
        (f'{{"shift": 1, "scale": {10**400}, "score_at": "last"}}', "shift 1 and scale 1000"),
        ("[" * 100_000, "cannot be read as JSON: maximum recursion depth exceeded"),
        ('{"shift": 0.0, "scale": 1.0, "score_at": "end"}', "score_at is 'end', expected last or mean"),
    ],
)
def test_a_damaged_card_of_a_reward_model_is_named_with_what_is_wrong(
    card: str, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "rm").mkdir()
    (folder / "rm" / "config.json").write_text("{}")
    (folder / "rm" / "reward.json").write_text(card)
    words = ["ppo", "--model", "model", "--reward", "rm", "--prompts", "chat.jsonl", "--out", "out"]
    assert refused(words, capsys).startswith(f"rm/reward.json  {says}")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("x", "adapter/adapter_config.json  cannot be read as JSON"),
        ("{}", "adapter/adapter_config.json  has no base_model_name_or_path"),
        ('{"base_model_name_or_path": null}', "adapter/adapter_config.json  base_model_name_or_path is None"),
        (
            '{"base_model_name_or_path": "model", "peft_type": "IA3", "target_modules": ["q_proj"]}',
            "adapter/adapter_config.json  is of ",
        ),
        (
            '{"base_model_name_or_path": "model", "peft_type": "LORA", "target_modules": ["q_proj"]}',
            "adapter/adapter_model.safetensors cannot be read: ",
        ),
    ],
)
def test_a_damaged_adapter_is_named_with_what_is_wrong(
    config: str, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text(config)
    (folder / "adapter" / "adapter_model.safetensors").write_text("junk")
    assert refused(["merge", "adapter", "--out", "out"], capsys).startswith(says)


def test_a_pool_is_never_written_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("pool.jsonl", "mine")
    words = ["sample", "model", "--prompts", "chat.jsonl", "--out", "pool.jsonl"]
    assert refused(words, capsys).startswith("pool.jsonl exists")


@pytest.mark.parametrize(
    "words",
    [
        ["ppo", "--reward", "none", "--out", "out", "--prompts"],
        ["sample", "--out", "out", "--prompts"],
        ["eval", "--data"],
    ],
    ids=lambda words: words[0],
)
def test_a_weight_means_nothing_where_every_row_is_used_once(
    words: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused([*words, "{path: chat.jsonl, weight: 2}", "--model", "model"], capsys)
    assert "chat.jsonl  every row is used once here\n  fix: leave the weight out\n" in said


def test_a_length_that_cuts_every_end_of_turn_off_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("long.jsonl", *(json.dumps({"prompt": f"Count to {n}", "response": "1 2 3 4 " * 30}) for n in range(8)))
    said = refused(sft("long.jsonl", "--max_length", "40", "--overlong", "truncate"), capsys)
    assert "is never trained: the model would not learn to stop" in said
    assert "fix: raise max_length, or set overlong to drop" in said


@pytest.mark.parametrize("out", ["chat.jsonl", "./chat.jsonl", "ranked.jsonl", "model", "chat.jsonl/new.json"])
@pytest.mark.parametrize("command", ["check", "eval", "sample"])
def test_a_file_that_stands_already_is_never_written_over(
    command: str, out: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {
        "check": ["check", "chat.jsonl", "--out", out],
        "eval": ["eval", "model", "--data", "chat.jsonl", "--out", out],
        "sample": ["sample", "model", "--prompts", "chat.jsonl", "--out", out],
    }
    kept = Path("chat.jsonl").read_text()
    refused(words[command], capsys)
    assert Path("chat.jsonl").read_text() == kept


def test_fresh_answers_never_replace_their_prompts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = Path("chat.jsonl").read_text()
    words = ["sample", "model", "--prompts", "chat.jsonl", "--out", "chat.jsonl", "--fresh"]
    assert refused(words, capsys) == "chat.jsonl is what this command reads\n  fix: give another --out\n"
    assert Path("chat.jsonl").read_text() == kept


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def short(prompt, response)\n    return 1\n", "rewards.py:1  cannot be run: SyntaxError: expected ':'\n"),
        (
            "x = 1\nimport no_such_module\n",
            "rewards.py:2  cannot be run: ModuleNotFoundError: No module named 'no_such_module'\n",
        ),
    ],
)
def test_a_file_of_rewards_that_cannot_be_run_is_named_with_its_line(
    code: str, says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rewards.py").write_text(code)
    words = ["ppo", "--model", "model", "--reward", "rewards.py:short", "--prompts", "chat.jsonl", "--out", "out"]
    assert refused(words, capsys) == says + "  fix: mend the file\n"


@pytest.mark.parametrize("command", ["sft", "dpo", "ppo", "sample"])
def test_a_reward_model_is_no_model_to_write_with(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model" / "reward.json").write_text("{}")
    write("rewards.py", "def short(prompt, response):", "    return -len(response)")
    words = {
        "sft": sft("chat.jsonl"),
        "dpo": ["dpo", "--model", "model", "--data", "ranked.jsonl", "--out", "out"],
        "ppo": ["ppo", "--model", "model", "--reward", "rewards.py:short", "--prompts", "chat.jsonl", "--out", "out"],
        "sample": ["sample", "model", "--prompts", "chat.jsonl", "--out", "pool.jsonl"],
    }
    assert refused(words[command], capsys).startswith(
        "model is a reward model: it scores answers and writes none\n  fix"
    )
