"""Tokens that a vocabulary gets: trained, saved, and loaded elsewhere to the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stages import QUICK, Stages
from transformers import AutoModelForCausalLM, AutoTokenizer

import posttrain as pt
from posttrain.models.load import load_causal
from posttrain.text.chat import Codec

pytestmark = pytest.mark.medium
CHATML = ["<|im_start|>", "<|im_end|>"]


def trained(stages: Stages, repository: Path, out: Path, **given: Any) -> pt.Run:
    template = repository / "examples" / "data" / "chatml.jinja"
    asked: dict[str, Any] = {"steps": 3, "add_tokens": CHATML, "template": template, **QUICK, **given}
    return pt.sft(model=stages.base, data=stages.chats, out=out, **asked)


def test_the_tokens_of_a_chat_template_are_added_trained_and_saved(
    stages: Stages, repository: Path, tmp_path: Path
) -> None:
    run = trained(stages, repository, tmp_path / "run")
    words = AutoTokenizer.from_pretrained(run.path)
    ids = words.convert_tokens_to_ids(CHATML)
    assert ids == [259, 260]
    assert words("<|im_end|>", add_special_tokens=False)["input_ids"] == [260]
    chat = [{"role": "user", "content": "1 + 1 ="}, {"role": "assistant", "content": "2"}]
    rendered = words.apply_chat_template(chat, tokenize=True, return_dict=False)
    assert rendered.count(259) == rendered.count(260) == 2
    assert 260 in AutoModelForCausalLM.from_pretrained(run.path).generation_config.eos_token_id
    before, after = load_file(stages.base / "model.safetensors"), load_file(run.path / "model.safetensors")
    name = "model.embed_tokens.weight"
    assert after[name].shape[0] == before[name].shape[0] + 2
    assert not torch.allclose(after[name][259], before[name].mean(0), atol=1e-4)  # it has learnt
    tokens = torch.tensor([rendered])
    loaded = load_causal(str(run.path))
    loaded.model.set_attn_implementation(loaded.own_attention)
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(run.path)(input_ids=tokens).logits
        assert torch.equal(loaded.model(input_ids=tokens).logits, theirs)
    assert Codec.load(run.path).end_of_turn == 260
    pt.sft(model=run, data=stages.chats, out=tmp_path / "on", steps=1, lora={"rank": 2}, **QUICK)


def test_tokens_that_are_there_are_left_as_they_are_and_nothing_is_resized(
    stages: Stages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loud = {**QUICK, "quiet": False}
    run = pt.sft(model=stages.base, data=stages.chats, out=tmp_path / "run", steps=1, add_tokens=["</s>"], **loud)
    assert "add_tokens: </s> there already, and as it was" in capsys.readouterr().out
    assert load_file(run.path / "model.safetensors")["model.embed_tokens.weight"].shape[0] == 259


def test_new_tokens_beside_adapters_are_refused_with_the_way_to_do_it(
    stages: Stages, repository: Path, tmp_path: Path
) -> None:
    with pytest.raises(pt.ConfigError, match=r"add_tokens: rows for .* of the base.*set lora: null"):
        trained(stages, repository, tmp_path / "run", lora={"rank": 4})
