"""Whoever reads answers along sees each of them grow to what it is in the end, and changes nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from posttrain.models.heads import Policy
from posttrain.models.load import load_causal
from posttrain.rollout.answer import Answer
from posttrain.rollout.sampler import BatchedSampler, Heard, OneByOneSampler
from posttrain.text.chat import Codec
from posttrain.types import Message, PromptRecord, Sampler, SamplingSpec

Make = Callable[[Path, Codec, "Heard | None"], Sampler]
SPEC = SamplingSpec(max_new_tokens=9, samples=2, seed=3)


def batched(stride: int) -> Make:
    def make(folder: Path, codec: Codec, heard: Heard | None) -> Sampler:
        policy = Policy(load_causal(str(folder)).model)
        return BatchedSampler(
            policy, stop_ids=codec.stop_ids, decode=codec.decode, context=64, max_slots=3, stride=stride, heard=heard
        )

    return make


def one_by_one(folder: Path, codec: Codec, heard: Heard | None) -> Sampler:
    model = load_causal(str(folder)).model
    model.set_attn_implementation("eager")
    policy = Policy(model, packing=False)
    return OneByOneSampler(policy, stop_ids=codec.stop_ids, decode=codec.decode, context=64, heard=heard)


@pytest.mark.parametrize("make", [batched(1), batched(4), one_by_one], ids=["steps", "strides", "one by one"])
def test_every_answer_is_heard_as_it_grows_and_is_as_it_would_be_unheard(make: Make, tiny_model: Path) -> None:
    codec = Codec.load(str(tiny_model))
    records = [PromptRecord(id=f"{n}", messages=(Message(role="user", content="?" * n),)) for n in (1, 2, 5)]
    prompts = codec.prompts(records)
    grown: dict[tuple[str, int], list[tuple[int, ...]]] = defaultdict(list)

    def heard(answers: Sequence[Answer]) -> None:
        for answer in answers:
            grown[answer.prompt.id, answer.sample].append(tuple(answer.tokens))

    told = make(tiny_model, codec, heard)(prompts, SPEC)
    assert [done.tokens for done in told] == [done.tokens for done in make(tiny_model, codec, None)(prompts, SPEC)]
    for done in told:
        steps = grown[done.prompt.id, done.sample]
        assert steps[-1] == done.tokens
        assert len(steps) > 1
        assert all(later[: len(earlier)] == earlier for earlier, later in pairwise(steps))
