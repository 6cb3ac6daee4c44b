"""Packed with shared prefixes equals one sequence at a time, forwards and backwards, on every family."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from architectures import ALONE, PACKED, attending_by_layout, groups, packed_groups, tiny
from torch import Tensor
from transformers import PreTrainedModel

from posttrain.errors import ModelError
from posttrain.models import adapters, attention
from posttrain.models.adapters import LoraSpec, adapter_parameters, attach
from posttrain.models.heads import Policy, ScalarModel, scalar_head
from posttrain.models.load import load_causal
from posttrain.models.parity import gate_policy, gate_scalar, probe_batch
from posttrain.ops.linear_head import LinearHead

RELATIVE = 1e-5


def sequences() -> Iterator[tuple[list[int], list[bool]]]:
    """Every sequence of the batch on its own, prefix repeated, in the order of the packed stream's trained tokens."""
    for group in groups():
        for branch in group.branches:
            yield (
                [*group.root.tokens, *branch.tokens],
                [*(False for _ in group.root.tokens), *branch.trained],
            )
        if not group.branches:
            yield [*group.root.tokens], [*group.root.trained]


def expected_logprobs(model: PreTrainedModel) -> Tensor:
    """Log-probs of the trained tokens by the model's own forward, one sequence at a time, no code of ours."""
    parts: list[Tensor] = []
    for tokens, trained in sequences():
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].float()
        chosen = logits[:-1].log_softmax(-1).gather(-1, torch.tensor(tokens[1:])[:, None]).squeeze(-1)
        parts.append(chosen[torch.tensor(trained[1:])])
    return torch.cat(parts)


def uneven(values: Tensor) -> Tensor:
    """A weight for each token, so that a gradient that reaches the wrong token shows."""
    return torch.linspace(-1.0, 2.0, len(values))


def gradients(model: PreTrainedModel, values: Tensor) -> dict[str, Tensor]:
    """The gradient of every parameter that has one, and none left behind."""
    model.zero_grad()
    (values * uneven(values)).sum().backward()
    found = {name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None}
    model.zero_grad()
    return found


def assert_close(found: Tensor, expected: Tensor, name: str, *, least: float = 0.0) -> None:
    difference, size = float((found - expected).norm()), float(expected.norm())
    assert difference <= RELATIVE * max(size, least), f"{name}: {difference:.1e} of {size:.1e}"


def assert_gradients_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Each relative to its own norm; one that is nothing but rounding (a key's bias) to a hundredth of the largest."""
    assert found.keys() == expected.keys()
    least = 0.01 * max(float(gradient.norm()) for gradient in expected.values())
    for name, gradient in expected.items():
        assert_close(found[name], gradient, name, least=least)


def assert_packed_equals_alone(model: PreTrainedModel, policy: Policy) -> None:
    alone = expected_logprobs(model)
    wanted = gradients(model, alone)
    own = attending_by_layout(model)
    batch = packed_groups()
    packed = policy(batch).logprobs[batch.trained]
    found = gradients(model, packed)
    model.set_attn_implementation(own)
    assert float(alone.detach().std()) > 0.3, "outputs are nearly uniform and would hide a fault"
    assert_close(packed.detach(), alone.detach(), "log-probs")
    assert_gradients_close(found, wanted)


@pytest.mark.parametrize("family", PACKED)
def test_packed_log_probs_and_gradients_equal_one_sequence_at_a_time(family: str) -> None:
    model = tiny(family)
    assert_packed_equals_alone(model, Policy(model))


@pytest.mark.parametrize("family", ["llama", "phi", "gpt2", "gemma2"])
def test_an_adapted_head_is_honoured(family: str) -> None:
    model = tiny(family, tie_word_embeddings=False)
    added = attach(
        model, "new", LoraSpec(rank=4, alpha=8, targets=("lm_head", "q_proj" if family != "gpt2" else "c_attn"))
    )
    with torch.no_grad():
        for parameter in added:
            parameter.add_(torch.randn_like(parameter) * 0.2)
    assert any("lm_head" in name for name in adapters.lora_layers(model))
    with adapters.active(model, ("new",)):
        assert_packed_equals_alone(model, Policy(model, stack=("new",)))


@pytest.mark.parametrize("family", PACKED)
def test_the_gate_lets_a_family_be_packed_with_and_without_an_adapter(family: str) -> None:
    model = tiny(family)
    own = attending_by_layout(model)
    assert gate_policy(Policy(model), own).packing
    before = attach(model, "new", LoraSpec(rank=4, alpha=8))
    copies = [parameter.clone() for parameter in before]
    parity = gate_policy(Policy(model, stack=("new",)), own)
    assert parity.packing, parity.reason
    assert all(torch.equal(parameter, copy) for parameter, copy in zip(before, copies, strict=True))


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "gemma2", "gpt_oss"])
def test_the_gate_lets_a_scalar_model_be_packed(family: str) -> None:
    model = tiny(family)
    own = attending_by_layout(model)
    backbone = model.base_model
    assert gate_scalar(ScalarModel(backbone, scalar_head(32)), own).packing


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ALONE)
def test_families_with_attention_of_their_own_run_one_sequence_at_a_time_with_the_reason(family: str) -> None:
    model = tiny(family)
    wanted = expected_logprobs(model).detach()
    own = attending_by_layout(model)
    policy = Policy(model)
    parity = gate_policy(policy, own)
    assert not parity.packing
    assert not policy.trunk.packing
    assert ("0 of 2 layers" if family != "llama4_text" else "its layers attend within chunks") in parity.reason
    batch = packed_groups()
    assert_close(policy(batch).logprobs[batch.trained].detach(), wanted, family)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["llama", "gpt_neo"])
