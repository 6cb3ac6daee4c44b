"""DeepSpeed-Chat's formulas: equal to ours where they are right, and a test of the name of what is wrong elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

import deepspeed_chat as theirs
import pytest
import torch
from architectures import VOCABULARY, tiny, tiny_policy
from torch import Tensor

from posttrain.data.pack import pack
from posttrain.models.heads import Policy
from posttrain.ops import credit, kl, losses
from posttrain.types import PrefixGroup, Span

PROMPT, WIDTH, PAD, END = 3, 8, 0, 2
START = PROMPT - 1  # the first action: the state before the answer's first token
LOG2 = math.log(2)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers of some lengths to prompts of 3 tokens: padded rows of 7 actions as they have them, and our stream."""

    lengths: tuple[int, ...]
    logprobs: Tensor
    reference: Tensor
    values: Tensor
    score: Tensor

    def mask(self, row: int) -> list[bool]:
        """Their `action_mask`: True for every action whose token is no padding."""
        return [action + 1 < PROMPT + self.lengths[row] for action in range(WIDTH - 1)]

    def stream(self, padded: Tensor) -> Tensor:
        """The answers' entries end to end, entry t about token t: ours has no other places."""
        return torch.cat([padded[row, START : START + length] for row, length in enumerate(self.lengths)])

    @property
    def response(self) -> Tensor:
        return torch.repeat_interleave(torch.arange(len(self.lengths)), torch.tensor(self.lengths))

    def credited(self) -> tuple[Tensor, Tensor, Tensor]:
        """Our rewards, advantages and returns."""
        logprobs, reference, values = (self.stream(part) for part in (self.logprobs, self.reference, self.values))
        everywhere = torch.ones_like(self.response, dtype=torch.bool)
        score = credit.settled_scores(
            self.score, torch.ones_like(self.score, dtype=torch.bool), clip=theirs.SCORE_CLIP, missing_eos_penalty=0.0
        )
        rewards = credit.token_rewards(
            score, kl.k1(logprobs, reference), self.response, everywhere, theirs.KL_COEFFICIENT
        )
        return rewards, *credit.gae(rewards, values, self.response, everywhere, theirs.GAMMA, theirs.LAM)

    def credited_by_them(self, row: int) -> tuple[list[float], list[float], list[float]]:
        """Their rewards, advantages and returns of a row's answer, its padding included."""
        mask = self.mask(row)
        reward = theirs.rewards(
            self.logprobs[row].tolist(), self.reference[row].tolist(), float(self.score[row]), START, mask
        )
        return reward[START:], *theirs.advantages_and_returns(self.values[row].tolist(), reward, START, mask)


def answers(*lengths: int) -> Answers:
    shape = len(lengths), WIDTH - 1
    logprobs = -torch.rand(shape, dtype=torch.float64) * 3
    return Answers(
        lengths=lengths,
        logprobs=logprobs,
        reference=logprobs + 0.3 * torch.randn(shape, dtype=torch.float64),
        values=torch.randn(shape, dtype=torch.float64),
        score=torch.linspace(-2.0, 9.0, len(lengths), dtype=torch.float64),
    )


# --- equal, where every answer fills its row ---------------------------------------------------------------------


def test_rewards_advantages_and_returns_are_theirs_where_no_answer_is_padded() -> None:
    batch = answers(5, 5, 5)
    mine = [part.view(3, 5).tolist() for part in batch.credited()]
    for row in range(3):
        for found, expected in zip(mine, batch.credited_by_them(row), strict=True):
            assert found[row] == pytest.approx(expected)


@pytest.mark.parametrize("lengths", [(5, 5, 5), (5, 2, 4)])
def test_both_losses_are_theirs_on_the_same_advantages_padded_or_not(lengths: tuple[int, ...]) -> None:
    batch = answers(*lengths)
    now = batch.logprobs + 0.4 * torch.randn_like(batch.logprobs)
    moved = batch.values + 0.4 * torch.randn_like(batch.values)
    advantages, returns = torch.randn_like(now), torch.randn_like(now)
    actor, critic = [], []
    for row, length in enumerate(lengths):
        inside = slice(START, START + length)
        parts = (now, batch.logprobs, advantages, moved, batch.values, returns)
        new, old, advantage, value, before, wanted = (part[row, inside].tolist() for part in parts)
        actor.append(theirs.actor_loss(new, old, advantage, [True] * length))
        critic.append(theirs.critic_loss(value, before, wanted, [True] * length))
    stream = batch.stream
    mine = losses.clipped_policy(stream(now), stream(batch.logprobs), stream(advantages), theirs.CLIP)
    values = losses.clipped_value(stream(moved), stream(batch.values), stream(returns), theirs.VALUE_CLIP)
    count = sum(lengths)
    assert float(mine.sum() / count) == pytest.approx(sum(t for t, _ in actor) / sum(n for _, n in actor))
    assert float(values.sum() / count) == pytest.approx(sum(t for t, _ in critic) / sum(n for _, n in critic))


# --- different, and why ------------------------------------------------------------------------------------------


def test_their_score_of_a_shorter_answer_stands_one_past_its_last_token() -> None:
    batch = answers(3, 5)
    reward, _, _ = batch.credited_by_them(0)
    bare, _, _ = Answers(
        lengths=batch.lengths, logprobs=batch.logprobs, reference=batch.reference, values=batch.values,
        score=torch.zeros(2, dtype=torch.float64),
    ).credited_by_them(0)  # fmt: skip
    (place,) = [at for at, (with_score, without) in enumerate(zip(reward, bare, strict=True)) if with_score != without]
    assert place == 3  # the answer's tokens are 0, 1 and 2
    mine, _, _ = batch.credited()
    own = batch.stream(batch.logprobs - batch.reference)[:3] * -theirs.KL_COEFFICIENT
    assert (mine[:3] - own).tolist() == pytest.approx([0.0, 0.0, -2.0])


