"""Weights in few bits: rounded as told, the same packed as one by one, and nothing dense kept for the way back."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path

import pytest
import torch
from architectures import packed_groups, tiny
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from posttrain.engine.memory import bytes_of
from posttrain.errors import ModelError
from posttrain.models.adapter_files import save_adapter
from posttrain.models.adapters import LoraSpec, active, attach, lora_layers
from posttrain.models.heads import Policy
from posttrain.models.load import load_causal
from posttrain.models.parity import gate_policy
from posttrain.models.quantize import (
    Bits,
    QuantizedLinear,
    bytes_of_weight,
    check_quantizable,
    quantized_layers,
    weights_in,
)
from posttrain.recipes.weights import in_few_bits

BITS: tuple[Bits, ...] = ("8bit", "4bit")
# The 16 values of NF4 (Dettmers 2023, appendix E): quantiles of a normal distribution, zero among them.
NF4 = [
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
]  # fmt: skip


def stir(parameters: list[nn.Parameter]) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def test_8_bits_are_the_nearest_of_255_steps_of_each_row() -> None:
    layer = nn.Linear(48, 6)
    made = QuantizedLinear(layer, "8bit", "cpu").weight
    for row, given in zip(made, layer.weight.detach(), strict=True):
        step = max(abs(float(value)) for value in given) / 127
        by_hand = [round(float(value) / step) * step for value in given]
        torch.testing.assert_close(row, torch.tensor(by_hand), rtol=1e-5, atol=1e-7)


def test_4_bits_are_the_nearest_value_of_nf4_times_the_largest_of_64() -> None:
    layer = nn.Linear(64, 5, bias=False)
    made = QuantizedLinear(layer, "4bit", "cpu").weight
    for row, given in zip(made, layer.weight.detach(), strict=True):
        largest = float(given.abs().max())
        by_hand = [min(NF4, key=lambda code: abs(code - float(value) / largest)) * largest for value in given]
        # The largest itself is kept in 8 bits.
        torch.testing.assert_close(row, torch.tensor(by_hand), rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("bits", BITS)
def test_the_product_and_its_gradient_are_those_of_the_rounded_weight(bits: Bits) -> None:
    layer = nn.Linear(64, 7)
    made, x = QuantizedLinear(layer, bits, "cpu"), torch.randn(3, 4, 64, requires_grad=True)
    found = made(x)
    torch.testing.assert_close(found, x @ made.weight.T + layer.bias)
    found.square().sum().backward()
    wanted = x.detach().clone().requires_grad_(True)
    (wanted @ made.weight.T + layer.bias).square().sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, wanted.grad)
    assert not any(part.requires_grad for part in made.parameters())


@pytest.mark.parametrize("bits", BITS)
def test_a_product_follows_autocast(bits: Bits) -> None:
    made, x = QuantizedLinear(nn.Linear(64, 7), bits, "cpu"), torch.randn(4, 64, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = made(x)
    found.float().sum().backward()
    assert found.dtype == torch.bfloat16
    assert x.grad is not None
    assert x.grad.dtype == torch.float32


@pytest.mark.parametrize("bits", BITS)
def test_nothing_dense_is_kept_for_the_backward_pass(bits: Bits) -> None:
    made, x = QuantizedLinear(nn.Linear(256, 256, bias=False), bits, "cpu"), torch.randn(2, 256, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda part: kept.append(part) or part, lambda part: part):
        made(x)
    assert bytes_of(kept) < 256 * 256
    held = bytes_of([*made.buffers(), *made.parameters()])
    assert held <= 256 * 256 * bytes_of_weight(bits) + 4 * 256 * 5


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "phi"])
@pytest.mark.parametrize("bits", BITS)
def test_a_model_in_few_bits_is_the_same_packed_as_one_by_one(family: str, bits: Bits, tmp_path: Path) -> None:
    tiny(family).save_pretrained(tmp_path)
    whole = load_causal(str(tmp_path))
    loaded = load_causal(str(tmp_path), quantize=bits)
    policy = Policy(loaded.model, stack=())
    parity = gate_policy(policy, loaded.own_attention)
    assert parity.packing
    assert parity.difference < 1e-4
    with torch.no_grad():
        moved = (policy(packed_groups()).logprobs - Policy(whole.model)(packed_groups()).logprobs).abs().max()
    assert 1e-4 < float(moved) < (0.3 if bits == "8bit" else 3.0)
    few = {name.rpartition(".")[2] for name, part in loaded.model.named_modules() if isinstance(part, QuantizedLinear)}
    assert few
    assert not few & {"lm_head", "embed_tokens", "wte"}
    assert weights_in(loaded.model) == weights_in(whole.model)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
def test_an_adapter_trained_on_few_bits_loads_on_the_full_base(bits: Bits, dora: bool, tmp_path: Path) -> None:
    tiny("llama").save_pretrained(tmp_path / "base")
    loaded = load_causal(str(tmp_path / "base"), quantize=bits)
    before = Policy(loaded.model)(packed_groups()).logprobs
    parameters = attach(loaded.model, "new", LoraSpec(rank=4, alpha=8.0, dora=dora))
    policy = Policy(loaded.model, stack=("new",))
    assert torch.equal(policy(packed_groups()).logprobs, before)
    stir(parameters)
    gate_policy(policy, loaded.own_attention)
    policy(packed_groups()).logprobs.sum().backward()
    assert all(part.grad is not None for part in parameters)
    save_adapter(loaded.model, ("new",), tmp_path / "adapter", base=loaded.base)
    full = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    theirs = PeftModel.from_pretrained(full, tmp_path / "adapter")
    tokens = torch.randint(3, 97, (2, 11))
    loaded.model.set_attn_implementation(loaded.own_attention)
    with torch.no_grad(), active(loaded.model, ("new",)):
        ours = loaded.model(input_ids=tokens).logits
    with torch.no_grad():
        assert float((theirs(input_ids=tokens).logits - ours).abs().max()) < (0.3 if bits == "8bit" else 2.0)
    assert len(lora_layers(loaded.model)) == len(list(quantized_layers(loaded.model))) == 14


def test_weights_stored_in_bf16_come_to_the_same_few_bits(tmp_path: Path) -> None:
    model = tiny("llama").to(torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    model.float().save_pretrained(tmp_path / "full")
    half, full = (load_causal(str(tmp_path / name), quantize="8bit").model for name in ("half", "full"))
    assert all(part.dtype == torch.float32 for part in half.parameters())
    for ours, theirs in zip(quantized_layers(half), quantized_layers(full), strict=True):
        assert torch.equal(ours.weight, theirs.weight)


@pytest.mark.parametrize("bits", BITS)
def test_the_bytes_of_a_model_in_few_bits_are_told_by_its_files(bits: Bits, tmp_path: Path) -> None:
    tiny("llama", hidden_size=256, intermediate_size=512).save_pretrained(tmp_path)
    model = load_causal(str(tmp_path), quantize=bits).model
    held = bytes_of([*model.parameters(), *model.buffers()])
    assert in_few_bits(str(tmp_path), bits) == pytest.approx(held, rel=0.03)
    whole = load_causal(str(tmp_path)).model
    assert held < 0.45 * bytes_of([*whole.parameters(), *whole.buffers()])


def test_4_bits_without_bitsandbytes_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(
        ModelError, match=r"not installed\n  fix: pip install 'posttrain\[quantize\]', or quantize: 8bit"
    ):
        check_quantizable("4bit", "cpu")
    check_quantizable("8bit", "cpu")


def test_a_device_without_the_kernels_is_refused_with_their_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> builtins.dict[str, Tensor]:
        raise RuntimeError("no kernel image\nmore")

    monkeypatch.setattr("posttrain.models.quantize._in_4_bits", broken)
    with pytest.raises(ModelError, match=r"quantize 4bit does not work on cpu: no kernel image\n  fix: quantize: 8bit"):
        check_quantizable("4bit", "cpu")
