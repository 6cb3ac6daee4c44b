"""What each method minimises: golden numbers, what must not matter, and who gets a gradient."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import torch
from architectures import packed_groups, tiny, tiny_policy, tiny_scalar
from rows_at_hand import conversations, rankings
from torch import Tensor
from transformers import AutoTokenizer

from posttrain import objectives
from posttrain.data.examples import RankedItem
from posttrain.data.pack import pack
from posttrain.data.rankings import ranked_batch
from posttrain.models.heads import Policy
from posttrain.objectives import ScoreReader
from posttrain.ops import losses
from posttrain.text.chat import Codec
from posttrain.types import ChatRecord, Message, PrefixGroup, RankedBatch, Scored, Span, TokenBatch

LOG_2 = 0.6931471805599453


def value(scored: Scored, name: str) -> float:
    return float(scored.metrics[name].total) / float(scored.metrics[name].count)


def total(scored: Scored, name: str) -> float:
    return float(scored.terms[name].total.detach())


# --- finetuning -------------------------------------------------------------------------------------------------


def test_finetuning_is_the_negative_log_likelihood_of_the_trained_tokens_alone() -> None:
    actor, rows = tiny_policy(), conversations(6)
    expected, count = 0.0, 0
    for row in rows:
        with torch.no_grad():
            tokens = torch.tensor(row.root.tokens)
            own = tiny("llama")(input_ids=tokens[None]).logits[0].log_softmax(-1)
        for place, trained in enumerate(row.root.trained):
            if trained:
                expected -= float(own[place - 1, tokens[place]])
                count += 1
    scored = objectives.sft(actor)(pack(rows))
    assert total(scored, "tokens") == pytest.approx(expected, rel=1e-5)
    assert value(scored, "loss") == pytest.approx(expected / count, rel=1e-5)


def test_a_pad_token_equal_to_the_end_of_text_changes_nothing_and_the_end_is_trained(
    tiny_model: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(tmp_path / "own")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "same")
    turns = (Message(role="user", content="Is it?"), Message(role="assistant", content="It is."))
    batches: list[TokenBatch] = []
    for name in ("own", "same"):
        codec = Codec.load(str(tmp_path / name))
        [span] = codec.conversation(ChatRecord(id="row", messages=turns))
        assert (span.tokens[-1], span.trained[-1]) == (codec.end_of_turn, True)
        assert codec.end_of_turn == codec.tokenizer.eos_token_id
        batches.append(pack([PrefixGroup(id="row", root=span)]))
    for own, same in ([getattr(batch, name) for batch in batches] for name in TokenBatch.__slots__):
        assert torch.equal(own, same) if isinstance(own, torch.Tensor) else own == same
    assert batches[1].trained[-1]


# --- rankings ---------------------------------------------------------------------------------------------------


class FixedScores:
    """A stand-in for a reader of scores: what it gives has been decided."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = torch.tensor(scores)

    def __call__(self, batch: TokenBatch, responses: Tensor) -> Tensor:
        assert len(responses) == len(self.scores)
        return self.scores


def golden(ranks: tuple[int | None, ...], ties: str) -> RankedBatch:
    branches = tuple(Span.all([5 + n], trained=True) for n in range(len(ranks)))
    group = PrefixGroup(id="row", root=Span.all([3], trained=False), branches=branches)
    item = RankedItem(group=group, ranks=ranks, weight=1.0, margin=0.0, annotator=None)
    return ranked_batch([item], ties="soft" if ties == "soft" else "drop", pair_weight="prompt")


def reward_total(scores: list[float], batch: RankedBatch, loss: str = "pairwise") -> Scored:
    return objectives.reward(cast("ScoreReader", FixedScores(scores)), loss=loss)(batch)


def test_the_golden_ranking() -> None:
    scores = [2.0, 1.0, 1.0, 0.0]
    ranks = (1, 2, 2, 3)
    assert total(reward_total(scores, golden(ranks, "drop")), "prompts") == pytest.approx(0.275995, abs=1e-6)
    assert total(reward_total(scores, golden(ranks, "soft")), "prompts") == pytest.approx(0.345520, abs=1e-6)
    plackett = reward_total(scores, golden(ranks, "drop"), "plackett_luce")
    assert total(plackett, "prompts") == pytest.approx(1.253047, abs=1e-6)


@pytest.mark.parametrize("loss", ["pairwise", "plackett_luce"])
def test_a_zeroed_head_begins_at_log_2_and_ties_count_one_half(loss: str) -> None:
    rows = [row for row in rankings(12) if len(row.ranks) == 2]
    rows = [replace(row, margin=0.0) for row in rows]
    scored = objectives.reward(ScoreReader(model=tiny_scalar(zero=True)), loss=loss)(
        ranked_batch(rows, ties="soft", pair_weight="prompt")
    )
    assert value(scored, "loss") == pytest.approx(LOG_2, abs=1e-6)
    assert value(scored, "accuracy") == 0.5
    assert value(scored, "margin") == 0.0


def test_accuracy_is_of_strict_pairs_only_in_reward_and_dpo() -> None:
    # 1 > 2 holds, 1 > 3 does not, and 2 ~ 3 is no question of accuracy
    batch = golden((1, 2, 2), "soft")
    assert value(reward_total([1.0, 0.0, 2.0], batch), "accuracy") == 0.5
    score = objectives.dpo(fixed_policy([1.0, 0.0, 2.0], batch), partial(losses.dpo, beta=1.0))
    assert value(score(replace(batch, reference=torch.zeros(3))), "accuracy") == 0.5


