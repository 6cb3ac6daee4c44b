"""Published recipes: they load as they are, say where each value is from, and run for two steps."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from stages import write_rows

import posttrain
from posttrain.cli import main
from posttrain.config import CONFIGS, load_config
from posttrain.config.ppo import PPOConfig
from posttrain.config.starter import preset_yaml, presets
from posttrain.run import Run

NAMES = presets("ppo")
EVERY = pytest.mark.parametrize("name", NAMES)


def loaded(name: str, folder: Path) -> PPOConfig:
    file = folder / "ppo.yaml"
    file.write_text(preset_yaml("ppo", name), encoding="utf-8")
    return load_config(PPOConfig, file, {})


def test_there_are_the_three() -> None:
    assert NAMES == ["deepspeed-chat", "instructgpt", "summarize2020"]
    assert not any(presets(command) for command in CONFIGS if command != "ppo")


@EVERY
def test_a_preset_is_printed_loads_strictly_and_gives_a_source_for_every_value(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "ppo", "--preset", name]) == 0
    text = capsys.readouterr().out
    assert text == preset_yaml("ppo", name)
    loaded(name, tmp_path)
    values = [line for line in text.splitlines() if not line.startswith("#") and not line.rstrip().endswith(":")]
    assert not [line for line in values if " # " not in line and not line.startswith("version")]


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("deepspeed-chat", {"coef": 0.1, "reward_clip": 5.0, "whiten": False, "rate": 9.65e-6, "ema": 0.992}),
        ("instructgpt", {"coef": 0.02, "rollouts": 512, "minibatches": 8, "ppo_epochs": 1, "ptx": 27.8, "ema": 0.992}),
        ("summarize2020", {"coef": 0.05, "rollouts": 512, "ppo_epochs": 4, "rate": 1.5e-5, "ema": None, "lam": 0.95}),
    ],
)
def test_the_numbers_are_those_of_the_papers(name: str, numbers: Mapping[str, object], tmp_path: Path) -> None:
    config = loaded(name, tmp_path)
    found = config.model_dump() | {"coef": config.beta.coef, "rate": config.learning_rate}
    found["ptx"] = config.ptx.coef if config.ptx else None
    assert {key: found[key] for key in numbers} == dict(numbers)


def test_a_preset_that_there_is_not_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "ppo", "--preset", "instructgtp"]) == 2
    assert "--preset  ppo has no preset 'instructgtp'; did you mean instructgpt?" in capsys.readouterr().err
    assert main(["init", "sft", "--preset", "instructgpt"]) == 2
    assert "--preset  sft has no preset 'instructgpt'" in capsys.readouterr().err


@pytest.mark.medium
@EVERY
def test_a_preset_runs_two_steps_on_a_tiny_model(name: str, tiny_model: Path, tmp_path: Path) -> None:
    chats = write_rows(tmp_path / "chats.jsonl", [{"prompt": f"{n}", "completion": f"{n} {n}"} for n in range(8)])
    sft = posttrain.sft(model=tiny_model, data=chats, out=tmp_path / "sft", steps=1, batch_size=2, quiet=True)
    (tmp_path / "rewards.py").write_text("def score(prompt, response):\n    return len(response) / 10\n")
    settings: dict[str, Any] = YAML(typ="safe").load(io.StringIO(preset_yaml("ppo", name)))
    settings |= {
        "model": str(sft), "reward": f"{tmp_path}/rewards.py:score", "out": str(tmp_path / "ppo"), "steps": 2,
        "prompts": str(write_rows(tmp_path / "prompts.jsonl", [{"prompt": f"{n} +"} for n in range(6)])),
        "rollouts": 8, "max_new_tokens": 4, "max_length": 128,
    }  # fmt: skip
    if settings.get("ptx"):
        settings["ptx"] |= {"data": str(chats), "batch_size": 2}
    with (tmp_path / "run.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump(settings, stream)
    assert main(["ppo", str(tmp_path / "run.yaml"), "--quiet"]) == 0
    run = Run(tmp_path / "ppo")
    updates = settings["ppo_epochs"] * settings["minibatches"] * 2
    assert [row["step"] for row in run.metrics] == list(range(1, updates + 1))
    assert json.dumps(run.results)
