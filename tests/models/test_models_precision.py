"""Weights in bfloat16: what computes in it, what stays in float32, and that no value behind them is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from architectures import attending_by_layout, packed_groups, tiny
from safetensors.torch import load_file
from torch import Tensor, nn

from posttrain.errors import ModelError
from posttrain.models.adapters import LoraSpec, adapter_parameters, attach, duplicate
from posttrain.models.heads import Policy, ScalarModel, scalar_head
from posttrain.models.load import load_causal, load_scalar, save_causal, save_scalar
from posttrain.models.parity import gate_policy, gate_scalar
from posttrain.models.precision import in_float32, into_bf16, is_bf16, master_of, set_values
from posttrain.models.quantize import into_few_bits

FAMILIES = ["llama", "gemma2", "gpt2", "qwen3_moe", "gpt_oss"]


def rounded(family: str = "llama", *, trained: bool = False, **changes: object) -> Policy:
    model = tiny(family, **changes)
    attending_by_layout(model)
    into_bf16(model, trained=trained)
    return Policy(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_computes_in_bf16_forwards_and_backwards(family: str) -> None:
    policy = rounded(family, tie_word_embeddings=False)
    seen: dict[str, set[torch.dtype]] = {}

    def watch(name: str, layer: nn.Module) -> None:
        def note(_: nn.Module, given: tuple[Tensor, ...], found: Tensor) -> None:
            seen.setdefault(name, set()).update({given[0].dtype, found.dtype})
            found.register_hook(lambda gradient: seen[name].add(gradient.dtype))

        layer.register_forward_hook(note)

    for name, layer in policy.model.named_modules():
        if isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D":
            watch(name, layer)
    policy(packed_groups()).logprobs.sum().backward()
    assert len(seen) > 6
    assert set().union(*seen.values()) == {torch.bfloat16}
    assert policy(packed_groups()).logprobs.dtype == torch.float32


@pytest.mark.parametrize(("dtype", "inside"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_attention_on_a_cpu_is_in_float32(
    dtype: torch.dtype, inside: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype] = set()
    attend = F.scaled_dot_product_attention

    def watched(query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Tensor:
        seen.update({query.dtype, key.dtype, value.dtype})
        return attend(query, key, value, **given)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    policy = rounded()
    policy.model.to(dtype)  # pyright: ignore[reportArgumentType]  # transformers narrows `to` to its own overloads
    assert policy.trunk(packed_groups()).dtype == dtype
    assert seen == {inside}


def test_log_probs_and_gradients_are_those_of_float32_within_rounding() -> None:
    whole, half = tiny("llama"), rounded()
    attending_by_layout(whole)
    policies = Policy(whole), half
    outputs = [policy(packed_groups()).logprobs for policy in policies]
    trained = packed_groups().trained
    # bfloat16 has 8 bits: a half of 2 ** -8 a rounding, some thirty of them one after the other
    torch.testing.assert_close(outputs[1][trained], outputs[0][trained], rtol=0.02, atol=0.02)
    for output in outputs:
        output.sum().backward()
    gradients = [dict(policy.model.named_parameters()) for policy in policies]
    for name, part in gradients[0].items():
        ours, theirs = gradients[1][name].grad, part.grad
        assert ours is not None
        assert theirs is not None
        assert float((ours.float() - theirs).norm() / theirs.norm()) < 0.03, name


def test_a_gate_decides_in_float32_and_says_what_bf16_moves() -> None:
    policy = rounded()
    before = [part.clone() for part in policy.model.parameters()]
    found = gate_policy(policy, "sdpa")
    assert found.packing
    assert found.difference < 1e-5
    assert found.rounding is not None
    assert 1e-4 < found.rounding < 0.05
    assert all(torch.equal(part, old) for part, old in zip(policy.model.parameters(), before, strict=True))
    whole = tiny("llama")
    own = attending_by_layout(whole)
    assert gate_policy(Policy(whole), own).rounding is None


def test_a_model_that_bf16_takes_farther_than_its_own_attention_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = rounded()
    stream = policy.trunk.stream

    def coarse(tokens: Tensor, positions: Tensor) -> Tensor:
        hidden = stream(tokens, positions)
        return hidden * 1.5 if is_half(hidden) else hidden

    monkeypatch.setattr(policy.trunk, "stream", coarse)
    with pytest.raises(ModelError, match=r"bf16 moves outputs by .* on average, .*\n  fix: precision: fp32"):
        gate_policy(policy, "sdpa")
    mamba = tiny("mamba")
    own = attending_by_layout(mamba)
    into_bf16(mamba, trained=False)
    with pytest.raises(ModelError, match=r"does not compute in bf16: .*\n  fix: precision: fp32"):
        gate_policy(Policy(mamba), own)


def is_half(tensor: Tensor) -> bool:
    return tensor.dtype == torch.bfloat16


def test_weights_that_a_family_keeps_in_float32_stay_so() -> None:
    model = tiny("llama")
    model._keep_in_fp32_modules_strict = {"down_proj"}
    into_bf16(model, trained=False)
    dtypes = {"down_proj" in name: part.dtype for name, part in model.named_parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}


def test_what_rounding_takes_off_is_kept_where_it_is_trained_and_only_there() -> None:
    model = tiny("llama")
    values = [part.detach().clone() for part in model.parameters()]
    frozen = tiny("llama")
    into_bf16(model, trained=True)
    into_bf16(frozen, trained=False)
    for part, value in zip(model.parameters(), values, strict=True):
        assert torch.equal(master_of(part), value)
        assert torch.equal(part, value.bfloat16())
    assert all(master_of(part) is part for part in frozen.parameters())
    again = tiny("llama")
    with torch.no_grad():
        for part in again.parameters():
            part.copy_(part.bfloat16())
    into_bf16(again, trained=True)  # nothing is lost, so nothing is kept
    assert all(master_of(part) is part for part in again.parameters())


def test_values_are_set_whole_and_seen_rounded() -> None:
    part = nn.Parameter(torch.zeros(3).bfloat16())
    values = torch.tensor([1.0, 1.001, -3.14159])
    for _ in range(2):
        set_values(part, values)
        assert torch.equal(master_of(part), values)
        assert torch.equal(part, values.bfloat16())
        values = values + 0.001
    with in_float32([part]):
        assert torch.equal(part, (values - 0.001).bfloat16().float())
    with in_float32([part], whole=True):
        assert torch.equal(part, values - 0.001)
    assert is_half(part)


def test_a_model_is_saved_in_float32_from_what_its_weights_were_before_rounding(tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path / "base")
    loaded = load_causal(str(tmp_path / "base"))
    into_bf16(loaded.model, trained=True)
    save_causal(loaded, (), tmp_path / "run", stop_ids=frozenset({2}))
    assert is_bf16(loaded.model)
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("base", "run")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(part, files[1][name]) for name, part in files[0].items())


def test_a_scalar_model_goes_out_and_in_with_its_head_in_float32(tmp_path: Path) -> None:
    model = tiny("llama").base_model
    attending_by_layout(model)
    scalar = ScalarModel(model, scalar_head(32, generator=torch.Generator().manual_seed(1)))
    save_scalar(scalar, tmp_path / "fp32", base="", pad_id=0)
    into_bf16(scalar.model, trained=True)
    save_scalar(scalar, tmp_path / "bf16", base="", pad_id=0)
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("fp32", "bf16")]
    assert all(torch.equal(part, files[1][name]) for name, part in files[0].items())
    again, own = load_scalar(str(tmp_path / "bf16"), bf16=True)
    assert again.score.weight.dtype == torch.float32
    assert is_bf16(again.model)
    assert gate_scalar(again, own).rounding is not None
    assert again(packed_groups()).dtype == torch.float32


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("bits", [None, "8bit"])
def test_a_new_adapter_on_a_base_in_bf16_is_in_bf16_and_changes_nothing(bits: Any, dora: bool) -> None:
    model = tiny("llama")
    attending_by_layout(model)
    if bits is not None:
        into_few_bits(model, bits, "cpu")
    into_bf16(model, trained=False)
    policy = Policy(model)
    with torch.no_grad():
        before = policy(packed_groups()).logprobs
    parameters = attach(model, "new", LoraSpec(rank=3, alpha=6.0, dora=dora))
    with torch.no_grad():
        assert torch.equal(Policy(model, stack=("new",))(packed_groups()).logprobs, before)
    assert {part.dtype for part in parameters if part.dim() == 2} == {torch.bfloat16}
    assert {part.dtype for part in parameters if part.dim() == 1} == ({torch.float32} if dora else set())
    Policy(model, stack=("new",))(packed_groups()).logprobs.sum().backward()
    assert all(part.grad is not None for part in parameters)


def test_an_adapter_that_goes_on_starts_from_its_values_before_rounding(tmp_path: Path) -> None:
    model = tiny("llama")
    attach(model, "start", LoraSpec(rank=2, alpha=4.0))
    values = [part.detach().normal_().clone() for part in adapter_parameters(model, "start")]
    into_bf16(model, trained=False)
    copies = duplicate(model, "start", "policy")
    for part, value in zip(copies, values, strict=True):
        assert torch.equal(master_of(part), value)
        assert torch.equal(part, value.bfloat16())
