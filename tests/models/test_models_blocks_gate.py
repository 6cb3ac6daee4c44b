"""Where attention by blocks is used: on a device with kernels for it, when it agrees with rows, gradients too."""

from __future__ import annotations

import pytest
import torch
from architectures import attending_by_layout, tiny, tiny_policy, tiny_scalar
from torch import Tensor

from posttrain.models import blocks_gate
from posttrain.models.attention import AttentionTerms, PackedLayout
from posttrain.models.blocks import BlockLayout, filled_to
from posttrain.models.blocks_gate import blocks_differ
from posttrain.models.parity import gate_policy, gate_scalar, random_batch


class _WithBackward(BlockLayout):
    """In place of the kernel, which has no backward pass on a CPU: all logits at once. With `wrong` gradients are."""

    wrong = 1.0

    def attend(self, query: Tensor, key: Tensor, value: Tensor, terms: AttentionTerms) -> Tensor:
        place = torch.arange(len(query))
        seen = self.mask(terms.window).mask_mod(place, place, place[:, None], place[None])
        key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for tensor in (key, value))
        logits = torch.einsum("qhd,khd->hqk", query, key) * query.shape[-1] ** -0.5
        weights = logits.masked_fill(~seen, -torch.inf).softmax(dim=-1)
        output = torch.einsum("hqk,khd->qhd", weights, value)
        return output * self.wrong + output.detach() * (1 - self.wrong)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> type[_WithBackward]:
    """The CPU is taken for a device with kernels, and these are the layout that computes what they would."""
    monkeypatch.setattr(blocks_gate, "KERNELS", ("cpu",))
    monkeypatch.setattr(blocks_gate, "BlockLayout", _WithBackward)
    monkeypatch.setattr(_WithBackward, "wrong", 1.0)
    return _WithBackward


def test_without_kernels_attention_stays_by_rows() -> None:
    policy = tiny_policy()
    parity = gate_policy(policy, "sdpa")
    assert (parity.packing, parity.blocks, parity.way) == (True, False, "packed")
    assert filled_to(policy.trunk.model, 5) is None


@pytest.mark.usefixtures("kernels")
def test_kernels_that_agree_are_used_by_every_model_on_the_trunk() -> None:
    policy, scalar = tiny_policy(), tiny_scalar()
    assert gate_policy(policy, "sdpa").way == "packed, attention in one kernel"
    assert gate_scalar(scalar, "sdpa").blocks
    assert filled_to(policy.trunk.model, 5) == filled_to(scalar.model, 5) == 128
    assert not gate_policy(policy, "sdpa", packing=False).blocks
    assert filled_to(policy.trunk.model, 5) is None


def test_kernels_with_another_gradient_are_not_used(
    kernels: type[_WithBackward], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "wrong", 0.9)
    policy = tiny_policy()
    parity = gate_policy(policy, "sdpa")
    assert parity.packing
    assert parity.way.startswith("packed, attention by rows: differs from the layout by rows by ")
    assert filled_to(policy.trunk.model, 5) is None


def test_kernels_that_fail_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_gate, "KERNELS", ("cpu",))  # where FlexAttention has no backward pass
    parity = gate_policy(tiny_policy(), "sdpa")
    assert parity.packing
    assert parity.way.startswith("packed, attention by rows: FlexAttention does not support backward on CPU")


def test_the_probe_has_several_blocks_and_what_they_see_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama", max_position_embeddings=128)
    attending_by_layout(model)
    policy = tiny_policy()
    batch = random_batch(policy.model, [40, 30, 40, 55, 25, 70], (-1, 0, 0, -1, 3, -1))
    assert len(batch.tokens) > 2 * 128
    assert blocks_gate.PackedLayout is PackedLayout
    monkeypatch.setattr(blocks_gate, "BlockLayout", _Blind)
    assert "differs" in blocks_differ(policy.trunk, batch)


@pytest.mark.usefixtures("kernels")
def test_a_last_norm_that_nothing_was_learnt_in_is_no_reason_against_kernels() -> None:
    policy = tiny_policy()
    torch.nn.init.ones_(
        policy.trunk.model.norm.weight
    )  # so the squares of hidden states have one sum, whatever they are
    assert gate_policy(policy, "sdpa").way == "packed, attention in one kernel"


class _Blind(_WithBackward):
    """Sees nothing of a shared prefix."""

    def __init__(self, batch: object, length: int) -> None:
        super().__init__(batch, length)  # pyright: ignore[reportArgumentType]
        self._parent = torch.full_like(self._parent, -1)
