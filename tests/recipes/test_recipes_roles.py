"""The four models of PPO in their layouts: equal weights give equal numbers, and the reference stays where it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stages import LORA, Stages
from torch import Tensor

from posttrain import objectives
from posttrain.config import PPOConfig, make_config
from posttrain.console import Console, open_console
from posttrain.data.pack import Budget
from posttrain.data.readers import read
from posttrain.engine.local import LocalEngine
from posttrain.loop import accumulate
from posttrain.models import adapter_files, adapters
from posttrain.models.heads import ScalarModel
from posttrain.models.load import load_scalar
from posttrain.objectives import ScoreReader
from posttrain.recipes import setup
from posttrain.recipes.annotating import Annotator
from posttrain.recipes.ppo import ppo_loss
from posttrain.recipes.roles import Roles, cast_roles, choose_layout
from posttrain.recipes.scoring import RewardCard, answer_group, score_groups
from posttrain.rollout.annotate import over_answers
from posttrain.rollout.buffer import Rollouts
from posttrain.text.chat import Codec
from posttrain.types import Completion, PromptRecord, SamplingSpec, Step

pytestmark = pytest.mark.medium
BUDGET = 512


@dataclass(frozen=True, kw_only=True)
class Case:
    """A cast of models, its settings, and answers of its start policy to some prompts."""

    config: PPOConfig
    roles: Roles
    answers: list[Completion]

    @property
    def numbers(self) -> list[int]:
        return [place // 2 for place in range(len(self.answers))]

    def engine(self, rate: float = 0.01) -> LocalEngine:
        return LocalEngine(self.roles.groups(rate, rate), schedule=lambda done: 1.0, grad_clip=1.0, weight_decay=0.1)

    def annotated(self) -> Rollouts:
        return Annotator(self.config, self.roles, self.engine(), Budget(BUDGET), console())(
            self.answers, self.numbers, 0.05
        )

    def reference(self) -> Tensor:
        return over_answers(self.roles.reference_logprobs(), self.answers, self.numbers, BUDGET)

    def actor(self) -> Tensor:
        return over_answers(self.roles.actor_logprobs(), self.answers, self.numbers, BUDGET)


def console() -> Console:
    return open_console(quiet=True)


def cast(stages: Stages, model: Path, reward: Path | str, **settings: Any) -> Case:
    """The models of these settings, and two answers to each of four prompts by the start policy."""
    values: Mapping[str, Any] = {"model": model, "reward": reward, "prompts": stages.prompts, "out": "unused"}
    config = make_config(PPOConfig, {**values, **settings})
    assert isinstance(config, PPOConfig)
    codec = Codec.load(str(model))
    roles = cast_roles(config, codec, setup.machine(), Budget(BUDGET), console())
    records = [record for record in read(str(stages.prompts), ("prompt",)).records if isinstance(record, PromptRecord)]
    sampler = setup.sampler(roles.start.policy, codec, roles.start.context, setup.machine())
    answers = sampler(codec.prompts(records[:4]), SamplingSpec(max_new_tokens=10, samples=2, seed=3))
    return Case(config=config, roles=roles, answers=answers)


def adapter_weights(roles: Roles, name: str) -> list[Tensor]:
    """The tensors of the policy's or the critic's new adapter, wherever the layout keeps it."""
    model = roles.actor.model if name == "policy" else critic_of(roles).model
    return [part.data for part in adapters.adapter_parameters(model, name)]


def critic_of(roles: Roles) -> ScalarModel:
    assert roles.critic is not None
    return roles.critic


def stir(roles: Roles) -> None:
    """Trained adapters: the same random numbers whatever the layout."""
    generator = torch.Generator().manual_seed(5)
    for name in ("policy", "critic"):
        for tensor in adapter_weights(roles, name):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)


def updated(case: Case, updates: int = 3) -> None:
    """Some PPO updates on the annotated answers."""
    rollouts, engine = case.annotated(), case.engine()
    rows = range(len(case.answers))
    tokens = float(rollouts.tokens_in(rows))
    objective = objectives.ppo(case.roles.actor, case.roles.critic, ppo_loss(case.config))
    for _ in range(updates):
        batches = list(rollouts.micro_batches(rows, BUDGET, train_actor=True))
        accumulate(Step(micro_batches=batches, counts={"actor": tokens, "critic": tokens}), objective, engine)
        engine.step([])


@pytest.mark.parametrize("init", ["reward", "policy"])
def test_adapters_and_separate_give_the_same_numbers_for_equal_weights(init: str, stages: Stages) -> None:
    found: list[Rollouts] = []
    for layout in ("adapters", "separate"):
        case = cast(stages, stages.sft_lora, stages.reward_lora, layout=layout, lora=LORA, critic={"init": init})
        stir(case.roles)
        # The sampler answered as the start policy: what is compared is annotation by teacher forcing.
        found.append(case.annotated())
    one, other = found
    assert float(one.values.std()) > 0
    assert float(one.kl.abs().max()) > 1e-3
    for name in ("old", "reference", "kl", "values", "scores", "rewards", "advantages", "returns"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-5, atol=1e-5, msg=name)


Layout = Mapping[str, Any]
LAYOUTS: Sequence[tuple[str, str, Layout]] = [
    ("base", "reward", {"layout": "separate"}),
    ("base", "reward", {"layout": "trunk"}),
    ("base", "reward", {"layout": "separate", "lora": LORA}),
    ("base", "reward", {"layout": "trunk", "lora": LORA}),
    ("base", "reward_lora", {"layout": "adapters", "lora": LORA}),
    ("sft_lora", "reward_lora", {"layout": "separate", "lora": LORA}),
    ("sft_lora", "reward_lora", {"layout": "adapters", "lora": LORA}),
    ("sft_lora", "reward_lora", {"layout": "trunk", "lora": LORA}),
    ("sft_lora", "reward", {"layout": "adapters", "lora": LORA, "baseline": "rloo", "group": 2}),
]


@pytest.mark.parametrize(("model", "reward", "settings"), LAYOUTS)
def test_the_reference_is_the_start_policy_in_every_layout_and_stays_so(
    model: str, reward: str, settings: Layout, stages: Stages
) -> None:
    case = cast(stages, getattr(stages, model), getattr(stages, reward), **settings)
    before = case.reference()
    captured = torch.tensor([value for answer in case.answers for value in answer.logprobs])
    assert torch.equal(case.actor(), before), "the actor starts as the reference, bit for bit"
    torch.testing.assert_close(before, captured, rtol=0, atol=1e-5)
    scores = case.roles.scorer(case.answers)
    updated(case)
    assert torch.equal(case.reference(), before)
    assert torch.equal(case.roles.scorer(case.answers), scores)
    assert float((case.actor() - before).abs().max()) > 1e-3


@pytest.mark.parametrize("layout", ["adapters", "separate", "trunk"])
def test_actor_and_critic_get_gradient_from_their_own_loss_only(layout: str, stages: Stages) -> None:
    case = cast(stages, stages.sft_lora, stages.reward_lora, layout=layout, lora=LORA)
    rollouts, rows = case.annotated(), range(len(case.answers))
    batch = next(iter(rollouts.micro_batches(rows, 10_000, train_actor=True)))
    scored = objectives.ppo(case.roles.actor, case.roles.critic, ppo_loss(case.config))(batch)
    every = [*case.roles.actor_parameters, *case.roles.critic_parameters]
    reached: dict[str, set[int]] = {}
    for name, term in scored.terms.items():
        gradients = torch.autograd.grad(term.total, every, retain_graph=True, allow_unused=True)
        reached[name] = {id(part) for part, gradient in zip(every, gradients, strict=True) if gradient is not None}
    if layout == "trunk":
        head = case.roles.actor.value_head
        assert head is not None
        assert id(head.weight) not in reached["actor"]
        assert reached["critic"] == {id(part) for part in every}
    else:
        assert reached["actor"] == {id(part) for part in case.roles.actor_parameters}
        assert reached["critic"] == {id(part) for part in case.roles.critic_parameters}


def test_the_critic_begins_as_the_reward_model_reads_and_the_reward_model_does_not_move(stages: Stages) -> None:
    for layout in ("adapters", "separate"):
        case = cast(stages, stages.sft_lora, stages.reward_lora, layout=layout, lora=LORA)
        scalar, _ = load_scalar(str(stages.reward_lora))
        assert torch.equal(critic_of(case.roles).score.weight, scalar.score.weight)
        # after the last token of an answer, the critic's number is the reward model's centred score
        groups = [answer_group(done.prompt.id, done.prompt.tokens, [done.tokens]) for done in case.answers]
        values = score_groups(ScoreReader(model=critic_of(case.roles), mean=False), groups, BUDGET)
        torch.testing.assert_close(values, case.roles.scorer(case.answers), rtol=1e-5, atol=1e-5)
        before = case.roles.scorer(case.answers)
        updated(case)
        assert not torch.equal(critic_of(case.roles).score.weight, scalar.score.weight)
        assert torch.equal(case.roles.scorer(case.answers), before)


@pytest.mark.parametrize(
    ("model", "reward", "settings"),
    [
        ("sft", "reward", {}),
        ("sft", "reward_lora", {}),
        ("sft", "reward", {"lora": LORA}),
        ("base", "reward_lora", {"lora": LORA, "layout": "separate"}),
        ("sft_lora", "reward_lora", {"lora": LORA}),
        ("sft", "reward", {"layout": "trunk"}),
        ("sft_lora", "reward_lora", {"lora": LORA, "layout": "trunk"}),
        ("sft", "reward", {"critic": {"init": "policy"}}),
    ],
)
def test_a_saved_critic_gives_the_values_that_it_had(
    model: str, reward: str, settings: Layout, stages: Stages, tmp_path: Path
) -> None:
    case = cast(stages, getattr(stages, model), getattr(stages, reward), **settings)
    updated(case)
    values = case.roles.values()
    assert values is not None
    expected = over_answers(values, case.answers, case.numbers, BUDGET)
    case.roles.save(tmp_path, case.roles.start.codec)
    scalar, _ = load_scalar(str(tmp_path / "run" / "critic"))
    card = RewardCard.read(str(tmp_path / "run" / "critic"))
    scalar.shift, scalar.scale = card.shift, card.scale
    again = Roles.values(_with_critic(case.roles, scalar))
    assert again is not None
    torch.testing.assert_close(over_answers(again, case.answers, case.numbers, BUDGET), expected, rtol=1e-5, atol=1e-5)


def _with_critic(roles: Roles, critic: ScalarModel) -> Roles:
    fields = {name: getattr(roles, name) for name in roles.__slots__}
    return Roles(**{**fields, "critic": critic})


def test_the_layout_is_chosen_with_its_reason(stages: Stages) -> None:
    said: list[str] = []
    teller = console()
    teller.attach(said.append)

    def chosen(model: Path, reward: Path, **settings: Any) -> str:
        values = {"model": model, "reward": reward, "prompts": stages.prompts, "out": "unused", **settings}
        config = make_config(PPOConfig, values)
        assert isinstance(config, PPOConfig)
        choose_layout(config, teller)
        return said[-1]

    assert chosen(stages.sft, stages.reward) == "layout separate: all weights are trained"
    assert chosen(stages.sft_lora, stages.reward, lora=LORA) == "layout separate: the reward model is no adapter"
    assert chosen(stages.sft, stages.reward_lora, lora=LORA) == "layout separate: the reward model has another base"
    assert chosen(stages.sft_lora, stages.reward_lora, lora=LORA) == "layout adapters: one base serves all roles"


def test_a_function_of_a_file_is_a_reward_and_the_critic_starts_from_the_policy(stages: Stages, tmp_path: Path) -> None:
    file = tmp_path / "rewards.py"
    file.write_text("def length(prompt, response):\n    return -len(response)\n")
    case = cast(stages, stages.sft_lora, f"{file}:length", lora=LORA, layout="adapters")
    assert case.roles.scorer(case.answers).tolist() == [-len(answer.text) for answer in case.answers]
    assert critic_of(case.roles).stack == ("start", "critic")


@pytest.mark.parametrize("layout", ["adapters", "separate"])
def test_new_adapters_come_from_the_seed_of_the_run(layout: str, stages: Stages) -> None:
    casts = [
        cast(stages, stages.sft_lora, stages.reward_lora, layout=layout, lora=LORA, seed=n).roles for n in (0, 0, 1)
    ]
    for name in ("policy", "critic"):
        first, second, third = (adapter_weights(roles, name)[0] for roles in casts)
        assert torch.equal(first, second)
        assert not torch.equal(first, third)


def test_the_start_adapter_on_disk_is_what_the_policy_stands_on(stages: Stages) -> None:
    case = cast(stages, stages.sft_lora, stages.reward_lora, lora=LORA)
    saved = load_file(stages.sft_lora / "adapter_model.safetensors")
    scaling = LORA["alpha"] / LORA["rank"]
    for name, one in adapter_files.folds(case.roles.actor.model, ("start",)).items():
        assert torch.equal(one.a, saved[f"base_model.model.{name}.lora_A.weight"])
        assert torch.equal(one.b, saved[f"base_model.model.{name}.lora_B.weight"] * scaling)


@pytest.mark.parametrize("layout", ["separate", "adapters", "trunk"])
def test_the_critic_has_its_own_learning_rate_in_every_layout(layout: str, stages: Stages) -> None:
    """The first step of Adam is as long as the learning rate, whatever the gradient."""
    case = cast(stages, stages.sft_lora, stages.reward_lora, layout=layout, lora=LORA)
    groups = {group.name: group for group in case.roles.groups(0.01, 0.003)}
    before = {name: [part.detach().clone() for part in group.parameters] for name, group in groups.items()}
    engine = LocalEngine(list(groups.values()), schedule=lambda done: 1.0, grad_clip=None)
    rollouts, rows = case.annotated(), range(len(case.answers))
    tokens = float(rollouts.tokens_in(rows))
    objective = objectives.ppo(case.roles.actor, case.roles.critic, ppo_loss(case.config))
    batches = list(rollouts.micro_batches(rows, BUDGET, train_actor=True))
    accumulate(Step(micro_batches=batches, counts={"actor": tokens, "critic": tokens}), objective, engine)
    engine.step([])
    moved: dict[str, float] = {}
    for name, group in groups.items():
        pairs = zip(group.parameters, before[name], strict=True)
        moved[name] = max(float((part.detach() - old).abs().max()) for part, old in pairs)
    assert moved == {"actor": pytest.approx(0.01, rel=0.01), "critic": pytest.approx(0.003, rel=0.01)}


def test_the_exact_kl_is_zero_at_the_start_and_the_same_in_both_layouts(stages: Stages) -> None:
    found: list[Tensor] = []
    for layout in ("adapters", "separate"):
        case = cast(stages, stages.sft_lora, stages.reward_lora, layout=layout, lora=LORA)
        at_start = over_answers(case.roles.divergence(), case.answers, case.numbers, BUDGET)
        assert float(at_start.abs().max()) < 1e-6
        stir(case.roles)
        found.append(over_answers(case.roles.divergence(), case.answers, case.numbers, BUDGET))
        # k1 of the sampled tokens is one draw of it: never below the exact sum on average over what the actor samples
        assert float(found[-1].min()) > 0
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
