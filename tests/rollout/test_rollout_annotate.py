"""Answers to experience: the golden numbers, the ratio, baselines, whitening, and rewards that are no numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from architectures import tiny_policy
from rows_at_hand import answers, prompt_numbers
from torch import Tensor

from posttrain.errors import Diverged
from posttrain.rollout.annotate import Annotators, CreditRules, annotate, distinct_bigrams, health
from posttrain.rollout.buffer import Rollouts, pack_answers
from posttrain.rollout.sampler import BatchedSampler
from posttrain.types import Completion, LogprobFn, Prompt, PromptRecord, RolloutBatch, SamplingSpec, TokenBatch

RULES = CreditRules(
    form="token", estimator="k1", score_clip=None, missing_eos_penalty=0.0, gamma=1.0, lam=0.95, whiten=False,
    baseline="critic",
)  # fmt: skip
NOTES = (torch.tensor([0.75, 0.60, 0.85, 0.92]), torch.tensor([0.40, 0.35, 0.70, 0.90]))


def answer(
    length: int, *, name: str = "p", logprobs: Sequence[float] | None = None, stopped: bool = True
) -> Completion:
    prompt = Prompt(id=name, tokens=(3, 4, 5), record=PromptRecord(id=name, text=name))
    return Completion(
        prompt=prompt, sample=0, tokens=tuple(range(10, 10 + length)), text="",
        logprobs=tuple(logprobs or (0.0,) * length), stopped=stopped,
    )  # fmt: skip


def constant(value: float | Tensor) -> LogprobFn:
    """A per-token function of a batch: the same everywhere, or these values at the trained tokens."""

    def run(batch: TokenBatch) -> Tensor:
        found = torch.zeros(len(batch.tokens))
        found[batch.trained] = value
        return found

    return run


def models(
    scores: Sequence[float], *, value: float | Tensor | None = None, reference: float | Tensor = 0.0, budget: int = 999
) -> Annotators:
    return Annotators(
        reference=constant(reference),
        scorer=lambda done: torch.tensor([scores[number] for number, _ in enumerate(done)]),
        value=None if value is None else constant(value),
        actor=None,
        budget=budget,
    )


def run(
    rollouts: Sequence[Completion], annotators: Annotators, rules: CreditRules = RULES, beta: float = 0.0
) -> Rollouts:
    return annotate(rollouts, prompt_numbers(rollouts), annotators, rules, beta)


def numbers(values: Tensor) -> list[float]:
    return [round(float(value), 6) for value in values]


# --- golden numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others", [0, 1, 3])
def test_the_three_token_response_whatever_surrounds_it(others: int) -> None:
    batch = [answer(3), *(answer(2 + n, name=f"q{n}") for n in range(others))]
    found = run(batch, models([1.0] + [9.0] * others, value=0.5))
    assert numbers(found.advantages[:3]) == [0.45125, 0.475, 0.5]
    assert numbers(found.returns[:3]) == [0.95125, 0.975, 1.0]
    assert numbers(found.rewards[:3]) == [0.0, 0.0, 1.0]


def test_the_kl_of_the_notes_is_counted_on_answer_tokens_alone() -> None:
    now, reference = NOTES[0].log(), NOTES[1].log()
    found = run([answer(4, logprobs=now.tolist())], models([2.0], value=0.0, reference=reference), beta=0.1)
    assert numbers(found.kl) == [0.628609, 0.538997, 0.194156, 0.021979]
    assert numbers(found.rewards) == [-0.062861, -0.0539, -0.019416, 1.997802]
    assert health(found)["kl"] == pytest.approx(1.383740, abs=1e-6)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("token", [-0.062861, -0.0539, -0.019416, 1.997802]),
        ("sequence", [0.0, 0.0, 0.0, 1.965406]),  # 2 - 0.1 * 1.383740 / 4
        ("spread", [0.437139, 0.4461, 0.480584, 0.497802]),
    ],
)
def test_the_three_forms_of_reward(form: str, expected: list[float]) -> None:
    now, reference = NOTES[0].log(), NOTES[1].log()
    batch = [answer(4, logprobs=now.tolist())]
    found = run(batch, models([2.0], reference=reference), replace(RULES, form=form), beta=0.1)
    assert numbers(found.rewards) == pytest.approx(expected, abs=2e-6)


def test_a_score_is_clipped_before_the_penalty_for_an_answer_cut_by_the_limit() -> None:
    batch = [answer(1), answer(1, name="q", stopped=False), answer(1, name="r", stopped=False)]
    rules = replace(RULES, score_clip=5.0, missing_eos_penalty=1.0)
    found = run(batch, models([9.0, 9.0, -9.0]), rules)
    assert found.settled.tolist() == [5.0, 4.0, -6.0]
    assert found.scores.tolist() == [9.0, 9.0, -9.0]


def test_kl_in_the_loss_leaves_the_reward_alone() -> None:
    batch = [answer(2, logprobs=(-1.0, -1.0))]
    found = run(batch, models([1.0], reference=-3.0), replace(RULES, kl_in_reward=False), beta=0.5)
    assert found.rewards.tolist() == [0.0, 1.0]
    assert found.kl.tolist() == [2.0, 2.0]


def test_scores_are_scaled_then_clipped_then_cut_answers_pay() -> None:
    batch = [answer(1), answer(1, name="q", stopped=False), answer(1, name="r")]
    rules = replace(RULES, score_clip=2.0, missing_eos_penalty=1.0)
    views = replace(models([8.0, 10.0, -2.0]), scale=lambda scores: 4.0)
    found = run(batch, views, rules)
    assert found.settled.tolist() == [2.0, 1.0, -0.5]  # 10 / 4 is cut to 2, and then the penalty comes
    assert found.scores.tolist() == [8.0, 10.0, -2.0]


@pytest.mark.parametrize("form", ["token", "sequence", "spread"])
def test_the_exact_kl_takes_the_place_of_the_estimate_in_every_form(form: str) -> None:
    batch = [answer(2, logprobs=(-1.0, -3.0))]
    exact = torch.tensor([0.25, 0.75])
    views = replace(models([1.0], reference=-2.0), exact=constant(exact))
    found = run(batch, views, replace(RULES, form=form, estimator="exact"), beta=0.1)
    assert torch.equal(found.kl, exact)
    whole = 0.05 if form == "sequence" else 0.1  # the mean or the sum of the KL, times beta
    assert float(found.rewards.sum()) == pytest.approx(1.0 - whole)
    shown = health(found, estimator="exact")
    assert shown["kl_exact"] == pytest.approx(1.0)
    assert shown["kl"] == pytest.approx(0.0)  # k1: (-1 + 2) + (-3 + 2)
    assert shown["objective"] == pytest.approx(1.0 - whole)


def test_the_objective_counts_the_kl_once_wherever_it_stands() -> None:
    batch = [answer(2, logprobs=(-1.0, -1.0)), answer(1, name="q", logprobs=(-2.0,))]
    in_reward = run(batch, models([1.0, 3.0], reference=-3.0), RULES, beta=0.5)
    in_loss = run(batch, models([1.0, 3.0], reference=-3.0), replace(RULES, kl_in_reward=False), beta=0.5)
    expected = ((1.0 - 0.5 * 4.0) + (3.0 - 0.5 * 1.0)) / 2
    assert health(in_reward)["objective"] == pytest.approx(expected)
    assert health(in_loss, beta_in_loss=0.5)["objective"] == pytest.approx(expected)


# --- baselines and whitening ------------------------------------------------------------------------------------


def test_the_baselines() -> None:
    batch = [answer(2, name="p"), answer(1, name="p"), answer(3, name="q"), answer(1, name="q")]
    none = run(batch, models([1.0, 2.0, 4.0, 8.0]), replace(RULES, baseline="none"))
    assert numbers(none.advantages) == [1, 1, 2, 4, 4, 4, 8]
    rloo = run(batch, models([1.0, 2.0, 4.0, 8.0]), replace(RULES, baseline="rloo"))
    assert numbers(rloo.advantages) == [-1, -1, 1, -4, -4, -4, 4]
    group = run(batch, models([1.0, 2.0, 4.0, 8.0]), replace(RULES, baseline="group"))
    half = 0.5**0.5  # two scores stand half of the square root of two from their mean
    assert group.advantages.tolist() == pytest.approx([-half, -half, half, -half, -half, -half, half], abs=1e-5)


def test_grouped_advantages_know_nothing_of_a_kl_that_is_in_the_loss() -> None:
    """The habit of GRPO: scores compared within a prompt, and the reference only in the policy's loss."""
    batch = [answer(2, name="p", logprobs=(-1.0, -1.0)), answer(1, name="p", logprobs=(-0.5,)), answer(1, name="p")]
    rules = replace(RULES, baseline="group", kl_in_reward=False, form="token")
    near, far = (run(batch, models([1.0, 2.0, 6.0], reference=value), rules, beta=0.5) for value in (-1.0, -9.0))
    assert torch.equal(near.advantages, far.advantages)
    deviation = 7**0.5  # of 1, 2, 6 around 3, divided by one less than their number
    assert near.advantages.tolist() == pytest.approx([value / deviation for value in (-2, -2, -1, 3)], abs=1e-5)
    in_reward = run(batch, models([1.0, 2.0, 6.0], reference=-9.0), replace(rules, kl_in_reward=True), beta=0.5)
    totals = [1.0 - 0.5 * 16.0, 2.0 - 0.5 * 8.5, 6.0 - 0.5 * 9.0]
    mean = sum(totals) / 3
    spread = (sum((total - mean) ** 2 for total in totals) / 2) ** 0.5
    expected = [(total - mean) / spread for total in totals]
    assert in_reward.advantages.tolist() == pytest.approx([expected[0], *expected], abs=1e-5)


