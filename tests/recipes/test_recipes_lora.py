"""Adapters in whole runs: wrong names fail before data are read, and an adapter that goes on is its own reference."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from stages import LORA, QUICK, Stages

import posttrain as pt
from posttrain.recipes import opening

CONTINUE = {"start": "continue"}


def shape_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """No source of rows may be opened."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("data were read")

    monkeypatch.setattr(opening, "_examine", never)


@pytest.mark.parametrize(
    ("lora", "says"),
    [
        (
            {"targets": ["q_proj", "vproj"]},
            "lora.targets: no linear layer is named vproj\n  fix: write v_proj for vproj",
        ),
        ({"rank_pattern": {"down": 4}}, "lora.rank_pattern: no linear layer is named down"),
        ({"alpha_pattern": {"k_prj": 4.0}}, "lora.alpha_pattern: no linear layer is named k_prj\n  fix: write k_proj"),
        (CONTINUE, "is no adapter that could go on\n  fix: leave lora.start out"),
    ],
)
@pytest.mark.usefixtures("unread")
def test_a_wrong_name_of_a_layer_fails_before_rows_are_read(
    lora: dict[str, Any], says: str, tiny_model: Path, repository: Path, tmp_path: Path
) -> None:
    data = repository / "examples" / "data" / "chat.jsonl"
    with pytest.raises(pt.ModelError) as caught:
        pt.sft(model=tiny_model, data=data, out=tmp_path / "run", lora=lora, quiet=True)
    assert says in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.medium
def test_dropout_on_a_dora_adapter_that_goes_on_is_refused(stages: Stages, tmp_path: Path) -> None:
    start = pt.sft(model=stages.base, data=stages.chats, out=tmp_path / "a", steps=1, lora={"dora": True}, **QUICK)
    with pytest.raises(pt.ModelError, match=r"lora\.dropout: .* is a DoRA adapter"):
        pt.sft(model=start, data=stages.chats, out=tmp_path / "b", lora={**CONTINUE, "dropout": 0.1}, **QUICK)


@pytest.mark.medium
def test_an_adapter_goes_on_from_what_it_was_with_its_own_rank(stages: Stages, tmp_path: Path) -> None:
    out = pt.sft(model=stages.sft_lora, data=stages.chats, out=tmp_path / "on", steps=2, lora=CONTINUE, **QUICK)
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (stages.sft_lora, out.path))
    assert {name: part.shape for name, part in after.items()} == {name: part.shape for name, part in before.items()}
    assert any((after[name] - part).abs().max() > 1e-3 for name, part in before.items())
    assert (shape_of(out.path)["r"], shape_of(out.path)["lora_alpha"]) == (LORA["rank"], LORA["alpha"])
    # A rate of nothing leaves it as it was, through loading, copying and saving.
    still = {**QUICK, "learning_rate": 1e-30}
    same = pt.sft(model=stages.sft_lora, data=stages.chats, out=tmp_path / "same", steps=1, lora=CONTINUE, **still)
    unchanged = load_file(same.path / "adapter_model.safetensors")
    assert all(unchanged[name].equal(part) for name, part in before.items())


@pytest.mark.medium
def test_the_reference_of_an_adapter_that_goes_on_is_the_policy_at_step_0(stages: Stages, tmp_path: Path) -> None:
    few: dict[str, Any] = {"steps": 2, "lora": CONTINUE, **QUICK}
    run = pt.dpo(model=stages.sft_lora, data=stages.rankings, out=tmp_path / "dpo", **few)
    assert run.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert run.metrics[1]["loss"] != pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.medium
@pytest.mark.parametrize("layout", ["adapters", "separate"])
def test_ppo_with_an_adapter_that_goes_on_starts_at_a_kl_of_0(layout: str, stages: Stages, tmp_path: Path) -> None:
    run = pt.ppo(
        model=stages.sft_lora, reward=stages.reward_lora, prompts=stages.prompts, out=tmp_path / layout, steps=2,
        rollouts=4, max_new_tokens=4, ppo_epochs=2, learning_rate=0.05, layout=layout, lora=CONTINUE, quiet=True,
        critic={"warmup": 0},
    )  # fmt: skip
    assert run.metrics[0]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert run.metrics[-1]["kl_k3"] > 1e-3
    assert shape_of(run.path)["r"] == LORA["rank"]
