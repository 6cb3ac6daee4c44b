"""Prompts read once, ahead of need: what of them later rows copy into their slots."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posttrain.models.attention import AttentionTerms, PackedLayout, using
from posttrain.models.heads import Policy
from posttrain.rollout.cache import Shapes
from posttrain.types import TokenBatch, moved

# So many tokens are read at once: rows that enter one by one do not each cost a forward pass. More at once take memory
# and save no time: on a CPU the product is busy with fewer, on a GPU it takes more.
_TOKENS_AT_ONCE = {"cpu": 512}
_TOKENS_ELSEWHERE = 2048


class PrefillLayout:
    """A packed layout that keeps keys and values [T, Hkv, d] of every attention call, in order, key before value."""

    def __init__(self, batch: TokenBatch) -> None:
        self.calls = 0
        self.entries: list[Tensor] = []
        self._packed = PackedLayout(batch)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, terms: AttentionTerms) -> Tensor:
        """The attention output [T, H, d] of query [T, H, d] over key and value [T, Hkv, d]."""
        self.entries += (key, value)
        return self._packed.attend(query, key, value, terms)


class Prefixes:
    """Keys and values of prompts up to their last token, which every sample reads for itself as its first step.

    So reading a prompt needs no logits, and the samples of one prompt part at their first token by themselves. Prompts
    are asked for in order, so only the stretch read last is held.
    """

    def __init__(self, policy: Policy, prompts: Sequence[Sequence[int]]) -> None:
        self._policy = policy
        self._prompts = prompts
        self._held: range = range(0)
        self._starts: list[int] = []
        self._entries: list[Tensor] = []
        self._at_once = _TOKENS_AT_ONCE.get(policy.device.type, _TOKENS_ELSEWHERE)
        # Any token shows how the model's keys and values look.
        self.shapes = Shapes.seen(self._read([prompts[0][:1]]))

    def of(self, number: int) -> list[Tensor]:
        """The prefix of prompt `number`: a tensor [P - 1, Hkv, d] for each entry of the store."""
        length = len(self._prompts[number]) - 1
        if length == 0:
            return []
        if number not in self._held:
            self._hold(number)
        start = self._starts[number - self._held.start]
        return [entry[start : start + length] for entry in self._entries]

    def _hold(self, first: int) -> None:
        """Prompt `first` and those after it are held, up to a number of tokens."""
        self._entries = []
        self._starts, total, last = [0], len(self._prompts[first]) - 1, first + 1
        while last < len(self._prompts) and total + len(self._prompts[last]) - 1 <= self._at_once:
            self._starts.append(total)
            total += len(self._prompts[last]) - 1
            last += 1
        self._held = range(first, last)
        self._entries = self._read([self._prompts[number][:-1] for number in self._held])

    def _read(self, prefixes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Keys and values [T, Hkv, d] of all attention calls over these prefixes laid end to end."""
        batch = moved(_packed([prefix for prefix in prefixes if prefix]), self._policy.device)
        layout = PrefillLayout(batch)
        with using(layout):
            self._policy.trunk.stream(batch.tokens.unsqueeze(0), batch.positions.unsqueeze(0))
        return layout.entries


def _packed(prefixes: Sequence[Sequence[int]]) -> TokenBatch:
    """A batch of root segments in which nothing is trained."""
    lengths = torch.tensor([len(prefix) for prefix in prefixes])
    total = int(lengths.sum())
    segment = torch.repeat_interleave(torch.arange(len(prefixes)), lengths)
    starts = (lengths.cumsum(0) - lengths)[segment]
    places = torch.arange(total)
    return TokenBatch(
        tokens=torch.tensor([token for prefix in prefixes for token in prefix]),
        positions=places - starts,
        segment=segment,
        parent=torch.full((len(prefixes),), -1),
        predictor=torch.where(places == starts, -1, places - 1),
        trained=torch.zeros(total, dtype=torch.bool),
    )
