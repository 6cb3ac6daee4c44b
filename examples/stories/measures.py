"""How good a model's stories are: fresh answers to held-out prompts, against those of the instruction-tuned model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

import torch
from torch import Tensor

from examples.stories.gold import Gold, distinct_share, gold_of
from posttrain.console import Console
from posttrain.measures.shares import Share, median_length, share, win_rate
from posttrain.models.heads import Policy
from posttrain.models.load import load_scalar
from posttrain.models.parity import gate_scalar
from posttrain.ops.statistics import Interval, bootstrap_mean
from posttrain.recipes import setup
from posttrain.recipes.evaluate import policy_kl
from posttrain.recipes.scoring import RewardCard, RewardScorer, same_words
from posttrain.text.chat import Codec
from posttrain.types import Completion, PromptRecord, SamplingSpec, Scorer

BUDGET = 8192
"""Tokens a forward; memory, not results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """A model beside the instruction-tuned one, prompt by prompt. `kl` in nats per answer, on the model's answers."""

    win_rate: Share
    gain: float
    gain_interval: Interval
    kl: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What the texts of stories say of themselves. `distinct_bigrams` is over all of them, `repetition` within each."""

    gold: float
    gold_interval: Interval
    sentiment: float
    repetition: float
    distinct_bigrams: float
    first: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """The stories of one model measured, or the references, which no reward model scores.

    `ended` counts stories that end with the end of turn; the base model's own end, the beginning of another text, is
    not what was taught.
    `against` is None for the references, the base model, and the model that the others are compared with.
    """

    name: str
    quality: Quality
    ended: Share
    median_tokens: float
    reward: float | None
    against: Against | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """What every model is asked: held-out prompts, at most `max_new_tokens` for an answer; `reward` scores them too."""

    prompts: Sequence[PromptRecord]
    max_new_tokens: int
    seed: int
    reward: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    policy: Policy
    codec: Codec
    completions: list[Completion]
    ended: list[bool]
    golds: list[Gold]


def compare(models: Mapping[str, str], start: str, exam: Exam, console: Console) -> list[Measures]:
    """The measures of the references and of each model by name, in order.

    All but the first model are compared with the one named `start`. The first is the base: it has not learnt the task,
    so that a win rate or a distance would say nothing of it.
    """
    where = replace(setup.machine(), half=None)
    begun = _answers(models[start], exam, where, console)
    found = [_of_references(exam.prompts, begun.codec)]
    base = next(iter(models))
    for name, path in models.items():
        answers = begun if name == start else _answers(path, exam, where, console)
        against = None if name in (base, start) else _against(answers, begun)
        reward = _reward_scorer(str(exam.reward), answers.codec, where)(answers.completions)
        found.append(_of_model(name, answers, float(reward.mean()), against))
        console.say(f"{name}: gold {found[-1].quality.gold:.3f}, ended by itself {found[-1].ended}")
    return found


def _answers(path: str, exam: Exam, where: setup.Machine, console: Console) -> _Answers:
    codec = setup.load_codec(path, None, console)
    start = setup.load_start(path, codec, where, console)
    # A round of its own: no sample of the evaluation was drawn in training.
    spec = SamplingSpec(max_new_tokens=exam.max_new_tokens, seed=exam.seed, round=1_000_000)
    completions = setup.sampler(start.policy, codec, start.context, setup.machine())(codec.prompts(exam.prompts), spec)
    ended = [done.stopped and done.tokens[-1] == codec.end_of_turn for done in completions]
    golds = [gold_of(done.text, ended=end) for done, end in zip(completions, ended, strict=True)]
    return _Answers(policy=start.policy, codec=codec, completions=completions, ended=ended, golds=golds)


def _reward_scorer(path: str, codec: Codec, where: setup.Machine) -> Scorer:
    scalar, own_attention = load_scalar(path, device=where.device)
    gate_scalar(scalar, own_attention)
    own = Codec.load(path)
    return RewardScorer(scalar, RewardCard.read(path), own, shared=same_words(own, codec), budget=BUDGET)


def _against(ours: _Answers, theirs: _Answers) -> Against:
    first, second = totals(ours.golds), totals(theirs.golds)
    return Against(
        win_rate=win_rate(first, second),
        gain=float((first - second).mean()),
        gain_interval=bootstrap_mean(first - second),
        kl=policy_kl(ours.policy, theirs.policy, ours.completions, BUDGET),
    )


def _of_model(name: str, answers: _Answers, reward: float, against: Against | None) -> Measures:
    done = answers.completions
    texts = [completion.text for completion in done]
    return Measures(
        name=name,
        quality=_quality(texts, answers.golds),
        ended=share(sum(answers.ended), len(done)),
        median_tokens=median_length(done),
        reward=reward,
        against=against,
    )


def _of_references(prompts: Sequence[PromptRecord], codec: Codec) -> Measures:
    texts = [str(prompt.columns["reference"]) for prompt in prompts]
    lengths = [len(codec.answer(prompt, text)) for prompt, text in zip(prompts, texts, strict=True)]
    return Measures(
        name="references",
        quality=_quality(texts, [gold_of(text, ended=True) for text in texts]),
        ended=share(len(texts), len(texts)),
        median_tokens=median(lengths),
        reward=None,
        against=None,
    )


def _quality(texts: Sequence[str], golds: Sequence[Gold]) -> Quality:
    scores = totals(golds)
    return Quality(
        gold=float(scores.mean()),
        gold_interval=bootstrap_mean(scores),
        sentiment=mean(gold.sentiment for gold in golds),
        repetition=mean(gold.repetition for gold in golds),
        distinct_bigrams=distinct_share(texts, 2),
        first=texts[0],
    )


def totals(golds: Sequence[Gold]) -> Tensor:
    """Float64 [N] gold scores."""
    return torch.tensor([gold.total for gold in golds], dtype=torch.float64)
