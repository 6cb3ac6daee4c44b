"""What sampling methods put on their machine: the longest answers, and the sampler's keys and values."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from posttrain.config import OnlineDPOConfig, PPOConfig
from posttrain.data.pack import Budget
from posttrain.data.rankings import dpo_step
from posttrain.models.heads import Policy
from posttrain.recipes.asked import Asked
from posttrain.recipes.load import Load, sampler_cache
from posttrain.recipes.roles import Roles
from posttrain.recipes.text_beside import longest_text, mean_text, text_step
from posttrain.rollout.asking import Asking
from posttrain.rollout.buffer import Rollouts
from posttrain.rollout.pairs import Judged, PairPlan, ranked
from posttrain.rollout.sampler import MAX_SLOTS
from posttrain.types import Completion, PrefixGroup, Prompt, Sampler, SamplingSpec, Step

_TRIED = 16
"""Tokens of each answer that are sampled to measure the sampler's pace."""


def rollout_load(config: PPOConfig, budget: Budget, roles: Roles, sampler: Sampler, asked: Asked, context: int) -> Load:
    """The load of a run of PPO over these prompts and the text beside."""
    prompts, text = asked.prompts, longest_text(asked.texts)
    longest = sorted(prompts, key=lambda prompt: len(prompt.tokens), reverse=True)
    answers = _longest_answers(longest, config, -(-config.rollouts // config.minibatches), context)
    rows = min(MAX_SLOTS, config.rollouts)
    full = max(len(answer.prompt.tokens) + len(answer.tokens) for answer in answers)
    mean = sum(len(prompt.tokens) for prompt in prompts) / len(prompts) + config.max_new_tokens

    def worst(tokens: int) -> Step:
        step = _step(_filling(answers, tokens), config.group, tokens)
        return _with_text(step, text, tokens, first=config.baseline != "critic")

    return Load(
        budget=budget,
        worst=worst,
        longest=max(full, 0 if text is None else len(text)),
        # Annotating reads every answer forwards by several models: about as much work as one pass of training.
        tokens=mean * config.rollouts * config.steps * (config.ppo_epochs + 1) + _text_tokens(config, asked),
        frozen=roles.frozen,
        cache=sampler_cache(roles.actor.model, rows, full),
        sampling=lambda: _seconds(config, sampler, longest),
    )


def _text_tokens(config: PPOConfig, asked: Asked) -> float:
    """Tokens of text that all updates read together."""
    rows = 0 if config.ptx is None else config.ptx.batch_size
    return mean_text(asked.texts) * rows * config.steps * config.ppo_epochs * config.minibatches


def _with_text(step: Step, text: PrefixGroup | None, tokens: int, *, first: bool) -> Step:
    """The update with a micro-batch full of the longest text, which comes `first` where it takes more memory.

    That is where no critic reads the answers: of text every token is trained, of answers only their own.
    """
    if text is None:
        return step
    rows = [text] * max(1, tokens // len(text))
    beside = text_step(rows, tokens)
    parts = (beside, step) if first else (step, beside)
    return replace(
        step,
        micro_batches=[batch for part in parts for batch in part.micro_batches],
        counts={**step.counts, **beside.counts},
    )


def pair_load(
    config: OnlineDPOConfig, budget: Budget, policy: Policy, frozen: Sequence[nn.Module], asking: Asking, context: int
) -> Load:
    """The load of a run of online DPO: all answers of the longest prompts have their full length, and make pairs."""
    longest = sorted(asking.prompts, key=lambda prompt: len(prompt.tokens), reverse=True)
    answers = _longest_answers(longest, config, config.rollouts, context)
    scores = torch.tensor([float(answer.sample) for answer in answers])
    numbers = [place // config.group for place in range(len(answers))]
    plan = PairPlan(rounds=config.steps, pairs=config.pairs, missing_eos_penalty=0.0, budget=budget)
    items = ranked(
        Judged(completions=answers, prompts=numbers, scores=scores, reference=torch.zeros_like(scores)), plan
    )
    full = max(len(answer.prompt.tokens) + len(answer.tokens) for answer in answers)
    rows = min(MAX_SLOTS, config.rollouts)
    mean = sum(len(prompt.tokens) for prompt in longest) / len(longest) + config.max_new_tokens
    return Load(
        budget=budget,
        worst=lambda tokens: dpo_step(items, tokens, ties="drop", pair_weight="pair"),
        longest=max(map(len, items)),
        tokens=mean * config.rollouts * config.steps * 2,
        frozen=frozen,
        cache=sampler_cache(policy.model, rows, full),
        sampling=lambda: _seconds(config, asking.sampler, longest),
    )


def _seconds(config: PPOConfig | OnlineDPOConfig, sampler: Sampler, longest: Sequence[Prompt]) -> float:
    """The seconds of all sampling, at the pace of a few tokens of as many answers as are sampled at a time."""
    rows = min(MAX_SLOTS, config.rollouts)
    asked = [longest[place % len(longest)] for place in range(rows)]
    began = time.perf_counter()
    sampler(asked, SamplingSpec(max_new_tokens=_TRIED, temperature=config.temperature, seed=config.seed))
    pace = (time.perf_counter() - began) / _TRIED
    return pace * config.max_new_tokens * -(-config.rollouts // rows) * config.steps


def _longest_answers(
    longest: Sequence[Prompt], config: PPOConfig | OnlineDPOConfig, count: int, context: int
) -> list[Completion]:
    """`count` answers, those of an update, each as long as an answer to the longest prompts can become."""
    answers: list[Completion] = []
    for place in range(count):
        prompt = longest[place // config.group % len(longest)]
        room = min(config.max_new_tokens, context - len(prompt.tokens))
        filler = (prompt.tokens[-1],) * room
        answers.append(
            Completion(
                prompt=prompt,
                sample=place % config.group,
                tokens=filler,
                text="",
                logprobs=(0.0,) * room,
                stopped=False,
            )
        )
    return answers


def _filling(answers: Sequence[Completion], tokens: int) -> list[Completion]:
    """The answers, one of them so short that the first micro-batch of `tokens` is full: they may end anywhere."""
    chosen, room = list(answers), tokens
    for place, answer in enumerate(answers):
        asked, said = len(answer.prompt.tokens), len(answer.tokens)
        if room < asked + said:
            if place and room > asked:
                kept = room - asked
                chosen[place] = replace(answer, tokens=answer.tokens[:kept], logprobs=answer.logprobs[:kept])
            break
        room -= asked + said
    return chosen


def _step(answers: Sequence[Completion], group: int, tokens: int) -> Step:
    """An update over the answers, in which nothing is to be learnt."""
    lengths = torch.tensor([len(answer.tokens) for answer in answers])
    flat, scores = torch.zeros(int(lengths.sum())), torch.zeros(len(answers))
    rollouts = Rollouts(
        completions=tuple(answers),
        prompts=tuple(place // group for place in range(len(answers))),
        response=torch.repeat_interleave(torch.arange(len(answers)), lengths),
        scores=scores, settled=scores, old=flat, reference=flat, kl=flat, values=flat, rewards=flat, advantages=flat,
        returns=flat,
    )  # fmt: skip
    count = float(lengths.sum())
    return Step(
        micro_batches=rollouts.micro_batches(range(len(answers)), tokens, train_actor=True),
        counts={"actor": count, "critic": count},
        rows=[],
        metrics={},
    )