def test_one_sequence_at_a_time_has_the_gradients_of_packing(family: str) -> None:
    model = tiny(family)
    batch = packed_groups()
    wanted = gradients(model, expected_logprobs(model))
    found = gradients(model, Policy(model, packing=False)(batch).logprobs[batch.trained])
    assert_gradients_close(found, wanted)


class _PlainHead(Policy):
    """A policy that reads the head's weight and forgets what the model does around it."""

    def logits(self, hidden: Tensor) -> Tensor:
        head = self.model.get_output_embeddings()
        assert isinstance(head, torch.nn.Linear)
        return hidden @ head.weight.T

    def _linear(self, read: Tensor) -> LinearHead:
        head = self.model.get_output_embeddings()
        assert isinstance(head, torch.nn.Linear)
        return LinearHead(weight=head.weight)


@pytest.mark.parametrize("family", ["phi", "gemma2", "granite", "cohere"])
def test_the_gate_refuses_a_head_whose_bias_cap_or_scale_is_left_out(family: str) -> None:
    model = tiny(family)
    own = attending_by_layout(model)
    with pytest.raises(ModelError, match=r"outputs differ from the model's own by .*, packed or not"):
        gate_policy(_PlainHead(model), own)


@pytest.mark.parametrize(("family", "keyword"), [("gemma2", "softcap"), ("gpt_oss", "s_aux"), ("mistral", "window")])
def test_the_gate_falls_back_when_an_attention_term_is_lost(
    family: str, keyword: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = attention.AttentionTerms

    def without(**terms: object) -> object:
        return whole(**{**terms, {"s_aux": "sinks"}.get(keyword, keyword): None})

    model = tiny(family)
    own = attending_by_layout(model)
    monkeypatch.setattr(attention, "AttentionTerms", without)
    parity = gate_policy(Policy(model), own)
    assert not parity.packing
    assert "packed log-probs differ from the model's own" in parity.reason


def test_packing_off_is_a_choice_with_the_same_log_probs() -> None:
    model = tiny("llama")
    own = attending_by_layout(model)
    batch = packed_groups()
    packed = Policy(model)(batch).logprobs.detach()
    policy = Policy(model)
    parity = gate_policy(policy, own, packing=False)
    assert (parity.packing, parity.reason) == (False, "packing: off was asked for")
    assert_close(policy(batch).logprobs.detach(), packed, "packing off")


def test_dropout_of_the_model_is_silent_after_loading(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("dropout")
    tiny("gpt2", attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5).save_pretrained(folder)
    model = load_causal(str(folder)).model.train()
    batch = packed_groups()
    policy = Policy(model)
    assert torch.equal(policy(batch).logprobs, policy(batch).logprobs)


def test_the_probe_has_shared_prefixes_and_trains_every_token_that_something_predicts() -> None:
    batch = probe_batch(tiny("llama"))
    assert (batch.parent >= 0).sum() == 3
    assert torch.equal(batch.trained, batch.predictor >= 0)


def test_the_adapters_of_one_family_change_what_it_says() -> None:
    model = tiny("llama")
    attending_by_layout(model)
    batch = packed_groups()
    attach(model, "new", LoraSpec(rank=4, alpha=8))
    before = Policy(model)(batch).logprobs.detach()
    with torch.no_grad():
        for parameter in adapter_parameters(model, "new"):
            parameter.add_(0.1)
    assert torch.equal(Policy(model)(batch).logprobs, before)
    with torch.no_grad():
        assert float((Policy(model, stack=("new",))(batch).logprobs - before).abs().max()) > 0.1
