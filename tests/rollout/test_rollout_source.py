"""Rounds of PPO as steps: every answer once a pass, beta as adapted, and going on with a round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import islice

import pytest
import torch
from rows_at_hand import answers, conversations, prompt_numbers

from posttrain.data.pack import Budget, pack
from posttrain.data.source import EpochSource, Weighted
from posttrain.errors import DataError
from posttrain.rollout.annotate import Annotators, CreditRules, annotate
from posttrain.rollout.buffer import Rollouts
from posttrain.rollout.source import RolloutSource, RoundPlan
from posttrain.types import Completion, PrefixGroup, Prompt, RolloutBatch, SamplingSpec, Source, Step, TokenBatch

RULES = CreditRules(
    form="token", estimator="k1", score_clip=None, missing_eos_penalty=0.0, gamma=1.0, lam=0.95, whiten=False,
    baseline="none",
)  # fmt: skip
PLAN = RoundPlan(
    rounds=3, rollouts=6, group=2, epochs=2, minibatches=2, critic_warmup=0, beta=0.1, kl_target=None, horizon=100,
    budget=Budget(16), seed=5,
)  # fmt: skip
SPEC = SamplingSpec(max_new_tokens=8)


class Stage:
    """A source over five prompts with a sampler and an annotator that keep a record of what they were asked."""

    def __init__(self, plan: RoundPlan, texts: Source | None = None) -> None:
        self.prompts = list(dict.fromkeys(done.prompt.id for done in answers(5, 1)))
        self.asked: list[list[str]] = []
        self.specs: list[SamplingSpec] = []
        self.betas: list[float] = []
        asked = {done.prompt.id: done.prompt for done in answers(5, 1)}
        self.source = RolloutSource(
            list(asked.values()), self.sample, self.annotate, SPEC, plan, texts=texts,
            watch=lambda number, rollouts, metrics: None,
        )  # fmt: skip

    def sample(self, prompts: Sequence[Prompt], spec: SamplingSpec) -> list[Completion]:
        self.asked.append([prompt.id for prompt in prompts])
        self.specs.append(spec)
        pool = answers(len(prompts), spec.samples, seed=spec.round)
        owners = [prompt for prompt in prompts for _ in range(spec.samples)]
        return [replace(done, prompt=prompt) for done, prompt in zip(pool, owners, strict=True)]

    def annotate(self, completions: Sequence[Completion], prompts: Sequence[int], beta: float) -> Rollouts:
        self.betas.append(beta)
        assert list(prompts) == prompt_numbers(completions)

        def zero(batch: TokenBatch) -> torch.Tensor:
            return torch.zeros(len(batch.tokens))

        views = Annotators(reference=zero, scorer=lambda done: torch.ones(len(done)), value=None, actor=None, budget=64)
        return annotate(completions, prompts, views, RULES, beta)


def tokens_of(step: Step) -> Counter[tuple[int, ...]]:
    """The answers of a step's micro-batches as tokens."""
    found: Counter[tuple[int, ...]] = Counter()
    for batch in step.micro_batches:
        assert isinstance(batch, RolloutBatch)
        for segment in batch.tokens.segment[batch.tokens.trained].unique().tolist():
            found[tuple(batch.tokens.tokens[batch.tokens.segment == segment].tolist())] += 1
    return found


def test_every_pass_uses_every_answer_once_in_another_order() -> None:
    stage = Stage(PLAN)
    steps = list(stage.source)
    assert (stage.source.steps, len(steps)) == (12, 12)
    whole = Counter(done.tokens for done in answers(3, 2, seed=0))
    first, second = (sum((tokens_of(step) for step in steps[start : start + 2]), Counter()) for start in (0, 2))
    assert first == second == whole
    assert steps[0].rows != steps[2].rows
    assert all(step.counts["actor"] == step.counts["critic"] for step in steps)
    assert sum(step.counts["actor"] for step in steps[:2]) == sum(len(tokens) * n for tokens, n in whole.items())


