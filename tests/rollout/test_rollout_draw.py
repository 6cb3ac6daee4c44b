"""Drawing tokens: the right distribution, never a token that was cut, and numbers that belong to the sequence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from posttrain.rollout.draw import UniformTable, draw, invert, stream
from posttrain.types import SamplingSpec

DRAWS = 20_000
LARGEST_UNIFORM = 1.0 - 2.0**-24


def spec(**changes: float) -> SamplingSpec:
    return SamplingSpec(max_new_tokens=1, **changes)


def drawn(logits: Tensor, settings: SamplingSpec, count: int = DRAWS) -> Tensor:
    """Token counts [V] of `count` draws from one row of logits [V]."""
    uniforms = torch.from_numpy(np.random.default_rng(5).random(count, dtype=np.float32))
    tokens = torch.cat([draw(logits.expand(len(part), -1), part, settings)[0] for part in uniforms.split(1000)])
    return torch.bincount(tokens, minlength=len(logits))


def assert_distributed(counts: Tensor, probabilities: Tensor) -> None:
    """Pearson's chi-square within four standard deviations of its mean; nothing drawn where the probability is 0.

    Cells expected fewer than five times are drawn together.
    """
    assert int(counts[probabilities == 0].sum()) == 0
    expected = probabilities.double() * counts.sum()
    common = expected >= 5
    seen = torch.cat([counts[common].double(), counts[~common].sum()[None].double()])
    wanted = torch.cat([expected[common], expected[~common].sum()[None]])
    if wanted[-1] < 1:
        seen, wanted = seen[:-1], wanted[:-1]
    statistic = float(((seen - wanted) ** 2 / wanted).sum())
    freedom = len(wanted) - 1
    assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("size", [23, 500, 2048, 2049, 4000])
def test_tokens_follow_the_softmax(size: int) -> None:
    logits = torch.randn(size) * 2
    assert_distributed(drawn(logits, spec()), logits.double().softmax(0))


def test_temperature_divides_the_logits() -> None:
    logits = torch.randn(31)
    assert_distributed(drawn(logits, spec(temperature=0.5)), (logits.double() / 0.5).softmax(0))


@pytest.mark.parametrize("size", [40, 3000])
def test_top_k_draws_from_the_k_largest(size: int) -> None:
    probabilities = torch.randn(size).double().softmax(0)
    kept = set(sorted(range(size), key=lambda token: -float(probabilities[token]))[:7])
    cut = torch.tensor([float(p) if token in kept else 0.0 for token, p in enumerate(probabilities)])
    assert_distributed(drawn(probabilities.log().float(), spec(top_k=7)), cut / cut.sum())


@pytest.mark.parametrize("size", [40, 3000])
def test_top_p_draws_from_the_smallest_set_that_reaches_p(size: int) -> None:
    probabilities = (torch.randn(size) * 2).double().softmax(0)
    kept, share = set[int](), 0.0
    for token in sorted(range(size), key=lambda token: -float(probabilities[token])):
        if share >= 0.7:
            break
        kept.add(token)
        share += float(probabilities[token])
    cut = torch.tensor([float(p) if token in kept else 0.0 for token, p in enumerate(probabilities)])
    assert_distributed(drawn(probabilities.log().float(), spec(top_p=0.7), 6000), cut / cut.sum())


def test_top_p_is_measured_on_what_top_k_left() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    # Of the two that top-k keeps the first has 4/7 = .571 of the probability: enough for .55, not for .6.
    assert (drawn(logits, spec(top_k=2, top_p=0.55), 1000) > 0).tolist() == [True, False, False, False]
    assert (drawn(logits, spec(top_k=2, top_p=0.6), 1000) > 0).tolist() == [True, True, False, False]


def test_min_p_is_relative_to_the_likeliest_token() -> None:
    logits = torch.tensor([0.5, 0.26, 0.16, 0.08]).log()
    assert (drawn(logits, spec(min_p=0.3), 1000) > 0).tolist() == [True, True, True, False]


def test_the_likeliest_token_survives_every_cut() -> None:
    logits = torch.tensor([[0.2, 3.0, 0.1]])
    tokens, _ = draw(logits, torch.tensor([0.999]), spec(top_k=1, top_p=0.0, min_p=1.0))
    assert tokens.tolist() == [1]


def test_logprobs_are_of_the_whole_distribution_at_the_temperature() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    tokens, logprobs = draw(logits, torch.tensor([0.0]), spec(temperature=2.0, top_k=1))
    # Token 2: 1.5 - log(e^.5 + e^1 + e^1.5)
    assert tokens.tolist() == [2]
    assert logprobs.tolist() == pytest.approx([1.5 - math.log(math.exp(0.5) + math.e + math.exp(1.5))], abs=1e-6)


def test_greedy_takes_the_largest_and_reports_logprobs_at_temperature_one() -> None:
    tokens, logprobs = draw(torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([0.0]), spec(temperature=0.0))
    assert tokens.tolist() == [1]
    assert logprobs.tolist() == pytest.approx([math.log(0.75)], abs=1e-6)


@pytest.mark.parametrize("size", [64, 2049, 5000])
def test_a_token_of_weight_zero_is_never_drawn_not_even_at_the_ends(size: int) -> None:
    weights = torch.rand(200, size)
    weights[:, : size // 3] = 0.0
    weights[:, -(size // 3) :] = 0.0
    for uniform in (0.0, LARGEST_UNIFORM):
        chosen = invert(weights, torch.full((200, 1), uniform))
        assert bool((weights.gather(1, chosen) > 0).all())


def test_a_uniform_at_the_border_of_a_block_draws_no_token_of_weight_zero() -> None:
    weights = torch.rand(2000, 4096)
    # Every block of any power-of-two size from 4 to 256 begins and ends with a zero.
    weights[:, 0::4] = weights[:, 3::4] = 0.0
    sums = weights.view(2000, 16, 256).sum(-1).cumsum(-1)
    for block in range(15):
        border = (sums[:, block] / sums[:, -1])[:, None]
        for uniforms in (border, border.nextafter(torch.zeros(())), border.nextafter(torch.ones(()))):
            assert bool((weights.gather(1, invert(weights, uniforms)) > 0).all())


def test_logits_that_are_not_finite_give_a_nan_logprob() -> None:
    for temperature in (0.0, 1.0):
        logits = torch.zeros(2, 3000)
        logits[1, 7] = float("nan")
        _, logprobs = draw(logits, torch.tensor([0.5, 0.5]), spec(temperature=temperature))
        assert logprobs.isnan().tolist() == [False, True]


def test_a_stream_depends_on_seed_round_prompt_and_sample_and_on_nothing_else() -> None:
    settings = SamplingSpec(max_new_tokens=1, seed=1, round=2)
    first = stream(settings, "p", 3).random(4).tolist()
    assert stream(SamplingSpec(max_new_tokens=9, temperature=0.3, seed=1, round=2), "p", 3).random(4).tolist() == first
    others = [
        stream(SamplingSpec(max_new_tokens=1, seed=2, round=2), "p", 3),
        stream(SamplingSpec(max_new_tokens=1, seed=1, round=1), "p", 3),
        stream(settings, "q", 3),
        stream(settings, "p", 4),
    ]
    assert all(other.random(4).tolist() != first for other in others)


def test_slots_read_their_own_streams_through_blocks_and_moves() -> None:
    settings = SamplingSpec(max_new_tokens=1)
    table = UniformTable(3)
    for slot, name in enumerate("abc"):
        table.enter(slot, stream(settings, name, 0))
    seen = {name: [] for name in "abcd"}
    for step in range(200):
        if step == 70:  # a leaves, c moves into its slot
            table.move(2, 0)
        if step == 100:  # b leaves, d enters
            table.enter(1, stream(settings, "d", 0))
        rows = "abc" if step < 70 else "cb" if step < 100 else "cd"
        for name, number in zip(rows, table.take(len(rows)).tolist(), strict=True):
            seen[name].append(number)
    assert [len(numbers) for numbers in seen.values()] == [70, 100, 200, 100]
    for name, numbers in seen.items():
        assert numbers == stream(settings, name, 0).random(len(numbers), dtype=np.float32).tolist()
