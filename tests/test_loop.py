"""An update does not depend on how its step was cut, in any method; and nothing bad is ever applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from architectures import tiny_policy, tiny_scalar
from rows_at_hand import answers, chunks, conversations, prompt_numbers, rankings
from torch import Tensor, nn

from posttrain import objectives
from posttrain.data.pack import pack
from posttrain.data.rankings import dpo_step, ranked_batch, reward_step
from posttrain.engine.local import LocalEngine, ParameterGroup
from posttrain.errors import Diverged
from posttrain.loop import accumulate, fit, loss_of, measure
from posttrain.models.heads import Policy, scalar_head
from posttrain.objectives import PPOLoss, ScoreReader
from posttrain.ops import losses
from posttrain.rollout.annotate import Annotators, CreditRules, annotate
from posttrain.types import Batch, Largest, Mean, Objective, Scored, State, Step, Term

ROWS = 20
CUTS = [1, 5, 16, ROWS]
RULES = CreditRules(
    form="token", estimator="k1", score_clip=None, missing_eos_penalty=1.0, gamma=1.0, lam=0.95, whiten=True,
    baseline="critic",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Method:
    """An objective, its trained parameters in groups, and one step cut into micro-batches of so many rows."""

    objective: Objective
    groups: Sequence[ParameterGroup]
    step: Callable[[int], Step]

    def engine(self) -> LocalEngine:
        return LocalEngine(self.groups, schedule=lambda done: 1.0, grad_clip=None)

    def parameters(self) -> list[nn.Parameter]:
        return [part for group in self.groups for part in group.parameters]


def group(name: str, module: nn.Module, *, rate: float = 1e-4) -> ParameterGroup:
    parameters = [part for part in module.parameters() if part.requires_grad]
    return ParameterGroup(name=name, parameters=parameters, learning_rate=rate)


def sft_method() -> Method:
    actor, rows = tiny_policy(), conversations(ROWS)

    def step(size: int) -> Step:
        batches = [pack(part) for part in chunks(rows, size)]
        return Step(micro_batches=batches, counts={"tokens": float(sum(int(b.trained.sum()) for b in batches))})

    return Method(objective=objectives.sft(actor), groups=[group("policy", actor)], step=step)


def reward_method(loss: str) -> Method:
    model, rows = tiny_scalar(), rankings(ROWS)

    def step(size: int) -> Step:
        whole = reward_step(rows, 10_000, ties="soft")
        batches = [ranked_batch(part, ties="soft", pair_weight="prompt") for part in chunks(rows, size)]
        return replace(whole, micro_batches=batches)

    objective = objectives.reward(ScoreReader(model=model), loss=loss)
    return Method(objective=objective, groups=[group("reward", model)], step=step)


def dpo_method() -> Method:
    actor = tiny_policy()
    rows = [replace(row, reference=tuple(-float(n) for n in range(len(row.ranks)))) for row in rankings(ROWS)]

    def step(size: int) -> Step:
        whole = dpo_step(rows, 10_000, ties="soft", pair_weight="pair")
        batches = [ranked_batch(part, ties="soft", pair_weight="pair") for part in chunks(rows, size)]
        return replace(whole, micro_batches=batches)

    return Method(
        objective=objectives.dpo(actor, partial(losses.dpo, beta=0.1)), groups=[group("policy", actor)], step=step
    )


def ppo_method(*, trunk: bool) -> Method:
    actor, critic = tiny_policy(), None if trunk else tiny_scalar()
    if trunk:
        head = scalar_head(32, generator=torch.Generator().manual_seed(3))
        actor = Policy(actor.model, value_head=head)
    replayed = answers(ROWS // 2, 2)
    annotators = Annotators(
        reference=lambda batch: actor(batch).logprobs - 0.3 * (batch.tokens % 3),
        scorer=lambda done: torch.tensor([float(len(answer.tokens)) for answer in done]),
        value=lambda batch: torch.where(batch.trained, 0.1, 0.0),
        actor=lambda batch: actor(batch).logprobs,
        budget=64,
    )
    rollouts = annotate(replayed, prompt_numbers(replayed), annotators, RULES, 0.05)
    tokens = float(rollouts.tokens_in(range(ROWS)))

    def step(size: int) -> Step:
        batches: list[Batch] = []
        for rows in chunks(range(ROWS), size):
            batches += rollouts.micro_batches(list(rows), 10_000, train_actor=True, beta=0.1)
        return Step(micro_batches=batches, counts={"actor": tokens, "critic": tokens})

    numbers = PPOLoss(clip=0.2, value_clip=0.2, value_coef=0.5, entropy=0.01, kl="k3")
    groups = [group("actor", actor)] + ([] if critic is None else [group("critic", critic)])
    return Method(objective=objectives.ppo(actor, critic, numbers), groups=groups, step=step)


METHODS: dict[str, Callable[[], Method]] = {
    "sft": sft_method,
    "reward": partial(reward_method, "pairwise"),
    "plackett_luce": partial(reward_method, "plackett_luce"),
    "dpo": dpo_method,
    "ppo": partial(ppo_method, trunk=False),
    "ppo_trunk": partial(ppo_method, trunk=True),
}


def gradients(method: Method, size: int) -> list[Tensor]:
    accumulate(method.step(size), method.objective, method.engine())
    found = [torch.zeros_like(part) if part.grad is None else part.grad for part in method.parameters()]
    for part in method.parameters():
        part.grad = None
    return found


@pytest.mark.parametrize("name", METHODS)
def test_the_gradient_does_not_depend_on_the_micro_batch(name: str) -> None:
    method = METHODS[name]()
    whole = gradients(method, ROWS)
    assert sum(float(gradient.norm()) for gradient in whole) > 0
    for size in CUTS[:-1]:
        for found, expected in zip(gradients(method, size), whole, strict=True):
            difference = float((found - expected).norm())
            assert difference <= 1e-5 * float(expected.norm()), f"micro-batches of {size}"


@pytest.mark.parametrize("name", METHODS)
def test_three_steps_end_at_the_same_weights_for_every_micro_batch(name: str) -> None:
    ends: list[list[Tensor]] = []
    for size in CUTS:
        method = METHODS[name]()
        engine = method.engine()
        for _ in range(3):
            accumulate(method.step(size), method.objective, engine)
            engine.step([])
        ends.append([part.detach().clone() for part in method.parameters()])
    for size, end in zip(CUTS[:-1], ends[:-1], strict=True):
        largest = max(float((a - b).abs().max()) for a, b in zip(end, ends[-1], strict=True))
        assert largest <= 2e-6, f"micro-batches of {size}"


@pytest.mark.parametrize("name", METHODS)
def test_metrics_do_not_depend_on_the_micro_batch(name: str) -> None:
    method = METHODS[name]()
    engine = method.engine()
    expected = measure(method.step(ROWS).micro_batches, method.objective, engine)
    for size in CUTS[:-1]:
        found = measure(method.step(size).micro_batches, method.objective, engine)
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert accumulate(method.step(5), method.objective, engine) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_micro_batches_changes_nothing(name: str) -> None:
    method = METHODS[name]()
    step = method.step(1)
    forwards = gradients(replace_step(method, step.micro_batches), 1)
    backwards = gradients(replace_step(method, list(step.micro_batches)[::-1]), 1)
    for found, expected in zip(backwards, forwards, strict=True):
        assert float((found - expected).norm()) <= 1e-5 * float(expected.norm())


def replace_step(method: Method, batches: object) -> Method:
    whole = method.step(1)
    return replace(method, step=lambda size: replace(whole, micro_batches=batches))


# --- the loop's own duties --------------------------------------------------------------------------------------


class Count:
    """A source of so many equal steps."""

    def __init__(self, step: Step, steps: int) -> None:
        self.step, self.steps = step, steps

    def __iter__(self) -> Iterator[Step]:
        return iter([self.step] * self.steps)

    def state(self) -> State:
        return {}

    def load_state(self, state: State) -> None: ...


def test_hooks_see_every_step_in_order_and_what_the_hooks_before_them_measured() -> None:
    method = sft_method()
    seen: list[tuple[int, float, float, float]] = []

    def measuring(number: int, metrics: dict[str, float]) -> None:
        metrics["measured"] = number * 10.0

    def recording(number: int, metrics: dict[str, float]) -> None:
        seen.append((number, metrics["measured"], metrics["of_the_step"], metrics["loss"]))

    step = replace(method.step(ROWS), metrics={"of_the_step": 7.0})
    last = fit(Count(step, 3), method.objective, method.engine(), hooks=[measuring, recording], start=4)
    assert last == 7
    assert [row[:3] for row in seen] == [(5, 50.0, 7.0), (6, 60.0, 7.0), (7, 70.0, 7.0)]
    assert seen[0][3] > seen[1][3] > seen[2][3]


def test_the_loss_is_the_sum_of_weighted_terms_each_over_its_own_count() -> None:
    terms = {"pairs": Term(total=torch.tensor(6.0), weight=0.5), "tokens": Term(total=torch.tensor(10.0))}
    loss = loss_of(Scored(terms=terms, metrics={}), {"pairs": 3.0, "tokens": 4.0})
    assert float(loss if loss is not None else 0) == 0.5 * 6 / 3 + 10 / 4
    assert loss_of(Scored(terms={}, metrics={}), {}) is None
    with pytest.raises(KeyError, match="tokens"):
        loss_of(Scored(terms=terms, metrics={}), {"pairs": 3.0})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda bias: bias.sum() * float("nan"),
        lambda bias: bias.sum() * float("inf"),
        lambda bias: (bias - 1).sqrt().sum(),  # 0, but its gradient is infinite
        lambda bias: ((bias - 1) * 0).sqrt().sum(),  # 0, but its gradient is not a number
    ],
    ids=["loss nan", "loss inf", "gradient inf", "gradient nan"],
)
def test_what_is_not_finite_stops_the_run_before_the_update_and_names_the_rows(
    spoil: Callable[[Tensor], Tensor],
) -> None:
    actor, critic = nn.Linear(3, 1), nn.Linear(3, 1)
    nn.init.ones_(critic.bias)
    groups = [group("actor", actor), group("critic", critic)]
    engine = LocalEngine(groups, schedule=lambda done: 1.0, grad_clip=1.0, weight_decay=0.1)
    before = [part.detach().clone() for part in (*actor.parameters(), *critic.parameters())]

    def objective(_: Batch) -> Scored:
        total = actor.weight.sum() + critic.weight.sum() + spoil(critic.bias)
        metrics = {"loss": Mean(total=total.detach(), count=torch.tensor(1.0))}
        return Scored(terms={"x": Term(total=total)}, metrics=metrics)

    step = Step(micro_batches=[pack(conversations(1))], counts={"x": 1.0}, rows=["file.jsonl:3", "file.jsonl:9"])
    with pytest.raises(Diverged, match=r"nothing was updated\n  rows in the batch: file\.jsonl:3, file\.jsonl:9"):
        fit(Count(step, 1), objective, engine)
    after = [*actor.parameters(), *critic.parameters()]
    assert all(torch.equal(part, was) for part, was in zip(after, before, strict=True))


def test_measuring_records_no_gradient() -> None:
    method, recording = sft_method(), list[bool]()

    def objective(batch: Batch) -> Scored:
        recording.append(torch.is_grad_enabled())
        return method.objective(batch)

    measure(method.step(ROWS).micro_batches, objective, method.engine())
    assert recording == [False]


def test_a_largest_value_is_that_of_all_micro_batches() -> None:
    method = sft_method()
    found = iter([3.0, 7.0, 5.0])

    def objective(batch: Batch) -> Scored:
        return Scored(terms={}, metrics={"peak": Largest(value=torch.tensor(next(found)))})

    step = Step(micro_batches=[pack(conversations(1))] * 3, counts={})
    assert accumulate(step, objective, method.engine()) == {"peak": 7.0}


def test_a_step_without_micro_batches_changes_nothing_but_the_place_in_the_schedule() -> None:
    method = sft_method()
    before = [part.detach().clone() for part in method.parameters()]
    asked: list[int] = []

    def schedule(done: int) -> float:
        asked.append(done)
        return 1.0

    engine = LocalEngine(method.groups, schedule=schedule, grad_clip=1.0, weight_decay=0.5)
    accumulate(Step(micro_batches=(), counts={}), method.objective, engine)
    engine.step(())
    assert all(torch.equal(one, other) for one, other in zip(before, method.parameters(), strict=True))
    accumulate(method.step(5), method.objective, engine)
    engine.step(())
    assert asked == [0, 1]
    assert any(not torch.equal(one, other) for one, other in zip(before, method.parameters(), strict=True))


def test_batches_that_something_else_took_are_not_a_step_in_which_nothing_is_learnt() -> None:
    method = sft_method()
    step = replace(method.step(5), micro_batches=iter(method.step(5).micro_batches))
    accumulate(step, method.objective, method.engine())
    with pytest.raises(RuntimeError, match=r"counts \{'tokens': \d+.0\} has no micro-batches: were they taken before"):
        accumulate(step, method.objective, method.engine())