def test_each_round_samples_anew_with_its_own_number_and_the_runs_seed() -> None:
    stage = Stage(PLAN)
    for _ in stage.source:
        pass
    assert [(spec.seed, spec.round, spec.samples) for spec in stage.specs] == [(5, 0, 2), (5, 1, 2), (5, 2, 2)]
    assert all(len(asked) == 3 for asked in stage.asked)
    once = [prompt for asked in stage.asked for prompt in asked][:5]
    assert sorted(once) == sorted(stage.prompts)


def test_a_prompt_that_comes_twice_in_a_round_is_told_apart() -> None:
    stage = Stage(replace(PLAN, rounds=1, rollouts=7, group=1, minibatches=1))
    list(stage.source)
    names = stage.asked[0]
    assert len(set(names)) == 7
    assert {name.removesuffix("#2") for name in names} == set(stage.prompts)
    assert sum(name.endswith("#2") for name in names) == 2


def test_the_actor_stays_while_the_critic_warms_up() -> None:
    stage = Stage(replace(PLAN, critic_warmup=5))
    moves = []
    for step in stage.source:
        [*batches] = step.micro_batches
        assert all(isinstance(batch, RolloutBatch) for batch in batches)
        moves.append({batch.train_actor for batch in batches if isinstance(batch, RolloutBatch)})
    assert moves == [{False}] * 5 + [{True}] * 7


def test_beta_adapts_by_the_kl_of_a_round_and_serves_the_next() -> None:
    stage = Stage(replace(PLAN, kl_target=6.0))
    metrics = [step.metrics for step in stage.source]
    expected, beta = [0.1], 0.1
    for number in (0, 1):
        nats = sum(sum(done.logprobs) for done in answers(3, 2, seed=number)) / 6
        beta *= 1 + max(-0.2, min(0.2, nats / 6.0 - 1)) * 6 / 100
        expected.append(beta)
    assert stage.betas == pytest.approx(expected)
    assert [row["beta"] for row in metrics[::4]] == pytest.approx(expected)
    assert [row["round"] for row in metrics[::4]] == [1.0, 2.0, 3.0]


def test_a_source_goes_on_with_the_round_of_its_state() -> None:
    plan = replace(PLAN, kl_target=6.0)
    whole, first, second = Stage(plan), Stage(plan), Stage(plan)
    steps = list(whole.source)
    taken = list(islice(first.source, 4))
    second.source.load_state(first.source.state())
    assert first.source.state()["round"] == 1
    rest = list(second.source)
    assert [step.rows for step in [*taken, *rest]] == [step.rows for step in steps]
    assert [*first.betas, *second.betas] == pytest.approx(whole.betas)


@pytest.mark.parametrize("done", range(13))
def test_a_state_taken_after_any_update_goes_on_with_the_next(done: int) -> None:
    plan = replace(PLAN, kl_target=6.0)
    whole, first, second = Stage(plan), Stage(plan), Stage(plan)
    steps = [(step.rows, step.metrics, tokens_of(step)) for step in whole.source]
    list(islice(first.source, done))
    state = first.source.state()
    assert any(name.startswith("rollouts.") for name in state) == bool(done % 4)  # none once a round is used up
    second.source.load_state(state)
    rest = [(step.rows, step.metrics, tokens_of(step)) for step in second.source]
    assert rest == steps[done:]
    assert len(first.specs) + len(second.specs) == 3  # no round is sampled twice


def test_a_source_does_not_go_on_with_other_prompts() -> None:
    source = Stage(PLAN).source
    with pytest.raises(DataError, match="the run began with 99 prompts, and 5 are there now"):
        source.load_state(source.state() | {"prompts": 99})


def test_the_answers_of_a_round_come_back_as_they_were() -> None:
    done = [replace(answer, stopped=answer.sample == 0) for answer in answers(3, 2)]
    asked = list({answer.prompt.id: answer.prompt for answer in done}.values())
    before = Stage(PLAN).annotate(done, prompt_numbers(done), 0.1)
    after = Rollouts.from_state(before.state(), asked)
    assert after.completions == before.completions
    assert after.prompts == before.prompts
    for part in fields(Rollouts):
        if part.name not in ("completions", "prompts", "parts", "failures", "numbers"):
            assert torch.equal(getattr(after, part.name), getattr(before, part.name)), part.name


# --- the KL in the loss, rounds that end early, text beside ---------------------------------------------------------


