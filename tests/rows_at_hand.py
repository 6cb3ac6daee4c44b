"""Random rows of tokens for tests of objectives and annotation: conversations, rankings and sampled answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from architectures import VOCABULARY, span

from posttrain.data.examples import RankedItem
from posttrain.types import Completion, PrefixGroup, Prompt, PromptRecord, Span

Item = TypeVar("Item")


def conversations(count: int, seed: int = 0) -> list[PrefixGroup]:
    """Single sequences of 2 to 14 tokens, some of whose tokens are trained."""
    generator = torch.Generator().manual_seed(seed)
    found: list[PrefixGroup] = []
    for number in range(count):
        length = int(torch.randint(2, 15, (), generator=generator))
        tokens = span(length, generator).tokens
        trained = torch.rand(length, generator=generator) < 0.6
        trained[0], trained[-1] = False, True
        root = Span(tokens=tokens, trained=tuple(trained.tolist()))
        found.append(PrefixGroup(id=f"row {number}", root=root))
    return found


RANKS: Sequence[tuple[int | None, ...]] = [(1, 2), (2, 1), (1, 2, 2), (3, 1, 2, 2), (None, 2, 1), (2, 1, 3)]


def rankings(count: int, seed: int = 0) -> list[RankedItem]:
    """Prompts with 2 to 4 answers, ties and unranked answers among them; weights and margins differ."""
    generator = torch.Generator().manual_seed(seed)
    found: list[RankedItem] = []
    for number in range(count):
        ranks = RANKS[number % len(RANKS)]
        lengths = torch.randint(1, 9, (len(ranks) + 1,), generator=generator).tolist()
        branches = tuple(span(length, generator) for length in lengths[1:])
        group = PrefixGroup(id=f"row {number}", root=span(lengths[0], generator, trained=False), branches=branches)
        found.append(RankedItem(group=group, ranks=ranks, weight=1.0 + number % 3, margin=0.1, annotator=None))
    return found


def answers(prompts: int, group: int, seed: int = 0) -> list[Completion]:
    """`group` answers of 1 to 8 tokens to each prompt; the captured log-probs are random."""
    generator = torch.Generator().manual_seed(seed)
    found: list[Completion] = []
    for number in range(prompts):
        name = f"prompt {number}"
        length = int(torch.randint(1, 7, (), generator=generator))
        asked = Prompt(id=name, tokens=span(length, generator).tokens, record=PromptRecord(id=name, text=name))
        for sample in range(group):
            length = int(torch.randint(1, 9, (), generator=generator))
            logprobs = -torch.rand(length, generator=generator) * 4 - 2
            found.append(
                Completion(
                    prompt=asked,
                    sample=sample,
                    tokens=tuple(torch.randint(0, VOCABULARY, (length,), generator=generator).tolist()),
                    text="",
                    logprobs=tuple(logprobs.tolist()),
                    stopped=bool(torch.rand((), generator=generator) < 0.7),
                )
            )
    return found


def prompt_numbers(completions: Sequence[Completion]) -> list[int]:
    """The number of each answer's prompt, counted in order of appearance."""
    seen: dict[str, int] = {}
    return [seen.setdefault(done.prompt.id, len(seen)) for done in completions]


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Runs of `size` items, the last one shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
