"""What `posttrain init` prints: a file that loads, and a schema that says of files what loading says."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from posttrain.cli import main
from posttrain.config import CONFIGS, json_schema, leaves, load_config, starter_yaml
from posttrain.errors import ConfigError

EVERY = pytest.mark.parametrize("config", list(CONFIGS.values()), ids=lambda config: config.command)
THEIRS = Path(__file__).parent / "foreign"
LEAST = "model: m\ndata: train.jsonl\nout: run\n"


def plain(text: str) -> Any:
    """A YAML file as plain values."""
    return YAML(typ="safe").load(io.StringIO(text))


@EVERY
def test_the_printed_file_loads_with_every_setting_at_its_default(config: type, tmp_path: Path) -> None:
    text = starter_yaml(config)
    file = tmp_path / "settings.yaml"
    file.write_text(text, encoding="utf-8")
    made = load_config(config, file, {})
    given = plain(text)
    assert list(given) == [name for name in given if name in config.model_fields]
    assert set(given) == set(config.model_fields)
    for leaf in leaves(config):
        if "." not in leaf.name and not leaf.field.is_required():
            assert getattr(made, leaf.name) == leaf.default, leaf.name


@EVERY
def test_required_settings_are_marked_and_every_setting_is_explained(config: type) -> None:
    text = starter_yaml(config)
    marked = {line.split(":")[0] for line in text.splitlines() if "# REQUIRED" in line}
    assert marked == {name for name, info in config.model_fields.items() if info.is_required()}
    for leaf in leaves(config):
        null_at_first = {"lora", "stop_if", "ptx", "annotator"} & {*leaf.name.split(".")[:-1]}
        assert leaf.field.description in text or null_at_first, leaf.name
    assert f"posttrain {config.command} {config.command}.yaml" in text


@EVERY
def test_the_schema_is_one_and_takes_the_printed_file(config: type) -> None:
    schema = json_schema(config)
    Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(config.model_fields)
    assert all(part.get("description") for part in schema["properties"].values())
    assert not list(Draft202012Validator(schema).iter_errors(plain(starter_yaml(config))))


@pytest.mark.parametrize(
    "line",
    [
        "learning_rate: 1e-4", "learning_rate: auto", "eval_data: 2%", "eval_data: held.jsonl", "eval_data: null",
        "eval_every: 50", "eval_every: 12.5%", "lora: null", "lora: {rank: 8}", "lora: {targets: [q_proj]}",
        "samples: one", "samples: [a, b]", "max_bad: 100%", "grad_clip: null", "max_length: 512", "steps: 5",
        "template: notes", "seed: 0",
    ],
)  # fmt: skip
def test_a_right_line_is_right_for_both(line: str, tmp_path: Path) -> None:
    assert judged(LEAST + line, tmp_path) == (True, True)


@pytest.mark.parametrize(
    "line",
    [
        "learning_rate: fast", "learning_rate: -1", "learning_rate: 0", "batch_size: 0", "batch_size: 1.5",
        "batch_size: '32'", "max_lenght: 5", "lora: 8", "lora: {alhpa: 2}", "lora: {dropout: 1}", "eval_every: 0.1",
        "eval_every: 110%", "max_bad: 5", "max_bad: 101%", "schedule: cosin", "packing: true", "version: 2",
        "warmup: 1.1", "samples: [1]", "samples: ['']", "seed: -1", "model: null", "lora_r: 8",
    ],
)  # fmt: skip
def test_a_wrong_line_is_wrong_for_both(line: str, tmp_path: Path) -> None:
    text = LEAST.replace("model: m\n", "") if line.startswith("model") else LEAST
    assert judged(text + line, tmp_path) == (False, False)


@pytest.mark.parametrize(
    ("data", "right"),
    [
        ("train.jsonl", True),
        ("[a.jsonl, {path: b.jsonl, weight: 2, columns: {prompt: q}}]", True),
        ("{path: owner/name, subset: en, split: train}", True),
        ("[]", False),
        ("{weight: 2}", False),
        ("[{path: a, type: alpaca}]", False),
    ],
)
def test_sources_of_rows_are_judged_alike(data: str, right: bool, tmp_path: Path) -> None:
    assert judged(f"model: m\nout: run\ndata: {data}\n", tmp_path) == (right, right)


@pytest.mark.parametrize(("name", "command"), [("trl", "sft"), ("axolotl", "sft"), ("llamafactory", "dpo")])
def test_files_of_other_libraries_are_wrong_for_the_schema_too(name: str, command: str) -> None:
    given = plain((THEIRS / f"{name}.yaml").read_text(encoding="utf-8"))
    assert list(Draft202012Validator(json_schema(CONFIGS[command])).iter_errors(given))


def judged(text: str, folder: Path) -> tuple[bool, bool]:
    """Whether the schema takes a file of sft, and whether loading does."""
    file = folder / "sft.yaml"
    file.write_text(text, encoding="utf-8")
    by_schema = not list(Draft202012Validator(json_schema(CONFIGS["sft"])).iter_errors(plain(text)))
    try:
        load_config(CONFIGS["sft"], file, {})
    except ConfigError:
        return by_schema, False
    return by_schema, True


def test_init_prints_the_file_or_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "ppo"]) == 0
    assert capsys.readouterr().out == starter_yaml(CONFIGS["ppo"])
    assert main(["init", "ppo", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema(CONFIGS["ppo"])


@EVERY
def test_a_command_has_at_most_45_settings_and_ppo_60(config: type) -> None:
    # PPO holds four models, samples, and is watched while it does;
    # a group (beta, critic, lora) is one: its parts are looked up together; nobody sets the version of a settings file
    assert len(config.model_fields.keys() - {"version"}) <= (60 if config.command == "ppo" else 45)
