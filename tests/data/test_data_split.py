"""Rows that ask the same stand on one side of every split."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.data.split import hash_of, held_out, prompt_key, split
from posttrain.types import ChatRecord, Message, PromptRecord, RankedRecord, Record, TextRecord


def said(*texts: str) -> tuple[Message, ...]:
    return tuple(Message(role="user", content=text) for text in texts)


SAME: list[Record] = [
    ChatRecord(id="", messages=said("What is  it?", "An answer.")),
    ChatRecord(id="", messages=said("what is it? ", "Another.")),
    RankedRecord(id="", prompt=said("WHAT IS IT?"), responses=("a", "b"), ranks=(1, 2)),
    PromptRecord(id="", messages=said("What\nis it?")),
    PromptRecord(id="", text="What is it?"),
    TextRecord(id="", text="What is it?"),
]


def test_what_is_asked_is_the_same_whatever_the_kind_case_spaces_and_answer() -> None:
    assert len({prompt_key(record) for record in SAME}) == 1
    assert prompt_key(PromptRecord(id="", text="What was it?")) != prompt_key(SAME[0])
    assert prompt_key(ChatRecord(id="", messages=said("What is it?", "a", "b"))) != prompt_key(SAME[0])


def test_all_rows_of_a_prompt_stand_on_one_side_and_nothing_is_lost() -> None:
    rows = [(f"prompt {number % 40}", number) for number in range(400)]
    train, held = split(rows, 0.25, key=lambda row: row[0], seed=0)
    assert sorted([*train, *held]) == sorted(rows)
    assert not {prompt for prompt, _ in train} & {prompt for prompt, _ in held}
    assert held


def test_the_share_is_met_on_average() -> None:
    held = split(range(20_000), 0.1, key=lambda row: row, seed=3)[1]
    assert len(held) == pytest.approx(2_000, abs=150)


def test_more_data_leave_the_old_split_as_it_was_and_another_seed_makes_another() -> None:
    few, many = split(range(100), 0.3, key=lambda row: row, seed=0), split(range(500), 0.3, key=lambda row: row, seed=0)
    assert few[1] == [row for row in many[1] if row < 100]
    assert few[1] != split(range(100), 0.3, key=lambda row: row, seed=1)[1]


@pytest.mark.parametrize(("share", "held"), [(0.0, 0), (1.0, 50)])
def test_nothing_or_everything_is_held_out(share: float, held: int) -> None:
    assert len(split(range(50), share, key=lambda row: row, seed=0)[1]) == held


def test_a_prompt_is_held_out_in_every_file_or_in_none() -> None:
    prompts = np.array([hash_of(f"prompt {number}") for number in range(2_000)], np.uint64)
    mask = held_out(prompts, 0.1, seed=5)
    assert mask.sum() == pytest.approx(200, abs=50)
    order = np.random.default_rng(0).permutation(2_000)
    assert (held_out(prompts[order], 0.1, seed=5) == mask[order]).all()


def test_seeds_hold_out_independent_parts() -> None:
    prompts = np.array([hash_of(number) for number in range(20_000)], np.uint64)
    masks = [held_out(prompts, 0.5, seed=seed) for seed in range(4)]
    for number, mask in enumerate(masks):
        for other in masks[:number]:
            assert (mask & other).mean() == pytest.approx(0.25, abs=0.02)


def test_splitmix_is_the_published_one() -> None:
    """The first outputs of the reference generator from state 0, whose increments are those of the seeds 1 and 2."""
    for seed, output in ((1, 0xE220A8397B1DCDAF), (2, 0x6E789E6AA1B965F4)):
        place = output / 2**64
        assert not held_out(np.zeros(1, np.uint64), place - 1e-9, seed)[0]
        assert held_out(np.zeros(1, np.uint64), place + 1e-9, seed)[0]
