"""Stacks of adapters: off is the start bit for bit, what is frozen stays, and a saved stack is what it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from architectures import attending_by_layout, packed_groups, tiny
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from posttrain.engine.local import LocalEngine, ParameterGroup
from posttrain.errors import ModelError
from posttrain.loop import accumulate
from posttrain.models import adapter_files
from posttrain.models.adapters import LoraSpec, active, adapter_names, adapter_parameters, attach, lora_layers
from posttrain.models.heads import Policy
from posttrain.objectives import sft
from posttrain.types import Step, TokenBatch

SPEC = LoraSpec(rank=4, alpha=8)


def stir(parameters: list[nn.Parameter], seed: int) -> None:
    """Trained adapters: neither factor is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def started(family: str, start: tuple[str, ...]) -> PreTrainedModel:
    """A model attending by layouts, with trained frozen adapters of these names."""
    model = tiny(family)
    attending_by_layout(model)
    model.requires_grad_(False)
    for seed, name in enumerate(start):
        stir(attach(model, name, SPEC), seed)
    model.requires_grad_(False)
    return model


def logprobs(model: PreTrainedModel, stack: tuple[str, ...]) -> Tensor:
    with torch.no_grad():
        return Policy(model, stack=stack)(packed_groups()).logprobs


def step(batch: TokenBatch) -> Step:
    return Step(micro_batches=[batch], counts={"tokens": float(batch.trained.sum())})


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("start", [(), ("start",)], ids=["base", "adapter"])
def test_a_new_adapter_changes_nothing_bit_for_bit_on_or_off(family: str, start: tuple[str, ...]) -> None:
    model = started(family, start)
    before = logprobs(model, start)
    attach(model, "new", SPEC)
    assert torch.equal(logprobs(model, start), before)
    assert torch.equal(logprobs(model, (*start, "new")), before)


@pytest.mark.parametrize("start", [(), ("start",)], ids=["base", "adapter"])
def test_the_start_policy_stays_bit_for_bit_while_a_new_adapter_trains_with_weight_decay(
    start: tuple[str, ...],
) -> None:
    model = started("llama", start)
    before = logprobs(model, start)
    frozen = {name: part.clone() for name, part in model.named_parameters()}
    parameters = attach(model, "new", SPEC)
    policy = Policy(model, stack=(*start, "new"))
    group = ParameterGroup(name="policy", parameters=parameters, learning_rate=0.05)
    engine = LocalEngine([group], schedule=lambda done: 1.0, grad_clip=None, weight_decay=0.5)
    for _ in range(3):
        accumulate(step(packed_groups()), sft(policy), engine)
        assert all(part.grad is None for name, part in model.named_parameters() if ".new." not in name)
        engine.step([])
    assert float((logprobs(model, (*start, "new")) - before).abs().max()) > 0.1
    assert torch.equal(logprobs(model, start), before)
    now = {name.replace(".base_layer", ""): part for name, part in model.named_parameters()}
    for name, was in frozen.items():
        assert torch.equal(now[name.replace(".base_layer", "")], was), name


def test_switching_roles_leaves_each_adapter_its_own_gradient() -> None:
    model = started("llama", ("start",))
    first, second = attach(model, "policy", SPEC), attach(model, "critic", SPEC)
    stir(first, 3)
    stir(second, 4)
    wanted: list[list[Tensor]] = []
    for name, parameters in (("policy", first), ("critic", second)):
        Policy(model, stack=("start", name))(packed_groups()).logprobs.sum().backward()
        wanted.append([part.grad.clone() for part in parameters if part.grad is not None])
        model.zero_grad()
    both = [Policy(model, stack=("start", name))(packed_groups()).logprobs.sum() for name in ("policy", "critic")]
    # backward after both forwards: what was active when a gradient is taken must not matter
    (both[0] + both[1]).backward()
    for parameters, gradients in zip((first, second), wanted, strict=True):
        assert len(gradients) == len(parameters) > 0
        for parameter, gradient in zip(parameters, gradients, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-6)


