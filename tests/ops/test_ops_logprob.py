"""Log-probs through a chunked language head."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from posttrain.ops.logprob import head_logprobs, head_logprobs_and_entropy, head_top, heads_divergence


def problem(rows: int) -> tuple[Tensor, Tensor, nn.Linear]:
    head = nn.Linear(5, 11).double()
    return torch.randn(rows, 5, dtype=torch.float64, requires_grad=True), torch.randint(11, (rows,)), head


@pytest.mark.parametrize("max_elements", [1, 11 * 7, 2**24])
def test_chunks_change_neither_values_nor_gradients(max_elements: int) -> None:
    hidden, targets, head = problem(60)
    weights = torch.randn(60, dtype=torch.float64)
    whole = (head(hidden) / 0.7).log_softmax(-1)[range(60), targets]
    wanted = torch.autograd.grad(whole @ weights, [hidden, *head.parameters()])
    chunked = head_logprobs(hidden, targets, head, temperature=0.7, max_elements=max_elements)
    found = torch.autograd.grad(chunked @ weights, [hidden, *head.parameters()])
    torch.testing.assert_close(chunked, whole)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("max_elements", [11, 2**24])
def test_entropy_and_its_gradient_are_those_of_the_whole_distribution(max_elements: int) -> None:
    hidden, targets, head = problem(40)
    distribution = torch.distributions.Categorical(logits=head(hidden) / 1.3)
    wanted = torch.autograd.grad(distribution.entropy().sum(), hidden, retain_graph=True)
    logprobs, entropy = head_logprobs_and_entropy(hidden, targets, head, temperature=1.3, max_elements=max_elements)
    torch.testing.assert_close(entropy, distribution.entropy())
    torch.testing.assert_close(logprobs, distribution.log_prob(targets))
    torch.testing.assert_close(torch.autograd.grad(entropy.sum(), hidden), wanted)


def test_the_logits_of_all_rows_never_exist_at_once() -> None:
    hidden, targets, head = problem(500)
    sizes: list[int] = []

    def watched(rows: Tensor) -> Tensor:
        logits = head(rows)
        sizes.append(logits.numel())
        return logits

    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logprobs = head_logprobs(hidden, targets, watched, max_elements=11 * 50)
    logprobs.sum().backward()
    assert max(sizes) == 11 * 50
    assert sum(sizes) == 11 * (500 + 484), "the first 16 rows run once, the others once more in backward"
    assert max(saved) < 500 * 11 / 2, "no logits are kept for backward"


def test_without_gradients_the_head_runs_once_a_row() -> None:
    hidden, targets, head = problem(100)
    rows: list[int] = []

    def watched(part: Tensor) -> Tensor:
        rows.append(len(part))
        return head(part)

    with torch.no_grad():
        head_logprobs(hidden, targets, watched, max_elements=11 * 42)
    assert rows == [16, 42, 42]


def test_no_rows_give_no_log_probs_and_stay_differentiable() -> None:
    hidden, targets, head = problem(0)
    logprobs, entropy = head_logprobs_and_entropy(hidden, targets, head)
    assert logprobs.shape == entropy.shape == head_logprobs(hidden, targets, head).shape == (0,)
    (logprobs.sum() + entropy.sum()).backward()
    assert hidden.grad is not None
    assert hidden.grad.shape == (0, 5)


def test_half_precision_logits_are_normalised_in_float32() -> None:
    hidden = torch.randn(20, 5).bfloat16()
    head = nn.Linear(5, 11).bfloat16()
    targets = torch.randint(11, (20,))
    logprobs = head_logprobs(hidden, targets, head)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, head(hidden).float().log_softmax(-1)[range(20), targets])


def test_large_logits_and_impossible_tokens_are_harmless() -> None:
    logits = torch.tensor([[1e4, -1e4, -math.inf]], requires_grad=True)
    logprobs, entropy = head_logprobs_and_entropy(logits, torch.tensor([1]), lambda rows: rows)
    (logprobs.sum() + entropy.sum()).backward()
    assert logprobs.item() == -2e4
    assert entropy.item() == 0.0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("max_elements", [1, 11 * 3, 2**24])
def test_the_divergence_of_two_heads_is_the_sum_over_the_vocabulary_however_it_is_cut(max_elements: int) -> None:
    hidden, _, head = problem(10)
    other_hidden, _, other = problem(10)
    found = heads_divergence(hidden, head, other_hidden, other, temperature=0.7, max_elements=max_elements)
    for row in range(10):
        first, second = ((a(b[row]) / 0.7).softmax(-1).tolist() for a, b in ((head, hidden), (other, other_hidden)))
        terms = [p * math.log(p / q) for p, q in zip(first, second, strict=True)]
        assert found[row].item() == pytest.approx(sum(terms), rel=1e-9)


def test_only_a_chunk_of_the_logits_of_two_heads_exists_at_a_time() -> None:
    hidden, _, head = problem(40)
    seen: list[int] = []

    def watched(rows: Tensor) -> Tensor:
        seen.append(len(rows))
        return head(rows)

    heads_divergence(hidden, watched, hidden, head, max_elements=11 * 7)
    assert max(seen) == 7
    assert heads_divergence(hidden[:0], head, hidden[:0], head).tolist() == []


def test_a_token_that_all_but_never_comes_keeps_its_log_prob() -> None:
    # softmax and then log gives -inf here
    logits = torch.tensor([[200.0, 0.0]])
    found = head_logprobs(logits, torch.tensor([1]), lambda hidden: hidden)
    assert found.tolist() == [-200.0]


def test_the_divergence_is_at_temperature_one_unless_told_otherwise() -> None:
    hidden, _, head = problem(3)
    other = hidden.flip(0)
    first, second = ((head(rows)).log_softmax(-1) for rows in (hidden, other))
    expected = (first.exp() * (first - second)).sum(-1)
    torch.testing.assert_close(heads_divergence(hidden, head, other, head), expected)


@pytest.mark.parametrize("max_elements", [1, 11 * 7, 2**24])
def test_the_likeliest_tokens_are_those_of_the_whole_distribution(max_elements: int) -> None:
    hidden, _, head = problem(40)
    order = (head(hidden) / 0.7).log_softmax(-1).sort(dim=-1, descending=True)
    tokens, logprobs = head_top(hidden, head, 5, temperature=0.7, max_elements=max_elements)
    assert torch.equal(tokens, order.indices[:, :5])
    torch.testing.assert_close(logprobs, order.values[:, :5].detach())
    assert not logprobs.requires_grad


def test_a_small_vocabulary_has_fewer_alternatives_and_no_rows_none() -> None:
    hidden, _, head = problem(3)
    assert head_top(hidden, head, 20)[0].shape == (3, 11)
    assert [part.shape for part in head_top(hidden[:0], head, 5)] == [(0, 5), (0, 5)]
