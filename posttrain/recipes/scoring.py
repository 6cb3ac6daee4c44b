"""Reward models as scorers: raw head outputs to the numbers that PPO and evaluation use."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from posttrain.console import Console
from posttrain.data.pack import pack, split_by_tokens
from posttrain.errors import ModelError
from posttrain.models.cards import NUMBER, facts_in
from posttrain.models.heads import ScalarModel
from posttrain.models.load import REWARD_CARD, is_classifier, is_reward_model, reward_card, scores_alone
from posttrain.objectives import ScoreReader
from posttrain.run import Run
from posttrain.text.chat import Codec
from posttrain.types import Completion, PrefixGroup, Span, TokenBatch, moved


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardCard:
    """`reward.json`: a score is (raw - shift) / scale; `score_at` is `last` or `mean`.

    `given` is False for a model of others that has none: its raw scores are used.
    """

    shift: float
    scale: float
    score_at: str
    given: bool = True

    def write(self, folder: Path) -> None:
        """Writes the card beside the weights."""
        facts = {name: value for name, value in asdict(self).items() if name != "given"}
        (folder / REWARD_CARD).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @staticmethod
    def read(path: str) -> RewardCard:
        """The card of a reward model, a folder or of the hub; a classifier of others with one output needs none.

        Raises ModelError for what is neither.
        """
        Run(Path(path)).require_done()
        file = reward_card(path)
        if file is not None:
            return RewardCard.of(file)
        if is_classifier(path) or not scores_alone(path):
            what = f"{path} is no reward model: it has no {REWARD_CARD}, and is no classifier with one output"
            raise ModelError(f"{what}\n  fix: train one with `posttrain reward`")
        return RewardCard(shift=0.0, scale=1.0, score_at="last", given=False)

    @staticmethod
    def of(file: Path) -> RewardCard:
        """What a `reward.json` says. Raises ModelError for one that cannot be used."""
        facts = facts_in(file, {"shift": NUMBER, "scale": NUMBER, "score_at": str})
        if not (_is_finite(facts["shift"]) and _is_finite(facts["scale"]) and facts["scale"]):
            raise ModelError(f"{file}  shift {facts['shift']} and scale {facts['scale']} make no score of a number")
        if facts["score_at"] not in ("last", "mean"):
            raise ModelError(f"{file}  score_at is {facts['score_at']!r}, expected last or mean")
        return RewardCard(**facts)


def say_raw(path: str, card: RewardCard, console: Console) -> None:
    """Says of a reward model of others that its scores are not centred."""
    if not card.given:
        console.say(f"reward {path}: no {REWARD_CARD}; its raw scores are used, neither centred nor scaled")


def _is_finite(number: float) -> bool:
    """Whether a number is one that scores can be computed with."""
    return -sys.float_info.max <= number <= sys.float_info.max


class RewardScorer:
    """A `Scorer` by a reward model, with its own tokenizer and template.

    Where these are the policy's, the sampled tokens themselves are scored; else the answer is rendered again as text.
    """

    def __init__(self, scalar: ScalarModel, card: RewardCard, own: Codec, *, shared: bool, budget: int) -> None:
        self._reader = ScoreReader(model=scalar, mean=card.score_at == "mean")
        self._card = card
        self._own = own
        self._shared = shared
        self._budget = budget

    def __call__(self, completions: Sequence[Completion]) -> Tensor:
        """Float32 [len(completions)] normalised scores, in order."""
        groups = [self._group(completion) for completion in completions]
        raw = score_groups(self._reader, groups, self._budget)
        return (raw - self._card.shift) / self._card.scale

    def _group(self, completion: Completion) -> PrefixGroup:
        prompt, tokens = completion.prompt.tokens, completion.tokens
        if not self._shared:
            record = completion.prompt.record
            prompt = self._own.prompt(record).tokens
            tokens = self._own.answer(record, completion.text, ended=completion.stopped)
        return answer_group(completion.prompt.id, prompt, [tokens])


def check_policy(model: str) -> None:
    """Raises ModelError for a reward model or a classifier where a model that writes answers is asked for."""
    if is_classifier(model):
        what = f"{model} is a classifier: it labels texts and writes none"
        raise ModelError(f"{what}\n  fix: give the model that it was trained from")
    if is_reward_model(model):
        what = f"{model} is a reward model: it scores answers and writes none"
        raise ModelError(f"{what}\n  fix: give the model that it was trained from, or another run of sft, ppo or dpo")


def answer_group(name: str, prompt: Sequence[int], answers: Sequence[Sequence[int]]) -> PrefixGroup:
    """A prompt with answers to be read, none of which is trained."""
    return PrefixGroup(
        id=name,
        root=Span.all(prompt, trained=False),
        branches=tuple(Span.all(answer, trained=False) for answer in answers),
    )


def score_groups(reader: ScoreReader, groups: Iterable[PrefixGroup], budget: int) -> Tensor:
    """Raw float32 scores of every branch, group by group."""
    parts: list[Tensor] = []
    device = reader.model.score.weight.device
    with torch.inference_mode():
        for run in split_by_tokens(groups, budget, size=len):
            batch: TokenBatch = moved(pack(run), device)
            parts.append(reader(batch, (batch.parent >= 0).nonzero().flatten()).cpu())
    return torch.cat(parts).clone() if parts else torch.zeros(0)


def same_words(first: Codec, second: Codec) -> bool:
    """True when two codecs turn every conversation into the same tokens: one vocabulary and one template."""
    return (
        first.tokenizer.get_vocab() == second.tokenizer.get_vocab()
        and first.template.jinja == second.template.jinja
        and first.end_of_turn == second.end_of_turn
    )
