"""Log-probs through a linear head whose gradients are made in the chunk: right for every loss, and in few products."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from posttrain.ops.linear_head import Ahead, LinearHead, Proofs, linear_logprobs

V, D, M = 11, 5, 60
GROUP = torch.arange(M) // 5


class Products(TorchDispatchMode):
    """Counts the multiplications that matrix products with the vocabulary cost, in units of M V D."""

    def __init__(self) -> None:
        super().__init__()
        self.units = 0.0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # pyright: ignore
        found = function(*args, **(kwargs or {}))
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
            first, second = args[-2:]
            self.units += first.shape[0] * first.shape[1] * second.shape[1] / (M * V * D)
        return found


def problem(*, bias: bool = True, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, nn.Linear]:
    torch.manual_seed(0)
    head = nn.Linear(D, V, bias=bias).to(dtype)
    return torch.randn(M, D, dtype=dtype, requires_grad=True), torch.randint(V, (M,)), head


def linear(head: nn.Linear, scale: float = 1.0) -> LinearHead:
    return LinearHead(weight=head.weight, bias=head.bias, scale=scale)


def tokens_loss(logprobs: Tensor) -> Tensor:
    return -(logprobs * torch.linspace(-1, 1, M, dtype=logprobs.dtype)).sum()


def clipped_loss(logprobs: Tensor) -> Tensor:
    return (logprobs + 2.4).exp().clamp(0.8, 1.2).sum()


def groups_loss(logprobs: Tensor) -> Tensor:
    sums = logprobs.new_zeros(M // 5).index_add(0, GROUP, logprobs)
    return -F.logsigmoid(0.1 * sums).sum()


def coupled_loss(logprobs: Tensor) -> Tensor:
    return logprobs.sum().square()


LOSSES: list[tuple[Callable[[Tensor], Tensor], Sequence[int] | None]] = [
    (tokens_loss, None),
    (clipped_loss, None),
    (groups_loss, (5,) * (M // 5)),
]


@pytest.mark.parametrize("most", [V, V * 7, 2**24])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("loss", "sizes"), LOSSES)
def test_values_and_gradients_are_those_of_all_logits_at_once(
    loss: Callable[[Tensor], Tensor], sizes: Sequence[int] | None, bias: bool, most: int
) -> None:
    hidden, targets, head = problem(bias=bias)
    whole = (head(hidden) * 0.7).log_softmax(-1)[range(M), targets]
    wanted = torch.autograd.grad(loss(whole) / 3, [hidden, *head.parameters()])
    for ahead in (None, Ahead(total=loss, sizes=sizes)):
        found = linear_logprobs(hidden, targets, linear(head, 0.7), ahead=ahead, max_elements=most)
        gradients = torch.autograd.grad(loss(found) / 3, [hidden, *head.parameters()])
        torch.testing.assert_close(found, whole)
        torch.testing.assert_close(gradients, wanted)


@pytest.mark.parametrize(("loss", "sizes"), LOSSES)
def test_a_loss_told_ahead_costs_three_products_with_the_head(
    loss: Callable[[Tensor], Tensor], sizes: Sequence[int] | None
) -> None:
    hidden, targets, head = problem()
    proofs = Proofs()
    with Products() as products:
        ahead = Ahead(total=loss, sizes=sizes, proofs=proofs)
        loss(linear_logprobs(hidden, targets, linear(head), ahead=ahead, max_elements=7 * V)).backward()
    assert products.units == pytest.approx(3)
    assert proofs.times == 1


def test_a_loss_that_is_not_told_costs_four() -> None:
    hidden, targets, head = problem()
    with Products() as products:
        tokens_loss(linear_logprobs(hidden, targets, linear(head), max_elements=7 * V)).backward()
    assert products.units == pytest.approx(4)


def test_a_frozen_head_costs_two_whatever_the_loss_and_keeps_nothing_of_the_size_of_the_vocabulary() -> None:
    hidden, targets, head = problem()
    head.requires_grad_(False)
    wanted = torch.autograd.grad(coupled_loss(head(hidden).log_softmax(-1)[range(M), targets]), hidden)
    with Products() as products:
        loss = coupled_loss(linear_logprobs(hidden, targets, linear(head), max_elements=7 * V))
        found = torch.autograd.grad(loss, hidden)
    assert products.units == pytest.approx(2)
    torch.testing.assert_close(found, wanted)


def test_without_a_gradient_the_head_runs_once() -> None:
    hidden, targets, head = problem()
    with Products() as products, torch.no_grad():
        linear_logprobs(hidden, targets, linear(head), ahead=Ahead(total=tokens_loss), max_elements=7 * V)
    assert products.units == pytest.approx(1)


def test_a_loss_told_wrongly_is_noticed_and_costs_time_alone() -> None:
    hidden, targets, head = problem()
    wanted = torch.autograd.grad(
        coupled_loss(head(hidden).log_softmax(-1)[range(M), targets]), [hidden, *head.parameters()]
    )
    proofs = Proofs()
    ahead = Ahead(total=coupled_loss, proofs=proofs)  # not a sum over rows
    with Products() as products:
        loss = coupled_loss(linear_logprobs(hidden, targets, linear(head), ahead=ahead, max_elements=7 * V))
        found = torch.autograd.grad(loss, [hidden, *head.parameters()])
    torch.testing.assert_close(found, wanted)
    assert proofs.times == 0
    assert products.units == pytest.approx(6)


def test_a_second_backward_is_right_too() -> None:
    hidden, targets, head = problem()
    loss = tokens_loss(linear_logprobs(hidden, targets, linear(head), ahead=Ahead(total=tokens_loss)))
    first = torch.autograd.grad(loss, [hidden, head.weight], retain_graph=True)
    kept = [part.clone() for part in first]
    second = torch.autograd.grad(2 * loss, [hidden, head.weight])
    torch.testing.assert_close(first, tuple(kept))
    torch.testing.assert_close(second, tuple(2 * part for part in kept))


def test_many_gradients_at_once_are_those_one_by_one() -> None:
    hidden, targets, head = problem()
    parts = [hidden, *head.parameters()]
    logprobs = linear_logprobs(hidden, targets, linear(head, 0.7), max_elements=7 * V)
    wanted = torch.randn(3, M, dtype=torch.float64)
    found = torch.autograd.grad(logprobs, parts, wanted, retain_graph=True, is_grads_batched=True)
    for row in range(3):
        alone = torch.autograd.grad(logprobs, parts, wanted[row], retain_graph=True)
        torch.testing.assert_close(tuple(part[row] for part in found), alone)


def test_a_group_far_larger_than_a_chunk_is_not_told_ahead() -> None:
    hidden, targets, head = problem()
    proofs = Proofs()
    ahead = Ahead(total=coupled_loss, sizes=(M,), proofs=proofs)
    coupled_loss(linear_logprobs(hidden, targets, linear(head), ahead=ahead, max_elements=7 * V)).backward()
    assert proofs.times == 0
    coupled_loss(linear_logprobs(hidden, targets, linear(head), ahead=ahead, max_elements=20 * V)).backward()
    assert proofs.times == 1, "four chunks' room is enough"


def test_a_gradient_of_zero_is_what_was_foreseen() -> None:
    hidden, targets, head = problem()
    ahead = Ahead(total=lambda logprobs: 0 * logprobs.sum())
    (0 * linear_logprobs(hidden, targets, linear(head), ahead=ahead)).sum().backward()
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_no_rows_give_no_log_probs_and_stay_differentiable() -> None:
    _, _, head = problem()
    hidden = torch.zeros(0, D, dtype=torch.float64, requires_grad=True)
    ahead = Ahead(total=torch.sum)
    logprobs = linear_logprobs(hidden, torch.zeros(0, dtype=torch.int64), linear(head), ahead=ahead)
    logprobs.sum().backward()
    assert logprobs.shape == (0,)
    assert head.weight.grad is not None
    assert not head.weight.grad.any()


def test_half_precision_is_normalised_in_float32_and_its_gradient_is_near() -> None:
    hidden, targets, head = problem(dtype=torch.float32)
    near = tokens_loss(head(hidden).log_softmax(-1)[range(M), targets])
    wanted = torch.autograd.grad(near, [hidden, *head.parameters()])
    half, low = head.bfloat16(), hidden.detach().bfloat16().requires_grad_()
    logprobs = linear_logprobs(low, targets, linear(half), ahead=Ahead(total=tokens_loss), max_elements=7 * V)
    found = torch.autograd.grad(tokens_loss(logprobs), [low, *half.parameters()])
    assert logprobs.dtype == torch.float32
    assert all(part.dtype == torch.bfloat16 for part in found)
    for part, exact in zip(found, wanted, strict=True):
        assert float((part.float() - exact).norm() / exact.norm()) < 0.02


def test_a_weight_that_wants_its_gradient_in_float32_gets_the_sum_over_chunks_unrounded() -> None:
    hidden, targets, head = problem(dtype=torch.bfloat16)
    head.weight.grad_dtype = torch.float32
    ahead = Ahead(total=tokens_loss)
    tokens_loss(linear_logprobs(hidden, targets, linear(head), ahead=ahead, max_elements=7 * V)).backward()
    assert head.weight.grad is not None
    assert head.weight.grad.dtype == torch.float32
    assert not torch.equal(head.weight.grad, head.weight.grad.bfloat16().float())


def test_a_token_that_all_but_never_comes_keeps_its_log_prob() -> None:
    head = LinearHead(weight=torch.tensor([[200.0], [0.0]]))
    assert linear_logprobs(torch.ones(1, 1), torch.tensor([1]), head).tolist() == [-200.0]


def test_no_logits_are_kept_for_backward() -> None:
    hidden, targets, head = problem()
    saved: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        linear_logprobs(hidden, targets, linear(head), max_elements=7 * V)
    assert max(saved) <= M * D
