"""Log-probs of given tokens from hidden states, through a language head, without ever holding [M, V] logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from posttrain.ops.kl import exact

Head = Callable[[Tensor], Tensor]

MAX_ELEMENTS = 2**24  # 64 MiB of float32 logits at a time
FIRST_ROWS = 16  # the first chunk, whose logits tell how many rows the others may have


def head_logprobs(
    hidden: Tensor, targets: Tensor, head: Head, *, temperature: float = 1.0, max_elements: int = MAX_ELEMENTS
) -> Tensor:
    """Float [M]: log p(targets | hidden), the logits divided by `temperature`; float64 for float64, else float32.

    `hidden`: float [M, D]; `targets`: int64 [M]; `head`: [rows, D] -> [rows, V] logits, final soft-capping included.
    The head runs on 16 rows, and then on chunks whose logits hold at most `max_elements` numbers; where more than one
    such chunk is needed, backward runs it again, so only one chunk's logits exist at any time. M = 0 gives [0].
    """
    chunks = list(_chunks(_chosen, hidden, targets, head, temperature, max_elements))
    return torch.cat([chosen for (chosen,) in chunks])


def head_logprobs_and_entropy(
    hidden: Tensor, targets: Tensor, head: Head, *, temperature: float = 1.0, max_elements: int = MAX_ELEMENTS
) -> tuple[Tensor, Tensor]:
    """Float [M] and [M]: as `head_logprobs`, and the entropy in nats of each whole distribution, differentiable too.

    A logit of -inf is a token that cannot come; it adds nothing to the entropy.
    """
    chunks = list(_chunks(_chosen_and_entropy, hidden, targets, head, temperature, max_elements))
    return torch.cat([chosen for chosen, _ in chunks]), torch.cat([entropy for _, entropy in chunks])


@torch.no_grad()
def head_top(
    hidden: Tensor, head: Head, count: int, *, temperature: float = 1.0, max_elements: int = MAX_ELEMENTS
) -> tuple[Tensor, Tensor]:
    """Int64 and float [M, count]: the likeliest tokens of every row by falling log-prob, and their log-probs.

    At most V of them, without gradient. The logits are divided by `temperature`; no more of them are held than
    `max_elements` numbers.
    """
    if len(hidden) == 0:
        return torch.zeros(0, count, dtype=torch.int64, device=hidden.device), hidden.new_zeros(0, count)
    rows = max(1, max_elements // _logits(head, hidden[:1], temperature).shape[-1])
    tokens: list[Tensor] = []
    logprobs: list[Tensor] = []
    for start in range(0, len(hidden), rows):
        logits = _logits(head, hidden[start : start + rows], temperature)
        highest, places = logits.topk(min(count, logits.shape[-1]), dim=-1)
        tokens.append(places)
        logprobs.append(highest - logits.logsumexp(dim=-1, keepdim=True))
    return torch.cat(tokens), torch.cat(logprobs)


def heads_divergence(
    hidden: Tensor,
    head: Head,
    other_hidden: Tensor,
    other_head: Head,
    *,
    temperature: float = 1.0,
    max_elements: int = MAX_ELEMENTS,
) -> Tensor:
    """Float [M]: KL of the first distribution from the second at every row, the exact sum over V, in nats.

    Both logits are divided by `temperature`. At no time are more logits held than `max_elements` numbers of each.
    """
    if len(hidden) == 0:
        return hidden.new_zeros(0)
    width = _logits(head, hidden[:1], temperature).shape[-1]
    rows = max(1, max_elements // width)
    parts: list[Tensor] = []
    for start in range(0, len(hidden), rows):
        first = _logits(head, hidden[start : start + rows], temperature).log_softmax(-1)
        second = _logits(other_head, other_hidden[start : start + rows], temperature).log_softmax(-1)
        parts.append(exact(first, second))
    return torch.cat(parts)


def _chunks(
    score: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
    hidden: Tensor,
    targets: Tensor,
    head: Head,
    temperature: float,
    max_elements: int,
) -> Iterator[tuple[Tensor, ...]]:
    def run(rows: Tensor, wanted: Tensor) -> tuple[Tensor, ...]:
        return score(_logits(head, rows, temperature), wanted)

    first = _logits(head, hidden[:FIRST_ROWS], temperature)
    yield score(first, targets[:FIRST_ROWS])
    rows = max(1, max_elements // first.shape[-1])
    recompute = len(hidden) - FIRST_ROWS > rows
    for start in range(FIRST_ROWS, len(hidden), rows):
        part = hidden[start : start + rows], targets[start : start + rows]
        yield checkpoint(run, *part, use_reentrant=False) if recompute else run(*part)


def _logits(head: Head, rows: Tensor, temperature: float) -> Tensor:
    logits = head(rows)
    if logits.dtype != torch.float64:
        logits = logits.float()
    return logits if temperature == 1.0 else logits / temperature


def _chosen(logits: Tensor, wanted: Tensor) -> tuple[Tensor]:
    return (-F.cross_entropy(logits, wanted, reduction="none"),)


def _chosen_and_entropy(logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    distribution = logits.log_softmax(dim=-1)
    chosen = distribution.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
    # 0 * -inf would be NaN, forwards and backwards
    possible = distribution.masked_fill(distribution.isneginf(), 0)
    return chosen, -(possible.exp() * possible).sum(dim=-1)
