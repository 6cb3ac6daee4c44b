"""Folders in and out: what we save the other libraries load, and what cannot be loaded says why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from architectures import attending_by_layout, packed_groups, tiny
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    PreTrainedModel,
)

from posttrain.errors import ModelError
from posttrain.models.adapters import LoraSpec, active, adapter_parameters, attach
from posttrain.models.heads import Policy, ScalarModel, scalar_head
from posttrain.models.load import load_causal, load_scalar, save_causal, save_scalar

PAD, END = 0, 2
PEFT_WARNS = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def folder_of(family: str, folder: Path) -> Path:
    tiny(family).save_pretrained(folder)
    return folder


def stirred(model: PreTrainedModel, name: str) -> None:
    with torch.no_grad():
        for parameter in adapter_parameters(model, name):
            parameter.add_(torch.randn_like(parameter) * 0.1)


def logprobs(policy: Policy) -> Tensor:
    with torch.no_grad():
        return policy(packed_groups()).logprobs


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt"])
def test_saved_weights_load_in_transformers_with_the_same_logits(family: str, tmp_path: Path) -> None:
    loaded = load_causal(str(folder_of(family, tmp_path / "base")))
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.mul_(1.01)
    expected = logprobs(Policy(loaded.model))
    save_causal(loaded, (), tmp_path / "run", stop_ids=frozenset({END, 7}))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run", dtype=torch.float32)
    assert model.generation_config.eos_token_id == [END, 7]
    assert model.config._attn_implementation != "posttrain_packed"
    attending_by_layout(model)
    torch.testing.assert_close(logprobs(Policy(model)), expected, rtol=1e-5, atol=1e-5)
    # the model in memory goes on attending by layouts
    assert torch.equal(logprobs(Policy(loaded.model)), expected)


@PEFT_WARNS
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_saved_adapter_loads_in_peft_and_here_again(family: str, tmp_path: Path) -> None:
    base = folder_of(family, tmp_path / "base")
    loaded = load_causal(str(base))
    attach(loaded.model, "sft", LoraSpec(rank=4, alpha=8))
    stirred(loaded.model, "sft")
    expected = logprobs(Policy(loaded.model, stack=("sft",)))
    save_causal(loaded, ("sft",), tmp_path / "run", stop_ids=frozenset({END}))
    again = load_causal(str(tmp_path / "run"))
    assert (again.base, again.stack) == (str(base.resolve()), ("start",))
    assert not any(part.requires_grad for part in again.model.parameters())
    torch.testing.assert_close(logprobs(Policy(again.model, stack=again.stack)), expected, rtol=1e-5, atol=1e-5)
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "run")
    attending_by_layout(peft.base_model.model)
    policy = Policy(peft.base_model.model, stack=("default",))
    torch.testing.assert_close(logprobs(policy), expected, rtol=1e-5, atol=1e-5)
    assert GenerationConfig.from_pretrained(tmp_path / "run").eos_token_id == [END]


def padded() -> tuple[Tensor, Tensor]:
    """Three sequences of unequal length that end with the end token, padded at the right: ids and mask."""
    rows = [[*torch.randint(3, 97, (length,)).tolist(), END] for length in (5, 11, 1)]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
    return ids, (ids != PAD).long()


def our_scores(scalar: ScalarModel, ids: Tensor, mask: Tensor) -> Tensor:
    """After the last token of each sequence, one at a time and without padding."""
    with torch.no_grad():
        hidden = [
            scalar.model(input_ids=row[seen == 1][None], use_cache=False).last_hidden_state[0, -1]
            for row, seen in zip(ids, mask, strict=True)
        ]
        return scalar.score(torch.stack(hidden)).squeeze(-1)


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gemma2", "gpt2", "opt", "gpt_neox", "phi3"])
def test_a_saved_reward_model_scores_the_same_as_a_sequence_classifier(family: str, tmp_path: Path) -> None:
    backbone = tiny(family).base_model
    scalar = ScalarModel(backbone, scalar_head(32))
    ids, mask = padded()
    expected = our_scores(scalar, ids, mask)
    attending_by_layout(backbone)
    save_scalar(scalar, tmp_path, base="", pad_id=PAD)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask).logits
    assert found.shape == (3, 1)
    torch.testing.assert_close(found.squeeze(-1), expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        alone = torch.cat([model(input_ids=row[seen == 1][None]).logits for row, seen in zip(ids, mask, strict=True)])
    torch.testing.assert_close(alone.squeeze(-1), expected, rtol=1e-5, atol=1e-5)
    again, _ = load_scalar(str(tmp_path))
    with torch.no_grad():
        assert torch.equal(again(packed_groups()), scalar(packed_groups()))


@PEFT_WARNS
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_saved_reward_adapter_scores_the_same_through_peft(family: str, tmp_path: Path) -> None:
    base = folder_of(family, tmp_path / "base")
    loaded = load_causal(str(base))
    for name in ("start", "reward"):
        attach(loaded.model, name, LoraSpec(rank=4, alpha=8))
        stirred(loaded.model, name)
    scalar = ScalarModel(loaded.model.base_model, scalar_head(32), stack=("start", "reward"))
    save_scalar(scalar, tmp_path / "run", base=str(base), pad_id=PAD)
    again, own = load_scalar(str(tmp_path / "run"))
    with torch.no_grad():
        torch.testing.assert_close(again(packed_groups()), scalar(packed_groups()), rtol=1e-5, atol=1e-5)
    again.model.set_attn_implementation(own)
    ids, mask = padded()
    shell = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=PAD)
    model = PeftModel.from_pretrained(shell, tmp_path / "run").eval()
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=mask).logits.squeeze(-1)
    with active(again.model, again.stack):
        torch.testing.assert_close(found, our_scores(again, ids, mask), rtol=1e-5, atol=1e-5)


def test_an_architecture_without_a_classifier_keeps_its_score_apart(tmp_path: Path) -> None:
    backbone = tiny("cohere").base_model
    scalar = ScalarModel(backbone, scalar_head(32))
    attending_by_layout(backbone)
    save_scalar(scalar, tmp_path, base="", pad_id=PAD)
    assert (tmp_path / "score.safetensors").is_file()
    again, _ = load_scalar(str(tmp_path))
    with torch.no_grad():
        assert torch.equal(again(packed_groups()), scalar(packed_groups()))


# --- what cannot be loaded --------------------------------------------------------------------------------------


def test_a_folder_without_weights(tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path / "base")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"base has no weights: no \*\.safetensors file\n  fix: save the model again"):
        load_causal(str(folder))


def test_pickled_weights_are_never_loaded(tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path / "base")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pytorch_model\.bin, and pickles are never loaded\n  fix: "):
        load_causal(str(folder))


def test_missing_tensors_would_be_random(tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing and would be random, first model\.layers\.1\.mlp\.up"):
        load_causal(str(folder))


def test_tensors_of_the_wrong_shape(tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path / "base")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(31)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.norm\.weight|cannot be loaded"):
        load_causal(str(folder))


def test_weights_cut_short(tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path / "base")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_causal(str(folder))


def test_no_such_path_and_a_file_and_a_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere: no such model folder\n  fix: give a folder with config\.json"):
        load_causal(str(tmp_path / "nowhere"))
    file = tmp_path / "notes.txt"
    file.write_text("hello")
    with pytest.raises(ModelError, match=r"notes\.txt is a file, not a model folder"):
        load_causal(str(file))
    with pytest.raises(ModelError, match=r"it has no config\.json\n  fix: give a Hugging Face folder"):
        load_causal(str(tmp_path))


def test_a_folder_of_models_names_them(tmp_path: Path) -> None:
    for name in ("ppo", "sft"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"no config\.json\n  fix: give one of the models in it: .*/ppo, .*/sft$"):
        load_causal(str(tmp_path))


def adapter_run(tmp_path: Path) -> tuple[Path, Path]:
    base = folder_of("llama", tmp_path / "base")
    loaded = load_causal(str(base))
    attach(loaded.model, "sft", LoraSpec(rank=2, alpha=2))
    save_causal(loaded, ("sft",), tmp_path / "run", stop_ids=frozenset({END}))
    return base, tmp_path / "run"


def test_an_adapter_whose_base_is_gone_names_both(tmp_path: Path) -> None:
    base, run = adapter_run(tmp_path)
    shutil.rmtree(base)
    with pytest.raises(ModelError, match=r"run is an adapter, .* used: .*base: no such model folder"):
        load_causal(str(run))


def test_an_adapter_without_its_weights_and_one_of_another_model(tmp_path: Path) -> None:
    _, run = adapter_run(tmp_path)
    tensors = load_file(run / "adapter_model.safetensors")
    name = next(iter(tensors))
    save_file(
        {**tensors, name.replace("layers.0", "layers.7"): tensors[name].clone()}, run / "adapter_model.safetensors"
    )
    with pytest.raises(ModelError, match="1 adapter tensors fit no layer of the base"):
        load_causal(str(run))
    (run / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"run has no weights: no adapter_model\.safetensors"):
        load_causal(str(run))


def test_an_adapter_of_a_model_with_other_sizes(tmp_path: Path) -> None:
    base, run = adapter_run(tmp_path)
    shutil.rmtree(base)
    tiny("llama", hidden_size=16).save_pretrained(base)
    with pytest.raises(ModelError, match=r"lora_A\.weight has shape \(2, 32\), the base needs \(2, 16\)"):
        load_causal(str(run))


def test_an_adapter_that_lacks_tensors(tmp_path: Path) -> None:
    _, run = adapter_run(tmp_path)
    tensors = load_file(run / "adapter_model.safetensors")
    tensors.pop(next(name for name in tensors if "lora_B" in name))
    save_file(tensors, run / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"lora_B\.weight is missing and would be random"):
        load_causal(str(run))


def test_a_policy_is_no_reward_model(tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path / "base")
    with pytest.raises(ModelError, match=r"has no score head: it is not a reward model\n  fix: train one"):
        load_scalar(str(folder))


def test_the_base_is_named_by_its_full_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of("llama", tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    loaded = load_causal("base")
    attach(loaded.model, "sft", LoraSpec(rank=2, alpha=2))
    save_causal(loaded, ("sft",), tmp_path / "run", stop_ids=frozenset({END}))
    config = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str((tmp_path / "base").resolve())


def test_a_score_head_of_another_shape_is_named(tmp_path: Path) -> None:
    folder = folder_of("llama", tmp_path / "model")
    for shape in ((32,), (1, 8)):
        save_file({"score.weight": torch.zeros(shape)}, folder / "score.safetensors")
        with pytest.raises(ModelError, match=rf"score\.weight has shape \({shape[0]},"):
            load_scalar(str(folder))
    (folder / "a.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"cannot be loaded|a\.safetensors cannot be read"):
        load_scalar(str(folder))
