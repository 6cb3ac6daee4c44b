"""What can be counted in records on the way past: lengths, ranks, columns, and prompts that are held out too."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np

from posttrain.data.classes import Tally
from posttrain.data.split import prompt_key
from posttrain.recipes.checked import Labels, Leakage, Lengths, Rankings
from posttrain.types import (
    ChatRecord,
    LabelledRecord,
    Message,
    PrefixGroup,
    PromptRecord,
    RankedRecord,
    Record,
    TargetRecord,
    TextRecord,
)

_STEPS = 12
_PLACES = 5


class Survey:
    """Counts of the records seen so far; of each it keeps four bytes.

    `limit`: more tokens than this are too many. `held`: the keys of the prompts that are held out.
    """

    def __init__(self, *, limit: int | None = None, held: frozenset[int] = frozenset()) -> None:
        self.records = 0
        self.overlong = 0
        self.columns: Counter[str] = Counter()
        self._limit = limit
        self._held = held
        self._lengths = array("i")
        self._in_tokens = False
        self._trained = 0
        self._spent = 0
        self._leaks = 0
        self._places: list[str] = []
        self._ranked = _Ranked()
        self._labels: Counter[bool] = Counter()
        self.targets = Tally()

    def see(self, records: Sequence[Record], groups: Sequence[Sequence[PrefixGroup]] | None) -> None:
        """Count records, with what they are in tokens, or None where there is no tokenizer."""
        self._in_tokens = groups is not None
        for record, made in zip(records, groups or [()] * len(records), strict=True):
            self.records += 1
            self._look_for_leaks(record)
            if isinstance(record, TargetRecord):
                self.targets.see(record.label, lambda place=record.id: place, number=record.number)
            if isinstance(record, PromptRecord):
                self.columns.update(record.columns.keys())
            lengths = _in_tokens(record, made) if groups is not None else _in_characters(record)
            self._lengths.extend(lengths)
            if groups is not None:
                self._of_tokens(record, made, lengths)
            if isinstance(record, RankedRecord) and (made or groups is None):
                answers = [len(span.tokens) for span in made[0].branches] if made else list(map(len, record.responses))
                self._ranked.see(record, answers)

            if isinstance(record, LabelledRecord):
                self._labels.update(record.labels)

    @property
    def labels(self) -> Labels:
        """The labelled answers seen so far."""
        return Labels(good=self._labels[True], bad=self._labels[False])

    def _of_tokens(self, record: Record, made: Sequence[PrefixGroup], lengths: Sequence[int]) -> None:
        room = 1 if isinstance(record, PromptRecord) else 0
        self.overlong += self._limit is not None and any(length + room > self._limit for length in lengths)
        self._spent += sum(map(len, made))
        self._trained += sum(sum(group.root.trained) for group in made)

    def _look_for_leaks(self, record: Record) -> None:
        if self._held and prompt_key(record) in self._held:
            self._leaks += 1
            if len(self._places) < _PLACES:
                self._places.append(record.id)

    @property
    def lengths(self) -> Lengths | None:
        """The lengths of what was seen, or None when that was nothing."""
        if not self._lengths:
            return None
        found = np.frombuffer(self._lengths, dtype=np.intc)
        shortest, longest = int(found.min()), int(found.max())
        histogram, _ = np.histogram(found, bins=_STEPS if longest > shortest else 1)
        return Lengths(
            unit="tokens" if self._in_tokens else "characters",
            p50=int(np.percentile(found, 50)),
            p95=int(np.percentile(found, 95)),
            longest=longest,
            total=int(found.sum(dtype=np.int64)),
            histogram=tuple(histogram.tolist()),
        )

    @property
    def trained_share(self) -> float | None:
        """The share of tokens that are trained, or None without tokens."""
        return self._trained / self._spent if self._spent else None

    @property
    def rankings(self) -> Rankings:
        """The ranked answers seen so far."""
        return self._ranked.rankings

    def leakage(self, eval_data: str) -> Leakage:
        """The rows whose prompt is held out too."""
        return Leakage(eval_data=eval_data, prompts=len(self._held), rows=self._leaks, places=tuple(self._places))


class _Ranked:
    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._answers: Counter[int] = Counter()
        self._annotators: set[str] = set()

    def see(self, record: RankedRecord, lengths: Sequence[int]) -> None:
        counts = self._counts
        self._answers[len(record.ranks)] += 1
        counts["unranked"] += record.ranks.count(None)
        counts["margins"] += record.margin is not None
        counts["weights"] += record.weight != 1
        if record.annotator is not None:
            self._annotators.add(record.annotator)
        ranked = [(rank, length) for rank, length in zip(record.ranks, lengths, strict=True) if rank is not None]
        for (rank, length), (other_rank, other_length) in combinations(ranked, 2):
            if rank == other_rank:
                counts["ties"] += 1
                continue
            better, worse = (length, other_length) if rank < other_rank else (other_length, length)
            counts["pairs"] += 1
            counts["better"] += better
            counts["worse"] += worse
            counts["longer"] += better > worse
            counts["unequal"] += better != worse

    @property
    def rankings(self) -> Rankings:
        counts = self._counts
        pairs = max(counts["pairs"], 1)
        return Rankings(
            prompts=sum(self._answers.values()),
            answers=dict(sorted(self._answers.items())),
            pairs=counts["pairs"],
            ties=counts["ties"],
            unranked=counts["unranked"],
            margins=counts["margins"],
            weights=counts["weights"],
            annotators=len(self._annotators),
            better=counts["better"] / pairs,
            worse=counts["worse"] / pairs,
            longer_wins=counts["longer"] / counts["unequal"] if counts["unequal"] else None,
        )


def _contents(messages: Iterable[Message]) -> str:
    return "\n".join(message.content for message in messages)


def _in_tokens(record: Record, made: Sequence[PrefixGroup]) -> list[int]:
    """The length of each sequence: a conversation, a text, or a prompt with the longest of its answers."""
    if isinstance(record, RankedRecord | LabelledRecord):
        return [
            len(group.root.tokens) + max((len(branch.tokens) for branch in group.branches), default=0) for group in made
        ]
    return [len(group) for group in made]


def _in_characters(record: Record) -> list[int]:
    match record:
        case ChatRecord():
            return [sum(len(message.content) for message in record.messages)]
        case RankedRecord() | LabelledRecord():
            return [sum(len(message.content) for message in record.prompt) + max(map(len, record.responses), default=0)]
        case TextRecord():
            return [len(record.text)]
        case TargetRecord():
            return _in_characters(record.asked)
        case PromptRecord():
            return [len(record.text or _contents(record.messages or ()))]