def test_the_beta_of_a_round_goes_into_its_batches_where_the_kl_is_in_the_loss() -> None:
    plan = replace(PLAN, kl_target=6.0)
    for in_loss in (False, True):
        stage = Stage(replace(plan, kl_in_loss=in_loss))
        seen = [(step.metrics["beta"], {batch.beta for batch in rollout_batches(step)}) for step in stage.source]
        assert len({beta for beta, _ in seen}) == 3
        assert all(batches == ({beta} if in_loss else {0.0}) for beta, batches in seen)


def rollout_batches(step: Step) -> list[RolloutBatch]:
    return [batch for batch in step.micro_batches if isinstance(batch, RolloutBatch)]


def trained_on(stage: Stage, measured: Sequence[float], *, start: int = 0) -> list[tuple[float, int]]:
    """Goes through the steps of a source as the loop does; what each skips and how many micro-batches it has."""
    found: list[tuple[float, int]] = []
    for number, step in enumerate(stage.source, start):
        batches = len(list(step.micro_batches))
        metrics = {"step_kl": measured[number]} if batches else {}
        stage.source.learned(number, metrics)
        found.append((step.metrics["kl_stopped"], batches))
    return found


def test_a_step_that_went_too_far_ends_its_round_and_every_update_keeps_its_number() -> None:
    plan = replace(PLAN, epoch_kl_stop=0.1, budget=Budget(999))
    #           round 1: after its second update   round 2: at once        round 3: never, the limit is not passed
    measured = [*(0.0, 0.11, 9.0, 9.0), *(0.2, 9.0, 9.0, 9.0), *(0.0, 0.05, 0.1, 0.1)]
    found = trained_on(Stage(plan), measured)
    assert [skipped for skipped, _ in found] == [0, 0, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0]
    assert [bool(batches) for _, batches in found] == [not skipped for skipped, _ in found]


@pytest.mark.parametrize("done", [1, 2, 3, 5])
def test_a_round_that_ended_early_stays_ended_when_the_run_goes_on(done: int) -> None:
    plan = replace(PLAN, epoch_kl_stop=0.1, budget=Budget(999))
    measured = [0.0, 0.11] + [0.0] * 10
    whole, first, second = Stage(plan), Stage(plan), Stage(plan)
    expected = trained_on(whole, measured)
    for number, step in enumerate(first.source):
        first.source.learned(number, {"step_kl": measured[number]} if list(step.micro_batches) else {})
        if number + 1 == done:
            break
    second.source.load_state(first.source.state())
    assert trained_on(second, measured, start=done) == expected[done:]


def texts() -> EpochSource[PrefixGroup]:
    def step(rows: Sequence[PrefixGroup]) -> Step:
        batch = pack(rows)
        return Step(micro_batches=[batch], counts={"ptx": float(batch.trained.sum())}, rows=[row.id for row in rows])

    return EpochSource([Weighted(items=conversations(5))], step, batch_size=2, epochs=None, steps=12, seed=3)


def test_text_goes_along_with_every_update_of_the_actor_and_keeps_its_own_count() -> None:
    plan = replace(PLAN, critic_warmup=3)
    steps = [(step, list(step.micro_batches)) for step in Stage(plan, texts()).source]
    alone = list(texts())
    for place, (step, batches) in enumerate(steps):
        text = [batch for batch in batches if isinstance(batch, TokenBatch)]
        assert len(text) == (place >= 3)
        if place >= 3:
            wanted = alone[place - 3]
            assert step.rows[-2:] == wanted.rows
            assert step.counts["ptx"] == wanted.counts["ptx"]
        answers_alone = sum(int(batch.tokens.trained.sum()) for batch in batches if isinstance(batch, RolloutBatch))
        assert step.counts["actor"] == answers_alone


@pytest.mark.parametrize("done", [3, 4, 7])
def test_text_goes_on_with_the_row_after_the_last(done: int) -> None:
    whole, first, second = Stage(PLAN, texts()), Stage(PLAN, texts()), Stage(PLAN, texts())
    expected = [step.rows for step in whole.source]
    list(islice(first.source, done))
    second.source.load_state(first.source.state())
    assert [step.rows for step in second.source] == expected[done:]
