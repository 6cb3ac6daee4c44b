"""The listings of the lecture notes, written again in a few lines: what is wrong in each, and what ours does instead.

Source: the notes' code for the KL of a sequence (`compute_rewards(prompts, responses)`), for DeepSpeed-Chat's rewards
(`compute_rewards(self, prompts, …)`) and for the actor's loss (`actor_loss_fn`).
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from architectures import tiny_policy
from torch import Tensor

from posttrain.data.pack import pack
from posttrain.data.readers import open_data
from posttrain.ops import credit, kl, losses
from posttrain.ops.logprob import head_logprobs
from posttrain.types import PrefixGroup, RankedRecord, Span, TokenBatch

BETA = 0.1


def row(prompt: list[int], answer: list[int], *, whole: bool = False) -> TokenBatch:
    """A prompt with one answer; `whole` also trains the prompt, to read the log-probs that the notes sum."""
    tokens = (*prompt, *answer)
    trained = (False, *(whole or at >= len(prompt) for at in range(1, len(tokens))))
    return pack([PrefixGroup(id="row", root=Span(tokens=tokens, trained=trained))])


# --- the first listing: one KL for a sequence --------------------------------------------------------------------


def kl_of_the_notes(actor: Tensor, reference: Tensor) -> float:
    """The listing's: the log-probs of all predicted tokens summed, their difference over their number."""
    return float((actor.sum() - reference.sum()) / len(actor))


def test_the_notes_kl_of_a_sequence_counts_the_prompt_which_the_policy_did_not_write() -> None:
    actor, reference = torch.tensor([-2.0, -1.0, -0.5, -0.25]), torch.tensor([-2.5, -3.0, -1.0, -0.5])
    prompt = 2  # the first two are of prompt tokens, of which the first is predicted by nothing
    moved = actor + torch.tensor([1.0, 1.0, 0.0, 0.0])
    answer = torch.tensor([-1] * prompt + [0, 0])
    trained = answer >= 0

    def mine(logprobs: Tensor) -> float:
        divergence = kl.k1(logprobs, reference)
        rewards = credit.sequence_rewards(torch.zeros(1), divergence, answer, trained, BETA)
        return float(rewards[-1]) / -BETA

    assert mine(actor) == mine(moved) == pytest.approx((0.5 + 0.25) / 2)
    assert kl_of_the_notes(actor, reference) == pytest.approx((0.5 + 2.0 + 0.5 + 0.25) / 4)
    assert kl_of_the_notes(moved, reference) == pytest.approx(kl_of_the_notes(actor, reference) + 2 / 4)


def test_the_notes_kl_is_ours_where_the_prompt_is_one_token() -> None:
    actor, reference = tiny_policy(), tiny_policy("qwen2")
    batch = row([5], [9, 4, 7])
    with torch.no_grad():
        own, other = (model(batch).logprobs[batch.trained] for model in (actor, reference))
    mine = credit.sequence_rewards(
        torch.zeros(1), kl.k1(own, other), torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.bool), BETA
    )
    assert float(mine[-1]) == pytest.approx(-BETA * kl_of_the_notes(own, other), rel=1e-5)


def test_the_notes_reference_is_the_actor_itself_so_its_kl_stays_zero_while_ours_grows() -> None:
    actor = tiny_policy()
    named = actor  # ref_model = actor_model = sft_model
    kept = copy.deepcopy(actor)
    batch = row([5, 3], [9, 4, 7])
    (-actor(batch).logprobs.sum()).backward()
    with torch.no_grad():
        for part in actor.parameters():
            part -= 0.1 * part.grad
        now, of_name, of_copy = (model(batch).logprobs[batch.trained] for model in (actor, named, kept))
    assert kl.k1(now, of_name).tolist() == [0.0] * 3
    assert float(kl.k1(now, of_copy).sum()) > 1.0


