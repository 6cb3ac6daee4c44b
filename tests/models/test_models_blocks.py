"""Packed attention in one kernel call: who sees whom by brute force, outputs beside the layout by rows, few lengths."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from architectures import attending_by_layout, packed_groups, tiny, tiny_policy
from torch import Tensor

from posttrain.data.pack import pack
from posttrain.models import blocks
from posttrain.models.attention import AttentionTerms, PackedLayout, rows_of, using
from posttrain.models.blocks import BLOCK, BlockLayout, Lengths, attend_by_blocks, filled_to
from posttrain.types import PrefixGroup, Span, TokenBatch, moved

PLAIN = AttentionTerms(scaling=None, window=None, softcap=None, sinks=None)
WINDOWS = [None, 1, 5, 150]
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def stream(lengths: Sequence[tuple[int, Sequence[int]]]) -> TokenBatch:
    """Prompts of so many tokens, with answers of so many."""
    return pack(
        [
            PrefixGroup(
                id=str(number),
                root=Span.all([7] * root, trained=False),
                branches=tuple(Span.all([8] * length, trained=True) for length in answers),
            )
            for number, (root, answers) in enumerate(lengths)
        ]
    )


SHORT = stream([(3, (2, 0, 4)), (1, ()), (5, (1,))])
LONG = stream([(200, (90, 150)), (40, ()), (30, (5, 5)), (129, (1, 3))])


def by_hand(batch: TokenBatch, length: int, window: int | None) -> Tensor:
    """Bool [length, length]: for each token of each sequence those before it there; the filling is one by itself."""
    seen = torch.zeros(length, length, dtype=torch.bool)
    for row in [*rows_of(batch), list(range(len(batch.tokens), length))]:
        for place, query in enumerate(row):
            seen[query, row[max(0, place + 1 - (window or length)) : place + 1]] = True
    return seen


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("batch", [SHORT, LONG], ids=["short", "long"])
def test_a_token_sees_its_sequence_up_to_itself_within_the_window_and_nothing_else(
    batch: TokenBatch, window: int | None
) -> None:
    length = Lengths()(len(batch.tokens) + 3)
    place = torch.arange(length)
    sees = BlockLayout(batch, length).mask(window).mask_mod
    found = sees(torch.tensor(0), torch.tensor(0), place[:, None], place[None])
    assert torch.equal(found, by_hand(batch, length, window))


@pytest.mark.parametrize("window", WINDOWS)
def test_blocks_are_those_with_anything_to_see_and_those_seen_whole(window: int | None) -> None:
    length = 1024
    some, every = BlockLayout(LONG, length).blocks(window)
    seen = by_hand(LONG, length, window).view(length // BLOCK, BLOCK, length // BLOCK, BLOCK)
    assert torch.equal(some, seen.any(dim=3).any(dim=1))
    assert torch.equal(every, seen.all(dim=3).all(dim=1))
    assert window == 1 or bool(some.any())


TERMS = {
    "plain": PLAIN,
    "scaled": AttentionTerms(scaling=0.3, window=None, softcap=None, sinks=None),
    "window": AttentionTerms(scaling=None, window=20, softcap=None, sinks=None),
    "softcap": AttentionTerms(scaling=None, window=None, softcap=1.5, sinks=None),
    "sinks": AttentionTerms(scaling=None, window=70, softcap=None, sinks=torch.tensor([0.5, -1.0, 2.0, 0.0])),
}


def streams(length: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(length, 4, 16, generator=generator)
    return query, *(torch.randn(length, 2, 16, generator=generator) for _ in range(2))


@pytest.mark.parametrize("name", TERMS)
def test_the_output_is_that_of_the_layout_by_rows_whatever_fills_the_stream(name: str) -> None:
    tokens = len(LONG.tokens)
    length = Lengths()(tokens)
    assert length > tokens
    given = streams(length)
    wanted = PackedLayout(LONG).attend(*(tensor[:tokens] for tensor in given), TERMS[name])
    for seed in (0, 1):
        pairs = zip(given, streams(length, seed), strict=True)
        filled = [torch.cat([mine[:tokens], other[tokens:]]) for mine, other in pairs]
        found = BlockLayout(LONG, length).attend(*filled, TERMS[name])
        torch.testing.assert_close(found[:tokens], wanted, rtol=1e-5, atol=1e-5)
        assert bool(found.isfinite().all())


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3_text", "gpt_oss", "gpt2"])
def test_whole_models_give_the_hidden_states_of_the_layout_by_rows(family: str) -> None:
    model, batch = tiny(family), packed_groups()
    attending_by_layout(model)
    trunk, tokens = model.base_model, len(batch.tokens)
    layout = BlockLayout(batch, Lengths()(tokens))
    with torch.inference_mode():
        with using(PackedLayout(batch)):
            wanted = trunk(input_ids=batch.tokens[None], position_ids=batch.positions[None], use_cache=False)
        with using(layout):
            found = trunk(input_ids=layout.tokens[None], position_ids=layout.positions[None], use_cache=False)
    torch.testing.assert_close(found.last_hidden_state[:, :tokens], wanted.last_hidden_state, rtol=1e-4, atol=1e-4)


def test_a_layout_is_made_without_a_number_read_from_its_device() -> None:
    layout = BlockLayout(moved(LONG, "meta"), 1024)
    assert layout.mask(150).shape == (1, 1, 1024, 1024)


def test_a_thousand_ragged_streams_have_at_most_eight_lengths_once_the_longest_is_known() -> None:
    draw, lengths = random.Random(0), Lengths()
    lengths(8192)
    seen: set[int] = set()
    for _ in range(1000):
        tokens = draw.randint(1, 8192)
        filled = lengths(tokens)
        assert tokens <= filled < tokens + 1024
        assert filled % BLOCK == 0
        seen.add(filled)
    assert len(seen) <= 8


def test_a_policy_whose_trunk_attends_by_blocks_has_the_log_probs_it_had() -> None:
    policy, batch = tiny_policy(), packed_groups()
    with torch.inference_mode():
        wanted = policy(batch).logprobs
        attend_by_blocks(policy.trunk.model, on=True)
        found = policy(batch).logprobs
        assert filled_to(policy.trunk.model, 129) == 256
        attend_by_blocks(policy.trunk.model, on=False)
        assert torch.equal(policy(batch).logprobs, wanted)
    assert not torch.equal(found, wanted)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_length_that_is_no_whole_number_of_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="130 is not a multiple of 128"):
        BlockLayout(SHORT, 130)


@pytest.mark.gpu
@pytest.mark.parametrize("name", TERMS)
def test_on_a_gpu_outputs_and_gradients_are_those_of_the_layout_by_rows(name: str) -> None:
    batch, terms = moved(LONG, "cuda"), TERMS[name]
    if terms.sinks is not None:
        terms = AttentionTerms(scaling=None, window=terms.window, softcap=None, sinks=terms.sinks.cuda())
    tokens = len(LONG.tokens)
    length = Lengths()(tokens)
    results: list[list[Tensor]] = []
    for layout, last in ((PackedLayout(batch), tokens), (BlockLayout(batch, length), length)):
        given = [tensor[:last].cuda().requires_grad_() for tensor in streams(length)]
        output = layout.attend(*given, terms)[:tokens]
        output.square().sum().backward()
        gradients = [tensor.grad[:tokens] for tensor in given if tensor.grad is not None]
        results.append([output.detach(), *gradients])
    for wanted, found in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-3)


def test_the_kernel_may_be_compiled_for_many_lengths_whatever_is_set_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config = cast("Any", torch)._dynamo.config
    monkeypatch.setattr(
        torch, "compile", lambda *_, **__: lambda: (config.recompile_limit, config.fail_on_recompile_limit_hit)
    )
    attend = cast("Any", blocks)._compiled.__wrapped__()
    with config.patch(recompile_limit=8, fail_on_recompile_limit_hit=True):
        assert attend() == (blocks.KERNELS, False)
        assert config.recompile_limit == 8
