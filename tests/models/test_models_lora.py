"""rsLoRA, DoRA, ranks by layer, and an adapter that goes on: against formulas by hand and peft's own model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from architectures import attending_by_layout, packed_groups, tiny
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from posttrain.errors import ModelError
from posttrain.models.adapter_files import folds, load_adapter, save_adapter
from posttrain.models.adapters import (
    LoraSpec,
    active,
    adapter_parameters,
    attach,
    duplicate,
    lora_layers,
    spec_of,
)
from posttrain.models.heads import Policy
from posttrain.models.targets import check_targets, layers_of

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
TOKENS = torch.randint(3, 97, (2, 11), generator=torch.Generator().manual_seed(0))


def stir(parameters: list[nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def logits(model: PreTrainedModel, stack: tuple[str, ...]) -> Tensor:
    with torch.no_grad(), active(model, stack):
        return model(input_ids=TOKENS).logits


def on_disk(family: str, folder: Path) -> tuple[Path, PreTrainedModel]:
    """A base in a folder, and in memory."""
    tiny(family).save_pretrained(folder / "base")
    return folder / "base", AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)


def of_peft(base: Path, adapter: Path) -> Tensor:
    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        return PeftModel.from_pretrained(fresh, adapter)(input_ids=TOKENS).logits


def test_rslora_scales_by_alpha_over_the_root_of_the_rank() -> None:
    model = tiny("llama")
    stir(attach(model, "one", LoraSpec(rank=9, alpha=6.0, targets=("q_proj",), rslora=True)), 1)
    layer = lora_layers(model)["model.layers.0.self_attn.q_proj"]
    a, b = layer.lora_A["one"].weight, layer.lora_B["one"].weight
    x = torch.randn(5, 32)
    with torch.no_grad(), active(model, ("one",)):
        found = layer(x)
        by_hand = x @ layer.get_base_layer().weight.T + 6.0 / 3.0 * (x @ a.T @ b.T)
    torch.testing.assert_close(found, by_hand)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_dora_gives_every_row_of_the_changed_weight_its_own_length(family: str) -> None:
    model = tiny(family)
    stir(attach(model, "one", LoraSpec(rank=3, alpha=6.0, dora=True)), 1)
    for layer in lora_layers(model).values():
        a, b = layer.lora_A["one"].weight, layer.lora_B["one"].weight
        base, m = layer.get_base_layer(), layer.lora_magnitude_vector["one"].weight
        weight = base.weight.T if family == "gpt2" else base.weight
        x = torch.randn(5, weight.shape[1])
        with torch.no_grad(), active(model, ("one",)):
            changed = weight + 2.0 * b @ a
            rows = [
                m[row] * changed[row] / math.sqrt(sum(float(v) ** 2 for v in changed[row])) for row in range(len(m))
            ]
            by_hand = x @ torch.stack(rows).T + (0 if base.bias is None else base.bias)
            torch.testing.assert_close(layer(x), by_hand, rtol=1e-4, atol=1e-5)


def test_dora_is_what_peft_makes_of_the_same_numbers_gradients_too(tmp_path: Path) -> None:
    base, model = on_disk("llama", tmp_path)
    parameters = attach(model, "one", LoraSpec(rank=3, alpha=6.0, dora=True))
    stir(parameters, 1)
    save_adapter(model, ("one",), tmp_path / "one", base=str(base))
    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(fresh, tmp_path / "one", is_trainable=True)
    theirs(input_ids=TOKENS).logits.square().sum().backward()
    with active(model, ("one",)):
        model(input_ids=TOKENS).logits.square().sum().backward()
    wanted = {name: part.grad for name, part in theirs.named_parameters() if part.grad is not None}
    found = {name: part.grad for name, part in model.named_parameters() if part.grad is not None}
    assert len(found) == len(wanted) == 3 * 14
    for name, gradient in found.items():
        assert gradient is not None
        peft_name = f"base_model.model.{name.replace('.one.', '.default.')}"
        torch.testing.assert_close(gradient, wanted[peft_name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_new_dora_changes_nothing_bit_for_bit_under_autocast_too(dtype: torch.dtype) -> None:
    model = tiny("llama")
    attending_by_layout(model)
    model.requires_grad_(False)
    stir(attach(model, "start", LoraSpec(rank=2, alpha=4.0)), 1)
    autocast = torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32)
    with torch.no_grad(), autocast:
        before = Policy(model, stack=("start",))(packed_groups()).logprobs
        attach(model, "new", LoraSpec(rank=3, alpha=6.0, dora=True))
        after = Policy(model, stack=("start", "new"))(packed_groups()).logprobs
    assert torch.equal(after, before)


SPECS = {
    "rslora": LoraSpec(rank=4, alpha=3.0, rslora=True),
    "dora": LoraSpec(rank=4, alpha=8.0, dora=True),
    "dora-rslora": LoraSpec(rank=4, alpha=8.0, dora=True, rslora=True),
    "patterns": LoraSpec(
        rank=2, alpha=4.0, rank_pattern={"o_proj": 5, r"layers\.1\.mlp\.\w+": 3}, alpha_pattern={"o_proj": 1.0}
    ),
}


@pytest.mark.parametrize("kind", ["rslora", "dora", "patterns"])
@pytest.mark.parametrize("start", [(), ("start",), ("start", "dora")], ids=["base", "adapter", "dora"])
def test_a_saved_stack_of_any_kind_is_one_adapter_that_peft_loads_to_the_same_logits(
    kind: str, start: tuple[str, ...], tmp_path: Path
) -> None:
    base, model = on_disk("llama", tmp_path)
    for seed, name in enumerate(start):
        stir(attach(model, name, LoraSpec(rank=2, alpha=4.0, targets=("q_proj", "up_proj"), dora=name == "dora")), seed)
    stir(attach(model, "new", SPECS[kind]), 7)
    stack = (*start, "new")
    save_adapter(model, stack, tmp_path / "saved", base=str(base))
    expected = logits(model, stack)
    assert float((expected - logits(model, start)).abs().max()) > 0.05
    torch.testing.assert_close(of_peft(base, tmp_path / "saved"), expected, rtol=1e-4, atol=1e-4)
    again = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    load_adapter(again, "start", tmp_path / "saved")
    torch.testing.assert_close(logits(again, ("start",)), expected, rtol=1e-4, atol=1e-4)


def test_a_fold_is_the_weight_that_the_layer_applies() -> None:
    model = tiny("llama")
    for seed, (name, dora) in enumerate((("a", True), ("b", False), ("c", True))):
        stir(attach(model, name, LoraSpec(rank=2, alpha=4.0, dora=dora)), seed)
    for place, one in folds(model, ("a", "b", "c")).items():
        layer = lora_layers(model)[place]
        with torch.no_grad(), active(model, ("a", "b", "c")):
            eye = torch.eye(layer.get_base_layer().weight.shape[1])
            torch.testing.assert_close(one.applied(layer.get_base_layer().weight), layer(eye).T, rtol=1e-4, atol=1e-5)


def test_one_adapter_is_saved_as_it_is_with_its_own_rank_and_alpha(tmp_path: Path) -> None:
    base, model = on_disk("llama", tmp_path)
    stir(attach(model, "one", SPECS["patterns"]), 1)
    save_adapter(model, ("one",), tmp_path / "saved", base=str(base))
    config = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 4)
    assert config["rank_pattern"]["model.layers.0.self_attn.o_proj"] == 5
    assert config["rank_pattern"]["model.layers.1.mlp.up_proj"] == 3
    assert config["alpha_pattern"] == {f"model.layers.{n}.self_attn.o_proj": 1 for n in (0, 1)}
    assert "model.layers.0.mlp.up_proj" not in config["rank_pattern"]


@pytest.mark.parametrize("kind", SPECS)
def test_an_adapter_that_goes_on_begins_as_itself_and_leaves_the_start_as_it_was(kind: str) -> None:
    model = tiny("llama")
    stir(attach(model, "start", SPECS[kind]), 1)
    model.requires_grad_(False)
    before = logits(model, ("start",))
    parameters = duplicate(model, "start", "policy")
    shape, own = spec_of(model, "policy"), spec_of(model, "start")
    assert shape == own
    assert (shape.rslora, shape.dora) == (SPECS[kind].rslora, SPECS[kind].dora)
    assert torch.equal(logits(model, ("policy",)), before)
    assert all(part.requires_grad for part in parameters)
    assert not any(part.requires_grad for part in adapter_parameters(model, "start"))
    stir(parameters, 2)
    assert torch.equal(logits(model, ("start",)), before)
    assert not torch.equal(logits(model, ("policy",)), before)


def test_an_adapter_that_peft_made_goes_on_too(tmp_path: Path) -> None:
    base, _ = on_disk("llama", tmp_path)
    config = LoraConfig(
        r=3, lora_alpha=5, use_rslora=True, use_dora=True, target_modules=["q_proj"], task_type="CAUSAL_LM"
    )
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    stir([part for part in theirs.parameters() if part.requires_grad], 3)
    theirs.save_pretrained(tmp_path / "theirs")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    load_adapter(model, "start", tmp_path / "theirs")
    duplicate(model, "start", "policy")
    with torch.no_grad():
        torch.testing.assert_close(logits(model, ("policy",)), theirs(input_ids=TOKENS).logits, rtol=1e-4, atol=1e-5)


def test_a_shape_from_a_whole_model_fits_its_backbone() -> None:
    whole, backbone = tiny("llama"), tiny("llama").base_model
    attach(whole, "start", SPECS["patterns"])
    attach(backbone, "critic", spec_of(whole, "start"))
    of_whole = {name.removeprefix("model."): layer.r["start"] for name, layer in lora_layers(whole).items()}
    assert {name: layer.r["critic"] for name, layer in lora_layers(backbone).items()} == of_whole
    assert set(of_whole.values()) == {2, 3, 5}


@pytest.mark.parametrize(
    ("setting", "names", "says"),
    [
        ("lora.targets", ("q_proj", "vproj"), "named vproj\n  fix: write v_proj for vproj; the "
         "layers end in q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head"),
        ("lora.rank_pattern", ("(q|k)_proj", "(q_proj"), r"lora.rank_pattern: no linear layer is named \(q_proj"),
        ("lora.targets", ("(q|k)_proj",), r"lora.targets: no linear layer is named \(q\|k\)_proj"),
        ("lora.targets", ("model.layers.0.self_attn.qproj",), "write model.layers.0.self_attn.q_proj for"),
    ],
)  # fmt: skip
def test_a_wrong_name_of_a_layer_is_answered_with_the_nearest(setting: str, names: tuple[str, ...], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        check_targets(layers_of(tiny("llama").config), setting, names)


def test_right_names_of_layers_pass() -> None:
    layers = layers_of(tiny("gpt2").config)
    check_targets(layers, "lora.targets", ("c_attn", "transformer.h.0.attn.c_proj", "lm_head"))
    check_targets(layers, "lora.rank_pattern", (r"h\.\d\.mlp\.c_fc",))