def test_the_log_of_a_softmax_is_minus_infinity_where_ours_is_a_number_with_a_gradient() -> None:
    logits = torch.tensor([[0.0, 200.0]], requires_grad=True)
    wanted = torch.tensor([0])
    of_the_notes = torch.log(torch.softmax(logits, dim=-1).gather(1, wanted[:, None]).squeeze(1))
    assert of_the_notes.item() == -math.inf
    (broken,) = torch.autograd.grad(of_the_notes.sum(), logits)
    assert broken.isnan().any()
    mine = head_logprobs(logits, wanted, lambda hidden: hidden)
    assert mine.item() == -200.0
    (gradient,) = torch.autograd.grad(mine.sum(), logits)
    assert gradient.tolist() == [[1.0, -1.0]]


def test_the_notes_subtract_a_list_times_a_number() -> None:
    with pytest.raises(TypeError, match="can't multiply sequence by non-int"):
        BETA * [torch.tensor(0.3)]  # total_rewards = rm_rewards - beta * kls


# --- the second listing: where the score goes --------------------------------------------------------------------


@pytest.mark.parametrize("padding", range(4))
def test_the_notes_put_the_score_two_past_the_last_action_or_out_of_range(padding: int) -> None:
    prompt, answer = 3, 4
    mask = torch.tensor([[True] * (prompt + answer - 1) + [False] * padding])  # one entry an action
    start = prompt - 1
    ends = start + int(mask[:, start:].sum()) + 1
    assert ends == 7
    assert mask.nonzero()[-1].tolist() == [0, 5]  # the answer's actions are 2..5
    rewards = torch.zeros(mask.shape)
    if padding < 2:
        with pytest.raises(IndexError):
            rewards[0, ends] += 1.0
        return
    rewards[0, ends] += 1.0
    assert not mask[0, ends]  # on padding: no token is credited with it but through the values of pads


def test_ours_puts_the_score_on_the_last_token_of_the_answer() -> None:
    response = torch.tensor([-1, -1, -1, 0, 0, 0, 0, -1, -1])
    rewards = credit.token_rewards(torch.ones(1), torch.zeros(9), response, response >= 0, BETA)
    assert rewards.nonzero().flatten().tolist() == [6]


# --- the third listing is right ----------------------------------------------------------------------------------


def test_the_notes_actor_loss_is_ours_divided_once_by_the_tokens() -> None:
    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    old, advantages = -torch.rand(2, 4), torch.randn(2, 4)
    logprobs = old + 0.4 * torch.randn(2, 4)
    ratio = torch.exp((logprobs - old) * mask)
    worse = torch.max(-advantages * ratio, -advantages * torch.clamp(ratio, 0.8, 1.2))
    there = mask.bool()
    mine = losses.clipped_policy(logprobs[there], old[there], advantages[there], 0.2).sum() / 5
    assert float(mine) == pytest.approx(float((worse * mask).sum() / mask.sum()), rel=1e-6)


# --- what loads as it stands -------------------------------------------------------------------------------------

TRIPLE = """{
"prompt": "解释量子计算",
"chosen": "量子计算利用量子比特可以同时处于多个状态的特性,实现信息的并行处理,使某些问题的解决速度呈指数级提升",
"rejected": "量子计算是一种涉及原子和粒子的复杂技术"
}
"""


@pytest.mark.parametrize("lines", ["as it stands", "one line", "a list"])
def test_the_notes_triple_loads_as_a_pair(lines: str, tmp_path: Path) -> None:
    row = json.loads(TRIPLE)
    texts = {"as it stands": TRIPLE, "one line": json.dumps(row) + "\n", "a list": json.dumps([row])}
    file = tmp_path / ("pair.jsonl" if lines == "one line" else "pair.json")
    file.write_text(texts[lines], encoding="utf-8")
    (record,) = open_data(file, ("ranked",))
    assert isinstance(record, RankedRecord)
    assert record.prompt[0].content == row["prompt"]
    assert record.responses == (row["chosen"], row["rejected"])
    assert record.ranks == (1, 2)