def test_a_head_recomputed_in_backward_finds_its_own_role(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain.ops.logprob.head_logprobs.__kwdefaults__", {"temperature": 1.0, "max_elements": 97})
    model = tiny("llama", tie_word_embeddings=False)
    attending_by_layout(model)
    parameters = attach(model, "policy", LoraSpec(rank=4, alpha=8, targets=("lm_head",)))
    stir(parameters, 5)
    total = Policy(model, stack=("policy",))(packed_groups()).logprobs.sum()
    with active(model, ()):
        total.backward()
    assert all(float(part.grad.abs().max()) > 0 for part in parameters if part.grad is not None)
    assert all(part.grad is not None for part in parameters)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's own
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mixtral"])
def test_a_saved_stack_is_one_adapter_that_peft_loads_with_the_same_logits(family: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny(family).save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    stir(attach(model, "start", SPEC), 1)
    stir(attach(model, "new", LoraSpec(rank=3, alpha=24)), 2)
    tokens = torch.randint(3, 97, (2, 11))
    with torch.no_grad(), active(model, ("start", "new")):
        expected = model(input_ids=tokens).logits
    with torch.no_grad(), active(model, ()):
        unadapted = model(input_ids=tokens).logits
    adapter_files.save_adapter(model, ("start", "new"), tmp_path / "both", base=str(base))
    fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(fresh, tmp_path / "both")
    with torch.no_grad():
        found = loaded(input_ids=tokens).logits
    assert float((expected - unadapted).abs().max()) > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_adapters_of_unequal_reach_are_saved_with_a_rank_for_each_layer(tmp_path: Path) -> None:
    base = tmp_path / "base"
    tiny("llama").save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    stir(attach(model, "start", LoraSpec(rank=2, alpha=4, targets=("q_proj", "down_proj"))), 1)
    stir(attach(model, "new", LoraSpec(rank=5, alpha=5, targets=("q_proj", "v_proj"))), 2)
    adapter_files.save_adapter(model, ("start", "new"), tmp_path / "both", base=str(base))
    again = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert adapter_files.load_adapter(again, "start", tmp_path / "both") is None
    found = adapter_files.folds(again, ("start",))
    for name, one in found.items():
        wanted = adapter_files.folds(model, ("start", "new"))[name]
        assert torch.equal(one.b @ one.a, wanted.b @ wanted.a), name
    ranks = {name.rpartition(".")[2]: one.a.shape[0] for name, one in found.items()}
    assert ranks == {"q_proj": 7, "down_proj": 2, "v_proj": 5}


def test_the_first_factor_comes_from_the_seed_and_never_twice_in_a_stack() -> None:
    def spec(seed: int) -> LoraSpec:
        return LoraSpec(rank=4, alpha=8.0, seed=seed)

    models = [started("llama", ()) for _ in range(3)]
    drawn = [attach(model, "one", spec(seed)) for model, seed in zip(models, (0, 0, 1), strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not torch.equal(drawn[0][0], drawn[2][0])
    second = attach(models[0], "two", spec(0))
    assert not torch.equal(drawn[0][0], second[0])


def test_dropout_of_an_adapter_acts_where_gradients_are_recorded_and_nowhere_else() -> None:
    model = started("llama", ())
    parameters = attach(model, "new", LoraSpec(rank=4, alpha=8, dropout=0.5))
    stir(parameters, 1)
    policy, batch = Policy(model, stack=("new",)).train(), packed_groups()
    assert torch.equal(logprobs(model, ("new",)), logprobs(model, ("new",)))
    with torch.inference_mode():
        assert torch.equal(policy(batch).logprobs, policy(batch).logprobs)
    assert not torch.equal(policy(batch).logprobs, policy(batch).logprobs)


def test_all_linear_is_every_linear_layer_but_the_head_and_the_fused_experts() -> None:
    reached: dict[str, set[str]] = {family: set() for family in ("llama", "gpt2", "mixtral")}
    for family in reached:
        model = started(family, ())
        attach(model, "new", SPEC)
        reached[family] = {name.rpartition(".")[2] for name in lora_layers(model)}
    assert reached == {
        "llama": {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"},
        "gpt2": {"c_attn", "c_proj", "c_fc"},
        "mixtral": {"q_proj", "k_proj", "v_proj", "o_proj"},
    }


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys:RuntimeWarning")
@pytest.mark.parametrize(
    ("family", "targets", "message"),
    [
        ("llama", ("no_such_layer",), "LoRA cannot be attached: Target modules"),
        ("mixtral", ("w1", "w2", "w3"), "fused expert weights\n  fix: name linear layers in lora.targets"),
    ],
)
def test_targets_that_fit_nothing_are_refused(family: str, targets: tuple[str, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message.replace(".", r"\.")):
        attach(started(family, ()), "new", LoraSpec(rank=4, alpha=8, targets=targets))


def test_attaching_freezes_the_base_and_loading_leaves_what_trains_as_it_was(tmp_path: Path) -> None:
    model = tiny("llama")
    attach(model, "policy", SPEC)
    adapter_files.save_adapter(model, ("policy",), tmp_path, base="somewhere")
    adapter_files.load_adapter(model, "reward", tmp_path)
    assert {name for name, part in model.named_parameters() if part.requires_grad} == {
        name for name, _ in model.named_parameters() if ".policy." in name
    }
    other = tiny("llama")
    adapter_files.load_adapter(other, "reward", tmp_path)
    assert not any(part.requires_grad for part in other.parameters())


def test_a_name_is_given_once() -> None:
    model = started("llama", ("start",))
    assert adapter_names(model) == ("start",)
    with pytest.raises(ModelError, match="an adapter named 'start' is already attached"):
        attach(model, "start", SPEC)


def test_the_parameters_of_an_adapter_are_its_own() -> None:
    model = started("llama", ("start",))
    parameters = attach(model, "new", SPEC)
    assert [part.requires_grad for part in parameters] == [True] * 2 * 14
    assert {id(part) for part in parameters} == {id(part) for name, part in model.named_parameters() if ".new." in name}
    assert not any(part.requires_grad for part in adapter_parameters(model, "start"))
