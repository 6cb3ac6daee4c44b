"""An adapter as full weights: the same outputs after reading back, with all that stands beside it; else no folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from stages import LORA, QUICK, Stages, write_rows
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import posttrain as pt
from posttrain.cli import main
from posttrain.models import adapter_files
from posttrain.recipes import merge as merging

pytestmark = pytest.mark.medium
KINDS: dict[str, dict[str, Any]] = {
    "dora": {"dora": True}, "few bits": {"quantize": "8bit"}, "head": {"targets": ["lm_head", "q_proj"]},
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_model_has_the_logits_of_its_adapter(kind: str, stages: Stages, tmp_path: Path) -> None:
    given = dict(KINDS[kind])
    quantize = given.pop("quantize", None)
    run = pt.sft(
        model=stages.base, data=stages.chats, out=tmp_path / "run", steps=3, lora={**LORA, **given}, quantize=quantize,
        **QUICK,
    )  # fmt: skip
    found = pt.merge(run, out=tmp_path / "merged", quiet=True)
    assert found.difference < 1e-4
    assert found.layers == (3 if kind == "head" else 14)
    tokens = torch.randint(3, 259, (2, 12))
    with torch.no_grad():
        ours = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(input_ids=tokens).logits
        theirs = AutoPeftModelForCausalLM.from_pretrained(run.path)(input_ids=tokens).logits
        base = AutoModelForCausalLM.from_pretrained(stages.base)(input_ids=tokens).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert float((ours - base).abs().max()) > 1e-2
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (run.path / name).read_bytes()
    assert not list((tmp_path / "merged").glob("adapter_*"))
    assert not (tmp_path / "merged" / "run").exists()


def test_a_reward_model_is_merged_with_its_head_and_its_card(stages: Stages, tmp_path: Path) -> None:
    words = ["merge", str(stages.reward_lora), "--out", str(tmp_path / "merged"), "--quiet", "--json"]
    assert main(words) == 0
    folder = tmp_path / "merged"
    assert json.loads((folder / "reward.json").read_text()) == json.loads(
        (stages.reward_lora / "reward.json").read_text()
    )
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokens = torch.randint(3, 259, (1, 12))
    saved = load_file(stages.reward_lora / "adapter_model.safetensors")["base_model.model.score.weight"]
    assert torch.equal(model.score.weight.detach(), saved)
    with torch.no_grad():
        assert model(input_ids=tokens).logits.shape == (1, 1)
    assert (
        AutoTokenizer.from_pretrained(folder).pad_token == AutoTokenizer.from_pretrained(stages.reward_lora).pad_token
    )
    scores = [pt.evaluate(path, data=stages.rankings, quiet=True)["accuracy"] for path in (stages.reward_lora, folder)]
    assert scores[0] == scores[1]


def test_a_classifier_is_merged_with_its_labels(stages: Stages, tmp_path: Path) -> None:
    rows = [{"text": f"{n} and {n}", "label": "even" if n % 2 == 0 else "odd"} for n in range(16)]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    run = pt.classify(model=stages.base, data=data, out=tmp_path / "run", steps=2, lora=LORA, **QUICK)
    assert pt.merge(run, out=tmp_path / "merged", quiet=True).layers == 14
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert sorted(model.config.id2label.values()) == ["even", "odd"]
    assert (tmp_path / "merged" / "classifier.json").is_file()


def test_a_merge_that_changes_the_model_leaves_no_folder(
    stages: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: Any, stack: Any) -> int:
        adapter_files.forget(model)
        return 14

    monkeypatch.setattr(merging.adapter_files, "merge_into", wrong)
    with pytest.raises(pt.ModelError, match=r"merged weights differ from the adapter's by .* nothing was written"):
        pt.merge(stages.sft_lora, out=tmp_path / "merged", quiet=True)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_merged_is_said(stages: Stages, tmp_path: Path) -> None:
    with pytest.raises(pt.ModelError, match="holds full weights: there is nothing to merge"):
        pt.merge(stages.sft, out=tmp_path / "merged", quiet=True)
    with pytest.raises(pt.ModelError, match="no such model folder"):
        pt.merge("nowhere", out=tmp_path / "merged", quiet=True)
    with pytest.raises(pt.RunExists, match=r"exists\n  fix: give another --out"):
        pt.merge(stages.sft_lora, out=stages.sft, quiet=True)
    tied = tmp_path / "tied"
    model = AutoModelForCausalLM.from_pretrained(stages.base)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tied)
    AutoTokenizer.from_pretrained(stages.base).save_pretrained(tied)
    run = pt.sft(model=tied, data=stages.chats, out=tmp_path / "run", steps=1, lora={"targets": ["lm_head"]}, **QUICK)
    with pytest.raises(pt.ModelError, match="lm_head shares its weights with the embedding"):
        pt.merge(run, out=tmp_path / "merged", quiet=True)


def test_an_adapter_without_a_tokenizer_takes_that_of_its_base(stages: Stages, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (bare / name).write_bytes((stages.sft_lora / name).read_bytes())
    pt.merge(bare, out=tmp_path / "merged", quiet=True)
    assert (tmp_path / "merged" / "tokenizer.json").is_file()
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    assert all(part.dtype == torch.float32 for part in tensors.values())