def test_so_their_advantages_depend_on_what_the_critic_says_of_padding_and_ours_do_not() -> None:
    batch = answers(3, 5)
    batch.reference.copy_(batch.logprobs)
    _, before, _ = batch.credited_by_them(0)
    mine = batch.credited()[1].clone()
    value, padding, score = float(batch.values[0, START + 2]), float(batch.values[0, START + 3]), -2.0
    assert before[2] == pytest.approx(theirs.LAM * score + (1 - theirs.LAM) * padding - value)
    assert float(mine[2]) == pytest.approx(score - value)
    batch.values[0, START + 3] += 10.0
    _, after, _ = batch.credited_by_them(0)
    assert after[2] - before[2] == pytest.approx(10.0 * (1 - theirs.LAM))
    assert batch.credited()[1].equal(mine)


def test_with_the_end_as_padding_their_end_token_is_never_trained_and_ours_is() -> None:
    # what they take for padding goes by the id, and the end token has it: `[9, 8, 7, 5, 6, end, end, end]`
    row = [9, 8, 7, 5, 6, END, END, END]
    mask = [token != END for token in row[1:]]
    advantages = [1.0] * 5
    total, count = theirs.actor_loss([0.0] * 5, [0.0] * 5, advantages, mask[START:])
    assert (total, count) == (-2.0, 2)
    far, _ = theirs.actor_loss([0.0, 0.0, -9.0, 0.0, 0.0], [0.0] * 5, advantages, mask[START:])
    assert far == total  # whatever the policy thinks of ending
    group = PrefixGroup(
        id="row", root=Span.all(row[:PROMPT], trained=False), branches=(Span.all(row[PROMPT:6], trained=True),)
    )
    batch = pack([group])
    assert batch.tokens[batch.trained].tolist() == [5, 6, END]
    policy = tiny_policy()
    policy(batch).logprobs[-1].backward()
    assert next(policy.model.parameters()).grad is not None


def test_their_reward_loss_reads_the_padding_of_the_shorter_answer_and_ours_the_last_tokens() -> None:
    chosen, rejected = [9, 8, 7, 5, END, PAD, PAD], [9, 8, 7, 6, 4, 3, END]
    better, worse = torch.randn(2, 7, dtype=torch.float64).tolist()
    before = theirs.pair_loss(chosen, rejected, better, worse, PAD)
    better[6] += 20.0  # the score after a pad
    assert before - theirs.pair_loss(chosen, rejected, better, worse, PAD) > 0.1
    mine = losses.pairwise(torch.tensor(better[4]), torch.tensor(worse[6]))  # each after its own end token
    assert float(mine) == pytest.approx(math.log1p(math.exp(worse[6] - better[4])))


def test_their_reward_loss_is_ours_where_only_the_last_token_differs() -> None:
    better, worse = torch.randn(2, 4, dtype=torch.float64)
    loss = theirs.pair_loss([9, 8, 7, 5], [9, 8, 7, 6], better.tolist(), worse.tolist(), PAD)
    assert float(losses.pairwise(better[-1], worse[-1])) == pytest.approx(loss)


def test_their_pair_that_truncation_made_identical_costs_log_two_for_nothing() -> None:
    same = [9, 8, 7, 5]
    scores = torch.randn(4).tolist()
    # ours leaves such a pair out and counts it: tests/data/test_data_examples.py
    assert theirs.pair_loss(same, same, scores, scores, PAD) == pytest.approx(LOG2)


def one_token_answers(count: int = VOCABULARY) -> PrefixGroup:
    """A prompt and the first answers of one token, in the order of the vocabulary."""
    branches = tuple(Span.all([token], trained=True) for token in range(count))
    return PrefixGroup(id="row", root=Span.all([5, 9, 4], trained=False), branches=branches)


@pytest.mark.parametrize(("temperature", "vanishes"), [(0.6, True), (1.0, False)])
def test_log_probs_without_the_sampling_temperature_push_even_where_all_advantages_are_equal(
    temperature: float, vanishes: bool
) -> None:
    # E[grad log p] over p's own samples is 0; over samples of the cooler p at 0.6 it is 0 for the log-probs at 0.6 only
    model = tiny_policy().model
    batch = pack([one_token_answers()])
    with torch.no_grad():
        sampled = Policy(model, temperature=0.6)(batch).logprobs[batch.trained].exp()
    assert float(sampled.sum()) == pytest.approx(1.0, abs=1e-5)
    (sampled @ Policy(model, temperature=temperature)(batch).logprobs[batch.trained]).backward()
    head = model.get_output_embeddings().weight.grad
    assert (float(head.abs().max()) < 1e-5) is vanishes


def test_old_log_probs_under_dropout_move_the_ratio_of_a_policy_that_did_not_move() -> None:
    # they turn the actor to training before `generate_experience` reads the old log-probs; ours annotates in evaluation
    policy = Policy(tiny("gpt2", embd_pdrop=0.3, attn_pdrop=0.3, resid_pdrop=0.3), packing=False)
    batch = pack([one_token_answers(4)])
    ratios = []
    with torch.no_grad():
        for training in (True, False):
            policy.train(training)
            old = policy(batch).logprobs
            ratios.append((policy(batch).logprobs - old).exp()[batch.trained])
    assert float((ratios[0] - 1).abs().max()) > 0.1
    assert ratios[1].tolist() == [1.0] * 4