def test_leave_one_out_is_by_hand_the_mean_of_the_others_with_the_kl_in_the_rewards() -> None:
    batch = [answer(1, name="p", logprobs=(-1.0,)), answer(1, name="p", logprobs=(-2.0,)), answer(1, name="p")]
    found = run(batch, models([1.0, 2.0, 6.0], reference=-3.0), replace(RULES, baseline="rloo"), beta=0.1)
    totals = [1.0 - 0.1 * 2.0, 2.0 - 0.1 * 1.0, 6.0 - 0.1 * 3.0]
    expected = [totals[place] - (sum(totals) - totals[place]) / 2 for place in range(3)]
    assert found.advantages.tolist() == pytest.approx(expected, abs=1e-6)


def test_whitening_is_over_the_whole_batch_and_leaves_returns_alone() -> None:
    batch = answers(6, 2)
    scores = [float(number) for number in range(len(batch))]
    plain = run(batch, models(scores, value=0.3))
    whitened = run(batch, models(scores, value=0.3, budget=12), replace(RULES, whiten=True))
    expected = (plain.advantages - plain.advantages.mean()) / plain.advantages.std(correction=0)
    torch.testing.assert_close(whitened.advantages, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(whitened.returns, plain.returns)


def test_annotation_does_not_depend_on_its_own_micro_batches() -> None:
    policy, batch = tiny_policy(), answers(5, 2)

    def annotated(budget: int) -> Rollouts:
        views = Annotators(
            reference=lambda tokens: policy(tokens).logprobs, scorer=lambda done: torch.arange(float(len(done))),
            value=lambda tokens: policy(tokens).logprobs * 0.1, actor=lambda tokens: policy(tokens).logprobs,
            budget=budget,
        )  # fmt: skip
        return run(batch, views, beta=0.1)

    one, other = annotated(10_000), annotated(11)
    for name in ("old", "reference", "values", "advantages", "returns"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-5)


# --- the ratio --------------------------------------------------------------------------------------------------


def sampled() -> list[Completion]:
    sampler = BatchedSampler(tiny_policy(), stop_ids=frozenset({2}), decode=str, context=64)
    prompts = [
        Prompt(id=f"p{length}", tokens=tuple(range(3, 3 + length)), record=PromptRecord(id="", text=""))
        for length in (1, 4, 9)
    ]
    return sampler(prompts, SamplingSpec(max_new_tokens=12, samples=3))


def largest_log_ratio(rollouts: Rollouts, batches: Sequence[RolloutBatch]) -> float:
    policy = tiny_policy()
    with torch.no_grad():
        gaps = [(policy(batch.tokens).logprobs - batch.old)[batch.tokens.trained].abs().max() for batch in batches]
    return float(torch.stack(gaps).max())


def test_the_ratio_is_1_where_the_old_log_probs_are_teacher_forced_in_the_same_packing() -> None:
    policy, batch = tiny_policy(), sampled()
    views = replace(models([1.0] * 9), actor=lambda tokens: policy(tokens).logprobs)
    rollouts = run(batch, views)
    whole = list(rollouts.micro_batches(range(9), 999, train_actor=True))
    assert len(whole) == 1
    assert largest_log_ratio(rollouts, whole) == 0.0


@pytest.mark.parametrize("budget", [15, 40, 999])
def test_the_log_ratio_is_rounding_where_packing_differs_or_the_samplers_log_probs_are_kept(budget: int) -> None:
    rollouts = run(sampled(), models([1.0] * 9))
    cut = list(rollouts.micro_batches([4, 0, 7, 2, 8, 1, 5, 3, 6], budget, train_actor=True))
    assert largest_log_ratio(rollouts, cut) <= 1e-4


def test_an_actor_equal_to_its_reference_has_no_kl() -> None:
    policy, batch = tiny_policy(), sampled()

    def same(tokens: TokenBatch) -> Tensor:
        return policy(tokens).logprobs

    views = replace(models([1.0] * 9), actor=same, reference=same)
    assert torch.equal(run(batch, views).kl, torch.zeros(sum(len(done.tokens) for done in batch)))


# --- micro-batches of rollouts ----------------------------------------------------------------------------------


def test_micro_batches_carry_every_quantity_to_its_token() -> None:
    batch = answers(4, 3)
    count = sum(len(done.tokens) for done in batch)
    marks = torch.arange(1.0, count + 1)
    plain = run(batch, models([1.0] * 12))
    rollouts = replace(plain, old=marks, advantages=marks * 10, returns=marks * 100, values=-marks, reference=marks / 2)
    seen: dict[int, int] = {}
    starts = torch.tensor([0, *(len(done.tokens) for done in batch)]).cumsum(0).tolist()
    for part in rollouts.micro_batches([11, 3, 0, 5, 4, 9], 20, train_actor=False):
        assert not part.train_actor
        trained = part.tokens.trained
        assert torch.equal(part.advantages, part.old * 10)
        assert torch.equal(part.returns, part.old * 100)
        assert torch.equal(part.values, -part.old)
        assert torch.equal(part.reference, part.old / 2)
        assert not part.old[~trained].any()
        for place in trained.nonzero().flatten().tolist():
            seen[int(part.old[place])] = int(part.tokens.tokens[place])
    rows = [(starts[row], batch[row].tokens) for row in (11, 3, 0, 5, 4, 9)]
    assert seen == {start + 1 + place: token for start, tokens in rows for place, token in enumerate(tokens)}


def test_answers_of_one_prompt_share_its_prefix() -> None:
    batch = answers(2, 3)
    packed = pack_answers(batch, prompt_numbers(batch))
    assert packed.parent.tolist() == [-1, 0, 0, 0, -1, 4, 4, 4]
    assert int(packed.trained.sum()) == sum(len(done.tokens) for done in batch)


# --- what cannot be used, and health ----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_stops_the_run_and_names_the_prompt(bad: float) -> None:
    batch = [answer(1), answer(1, name="chats.jsonl:7"), answer(1, name="r")]
    with pytest.raises(Diverged, match=r"the reward of 2 answers is not finite, first that for prompt chats\.jsonl:7"):
        run(batch, models([1.0, bad, bad]))


def test_the_numbers_of_a_round_give_back_the_advantages_before_whitening() -> None:
    batch, scores = [answer(3), answer(2, name="q")], [1.0, -2.0]
    plain = run(batch, models(scores, value=0.5), beta=0.1)
    assert plain.numbers == {"beta": 0.1, "scale": 1.0, "mean": 0.0, "deviation": 1.0}
    found = run(batch, replace(models(scores, value=0.5), scale=lambda _: 0.5), replace(RULES, whiten=True), beta=0.1)
    assert found.numbers["scale"] == 0.5
    doubled = run(batch, models([2.0, -4.0], value=0.5), beta=0.1)
    back = found.advantages * found.numbers["deviation"] + found.numbers["mean"]
    torch.testing.assert_close(back, doubled.advantages)


@pytest.mark.parametrize("shape", [(2,), (3, 1), ()])
def test_a_reward_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    batch = [answer(1), answer(1), answer(1)]
    wrong = replace(models([]), scorer=lambda done: torch.zeros(shape))
    with pytest.raises(ValueError, match="scores for 3 answers"):
        run(batch, wrong)


def test_health_by_hand() -> None:
    batch = [answer(4, logprobs=(-1.0,) * 4), answer(2, name="q", logprobs=(-2.0,) * 2, stopped=False)]
    rules = replace(RULES, missing_eos_penalty=1.0)
    found = health(run(batch, models([3.0, 1.0], value=0.5, reference=-1.5), rules))
    assert found["score"] == 2.0
    assert found["reward"] == 1.5
    assert found["length"] == 3.0
    assert found["stopped"] == 0.5
    assert found["kl"] == pytest.approx((4 * 0.5 - 2 * 0.5) / 2)
    assert found["sampled_entropy"] == pytest.approx(8 / 6)
    assert found["distinct_bigrams"] == 1.0
    assert found["score_length_correlation"] == pytest.approx(1.0)
    assert "explained_variance" in found


def test_distinct_bigrams_are_a_share_of_the_pairs() -> None:
    assert distinct_bigrams([1, 2, 1, 2, 1]) == 0.5
    assert distinct_bigrams([7]) == 1.0