def fixed_policy(sums: list[float], batch: RankedBatch) -> Policy:
    """A stand-in for a policy: the summed log-prob of each response of the batch has been decided."""

    def run(tokens: TokenBatch, *, ahead: object = None) -> objectives.PolicyOutput:
        logprobs = torch.zeros(len(tokens.tokens))
        logprobs[torch.isin(tokens.segment, batch.responses)] = torch.tensor(sums)
        return objectives.PolicyOutput(logprobs=logprobs, entropy=None, values=None)

    return cast("Policy", run)


def test_dpo_begins_at_log_2_with_margin_0_and_accuracy_one_half() -> None:
    actor, rows = tiny_policy(), rankings(9)
    batch = ranked_batch(rows, ties="drop", pair_weight="pair")
    with torch.no_grad():
        batch = replace(batch, reference=objectives.response_logprobs(actor, batch))
    scored = objectives.dpo(actor, partial(losses.dpo, beta=0.1))(batch)
    assert value(scored, "loss") == pytest.approx(LOG_2, abs=1e-6)
    assert value(scored, "margin") == 0.0
    assert value(scored, "accuracy") == 0.5


def test_dpo_is_the_loss_of_the_papers_margin() -> None:
    batch = replace(golden((2, 1), "drop"), reference=torch.tensor([-3.0, -1.0]))
    scored = objectives.dpo(fixed_policy([-2.0, -1.5], batch), partial(losses.dpo, beta=0.5))(batch)
    # the second is chosen: log-ratios -0.5 (chosen) and 1 (rejected)
    expected = float(torch.nn.functional.softplus(torch.tensor(0.5 * 1.5)))
    assert total(scored, "pairs") == pytest.approx(expected, rel=1e-6)
    assert (value(scored, "chosen_logratio"), value(scored, "rejected_logratio")) == (-0.5, 1.0)
    assert (value(scored, "margin"), value(scored, "accuracy")) == (-1.5, 0.0)


def test_a_tie_pulls_dpo_to_neither_side() -> None:
    batch = replace(golden((1, 1), "soft"), reference=torch.zeros(2))
    sums = torch.tensor([0.4, 0.4], requires_grad=True)
    scored = objectives.dpo(_leaf_policy(sums, batch), partial(losses.dpo, beta=0.5))(batch)
    scored.terms["pairs"].total.backward()
    assert sums.grad is not None
    assert torch.equal(sums.grad, torch.zeros(2))
    assert total(scored, "pairs") == pytest.approx(LOG_2, abs=1e-6)


def _leaf_policy(sums: Tensor, batch: RankedBatch) -> Policy:
    def run(tokens: TokenBatch, *, ahead: object = None) -> objectives.PolicyOutput:
        places = torch.isin(tokens.segment, batch.responses).nonzero().flatten()
        logprobs = torch.zeros(len(tokens.tokens)).index_copy(0, places, sums)
        return objectives.PolicyOutput(logprobs=logprobs, entropy=None, values=None)

    return cast("Policy", run)


def test_the_order_of_rankings_and_answers_in_a_batch_changes_nothing() -> None:
    rows, reader = rankings(8), ScoreReader(model=tiny_scalar())

    def turned(row: RankedItem) -> RankedItem:
        return replace(row, group=replace(row.group, branches=row.group.branches[::-1]), ranks=row.ranks[::-1])

    for loss in ("pairwise", "plackett_luce"):
        objective = objectives.reward(reader, loss=loss)
        one = objective(ranked_batch(rows, ties="soft", pair_weight="prompt"))
        other = objective(ranked_batch([turned(row) for row in rows[::-1]], ties="soft", pair_weight="prompt"))
        assert total(one, "prompts") == pytest.approx(total(other, "prompts"), rel=1e-5)
        assert value(one, "accuracy") == value(other, "accuracy")


# --- scores -----------------------------------------------------------------------------------------------------


def test_a_score_is_read_after_the_last_token_of_a_response_or_averaged_over_it() -> None:
    model, batch = tiny_scalar(), packed_groups()
    with torch.no_grad():
        after = model(batch)
        responses = (batch.parent >= 0).nonzero().flatten()
        last = ScoreReader(model=model)(batch, responses)
        mean = ScoreReader(model=model, mean=True)(batch, responses)
    for row, segment in enumerate(responses.tolist()):
        own = after[batch.segment == segment]
        assert last[row] == own[-1]
        torch.testing.assert_close(mean[row], own.mean())


def test_an_empty_response_is_read_after_its_prompt() -> None:
    model = tiny_scalar()
    prompt, other = Span.all([5, 6, 7], trained=False), Span.all([9], trained=False)
    empty = Span.all([], trained=False)
    batch = pack([PrefixGroup(id="a", root=prompt, branches=(empty, other)), PrefixGroup(id="b", root=other)])
    for mean in (False, True):
        with torch.no_grad():
            [found] = ScoreReader(model=model, mean=mean)(batch, torch.tensor([1]))
            assert found == model(batch)[2]
