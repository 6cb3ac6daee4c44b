"""Every file of `examples/options` runs as it stands for a few steps, but for the models and the folders it names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from stages import QUICK

import posttrain
from posttrain.cli import main
from posttrain.run import Run

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = sorted((EXAMPLES / "options").glob("*.yaml"))
FEW: Mapping[str, Mapping[str, object]] = {
    "ppo": {"steps": 2, "rollouts": 4, "max_new_tokens": 4},
    "online-dpo": {"steps": 2, "rollouts": 4, "max_new_tokens": 4},
}
"""What makes a run short where a file would sample for long; the others go over a dozen rows."""

pytestmark = pytest.mark.medium
SLOW = pytest.mark.slow  # C++ is made of its layers


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What stands for the models that the examples name."""
    folder = tmp_path_factory.mktemp("models")
    chats, rankings = EXAMPLES / "data" / "chat.jsonl", EXAMPLES / "data" / "ranked.jsonl"
    lora = {"rank": 4, "alpha": 8.0}
    posttrain.sft(model=tiny_model, data=chats, out=folder / "sft", steps=2, lora=lora, **QUICK)
    for name in ("reward", "reward-2"):
        seed = len(name)
        posttrain.reward(model=folder / "sft", data=rankings, out=folder / name, steps=2, lora=lora, seed=seed, **QUICK)
    named = {f"runs/example-{name}": str(folder / name) for name in ("sft", "reward", "reward-2")}
    return {"HuggingFaceTB/SmolLM2-135M": str(tiny_model), **named}


def at_hand(value: Any, models: Mapping[str, str]) -> Any:
    """Settings with the models of this test, and with whole paths to the examples' own files."""
    if isinstance(value, Mapping):
        return {key: at_hand(part, models) for key, part in value.items()}
    if isinstance(value, list):
        return [at_hand(part, models) for part in value]
    if isinstance(value, str) and value.startswith("examples/"):
        return str(EXAMPLES.parent / value)
    return models.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize(
    "file", [pytest.param(file, id=file.stem, marks=SLOW if "compiled" in file.stem else ()) for file in FILES]
)
def test_an_example_of_options_runs(file: Path, models: Mapping[str, str], tmp_path: Path) -> None:
    """The file is named after its command and what it shows: `online-dpo_pairs.yaml`."""
    command = file.stem.partition("_")[0]
    settings = at_hand(YAML(typ="safe").load(file), models) | FEW.get(command, {}) | {"out": str(tmp_path / "out")}
    with (tmp_path / file.name).open("w", encoding="utf-8") as stream:
        YAML().dump(settings, stream)
    assert main([command, str(tmp_path / file.name), "--quiet"]) == 0
    for row in Run(tmp_path / "out").metrics:
        assert all(math.isfinite(value) for value in row.values())
