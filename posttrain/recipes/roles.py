"""The four models of RLHF in a chosen layout: actor, critic, reference and reward model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from posttrain.config import PPOConfig
from posttrain.console import Console
from posttrain.data.pack import Budget
from posttrain.engine.local import ParameterGroup
from posttrain.errors import ModelError
from posttrain.models.adapter_files import load_adapter
from posttrain.models.adapters import adapter_parameters, attach
from posttrain.models.heads import Policy, ScalarModel, before, divergence, scalar_head
from posttrain.models.load import base_of, is_adapter, load_scalar, save_causal, save_scalar
from posttrain.models.parity import gate_scalar
from posttrain.recipes import setup
from posttrain.recipes.machine import apart_from
from posttrain.recipes.reward import new_scalar, pad_id
from posttrain.recipes.scoring import RewardCard, RewardScorer, function_scorer, is_function, same_words
from posttrain.recipes.weights import check_weights
from posttrain.text.chat import Codec
from posttrain.types import LogprobFn, Scorer, TokenBatch, ValueFn, moved


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The models of a PPO run. `critic` is None without one, and in the layout `trunk`, where the actor holds it.

    `critic_base` names the weights beneath the critic's adapters. `frozen`: the models that are only read. Inside
    `lent()` those of them that wait in CPU memory are on the device.
    """

    layout: str
    start: setup.Start
    actor: Policy
    critic: ScalarModel | None
    reference: Policy
    scorer: Scorer
    actor_parameters: list[nn.Parameter]
    critic_parameters: list[nn.Parameter]
    critic_base: str
    frozen: tuple[nn.Module, ...]
    lent: Callable[[], AbstractContextManager[None]]

    def reference_logprobs(self) -> LogprobFn:
        """The reference's log-probs, by the start policy."""
        return lambda batch: self.reference(moved(batch, self.reference.device)).logprobs

    def actor_logprobs(self) -> LogprobFn:
        """The actor's log-probs as it stands."""
        return lambda batch: self.actor(moved(batch, self.actor.device)).logprobs

    def divergence(self) -> LogprobFn:
        """The KL of the actor as it stands from the reference over the whole vocabulary, before each answer token."""
        return lambda batch: divergence(self.actor, self.reference, moved(batch, self.actor.device))

    def values(self) -> ValueFn | None:
        """The critic's value before each answer token, or None without a critic."""
        if self.critic is not None:
            critic = self.critic
            return lambda batch: _values(critic, batch)
        if self.actor.value_head is not None:
            return lambda batch: _shared_values(self.actor, batch)
        return None

    def groups(self, rate: float, critic_rate: float) -> list[ParameterGroup]:
        """What the engine updates; actor and critic keep their own learning rate and gradient norm."""
        groups = [ParameterGroup(name="actor", parameters=self.actor_parameters, learning_rate=rate)]
        if self.critic_parameters:
            groups.append(ParameterGroup(name="critic", parameters=self.critic_parameters, learning_rate=critic_rate))
        return groups

    def save(self, folder: Path, codec: Codec) -> None:
        """Writes the actor as the model of the run folder, and the critic under `run/critic`."""
        loaded = self.start.loaded
        save_causal(loaded, self.actor.stack, folder, stop_ids=codec.stop_ids)
        codec.save(folder)
        critic = self.critic
        if critic is None and self.actor.value_head is not None:
            trunk = self.actor.trunk
            critic = ScalarModel(trunk.model, self.actor.value_head, stack=trunk.stack, packing=trunk.packing)
        if critic is not None:
            save_scalar(
                critic,
                folder / "run" / "critic",
                base=self.critic_base,
                pad_id=pad_id(codec),
            )
            RewardCard(shift=critic.shift, scale=critic.scale, score_at="last").write(folder / "run" / "critic")


def _values(critic: ScalarModel, batch: TokenBatch) -> Tensor:
    batch = moved(batch, critic.score.weight.device)
    return before(batch, critic(batch))


def _shared_values(actor: Policy, batch: TokenBatch) -> Tensor:
    values = actor(moved(batch, actor.device)).values
    if values is None:
        raise RuntimeError("the actor has no value head")
    return values


def choose_layout(config: PPOConfig, console: Console) -> str:
    """The layout of the run; an automatic one is said with its reason."""
    if config.layout != "auto":
        return config.layout
    if config.lora is None:
        layout, reason = "separate", "all weights are trained"
    elif not is_adapter(config.reward):
        layout, reason = "separate", "the reward model is no adapter"
    elif base_of(config.reward) != base_of(config.model):
        layout, reason = "separate", "the reward model has another base"
    else:
        layout, reason = "adapters", "one base serves all roles"
    console.choose("layout", layout, f"layout {layout}: {reason}")
    return layout


def cast_roles(config: PPOConfig, codec: Codec, where: setup.Machine, budget: Budget, console: Console) -> Roles:
    """Loads every model of a run, gated."""
    layout = choose_layout(config, console)
    start = setup.load_start(
        config.model, codec, where, console, packing=config.packing, temperature=config.temperature
    )
    scoring = _Reward(config, codec, where, start, layout, budget, console)
    reference = _reference(config, codec, where, start, layout, console)
    packing = start.policy.trunk.packing
    critic, critic_parameters = None, list[nn.Parameter]()
    critic_base = start.loaded.base
    if config.baseline == "critic" and layout == "adapters":
        critic, critic_parameters = _critic_on_base(config, start, scoring, console)
    elif config.baseline == "critic" and layout == "separate":
        critic, critic_parameters, critic_base = _critic_apart(config, where, start, scoring, console)
    actor, actor_parameters = setup.role(start, "policy", config.lora, packing=packing, seed=config.seed)
    if layout == "trunk":
        actor = _with_value_head(actor)
        critic_parameters = list(actor.value_head.parameters()) if actor.value_head else []
        console.say("critic: a head on the actor's trunk, zero at first")
    frozen = (reference, *(() if scoring.scalar is None else (scoring.scalar,)))
    apart = apart_from((actor, *(() if critic is None else (critic,))), frozen)
    where.put_aside(apart)
    if where.lends and not apart:
        console.say("offload: the reference and the reward model share the policy's weights; nothing waits elsewhere")
    return Roles(
        layout=layout,
        start=start,
        actor=actor,
        critic=critic,
        reference=reference,
        scorer=scoring.scorer,
        actor_parameters=actor_parameters,
        critic_parameters=critic_parameters,
        critic_base=critic_base,
        frozen=frozen,
        lent=lambda: where.lent(apart),
    )


def _reference(
    config: PPOConfig, codec: Codec, where: setup.Machine, start: setup.Start, layout: str, console: Console
) -> Policy:
    """The start policy: its own frozen stack where the actor trains an adapter on top, else a second copy."""
    if config.lora is not None and layout != "separate":
        return start.policy
    copy = setup.load_start(config.model, codec, where, console, packing=config.packing, temperature=config.temperature)
    return copy.policy


def _with_value_head(actor: Policy) -> Policy:
    """The actor with a value head on its trunk, zero at first: nothing is known of the returns yet."""
    width = int(actor.model.config.get_text_config().hidden_size)
    head = scalar_head(width, zero=True).to(actor.device)
    return Policy(
        actor.model,
        stack=actor.stack,
        temperature=actor.temperature,
        packing=actor.trunk.packing,
        value_head=head,
    )


class _Reward:
    """The reward of a run: a reward model, on the shared base where the layout has one, or a function of a file."""

    def __init__(
        self,
        config: PPOConfig,
        codec: Codec,
        where: setup.Machine,
        start: setup.Start,
        layout: str,
        budget: Budget,
        console: Console,
    ) -> None:
        self.scalar: ScalarModel | None = None
        self.own_attention = start.loaded.own_attention
        self.same_words = False
        self.card: RewardCard | None = None
        self.path = config.reward
        if is_function(config.reward):
            self.scorer: Scorer = function_scorer(config.reward)
            return
        self.card = card = RewardCard.read(config.reward)
        own = Codec.load(config.reward)
        self.same_words = same_words(own, codec)
        if not self.same_words:
            console.say("reward: another tokenizer or template than the policy's; answers are rendered again as text")
        shared = layout == "adapters" and is_adapter(config.reward) and base_of(config.reward) == start.loaded.base
        if shared:
            self.scalar = _on_base(config.reward, start, "reward", config.packing)
        else:
            check_weights(config.reward, where.device)
            self.scalar, self.own_attention = load_scalar(config.reward, device=where.device)
            gate_scalar(self.scalar, self.own_attention, packing=config.packing == "auto")
        self.scorer = RewardScorer(self.scalar, card, own, shared=self.same_words, budget=budget.tokens)


def _on_base(path: str, start: setup.Start, name: str, packing: str) -> ScalarModel:
    """A reward model that is an adapter on the start model's own base."""
    model = start.loaded.model
    weight = load_adapter(model, name, Path(path))
    if weight is None:
        raise ModelError(f"{path} has no score head: it is no reward model\n  fix: train one with `posttrain reward`")
    scalar = ScalarModel(start.policy.trunk.model, _head(weight, start.policy.device), stack=(name,))
    gate_scalar(scalar, start.loaded.own_attention, packing=packing == "auto")
    return scalar


def _head(weight: Tensor, device: torch.device) -> nn.Linear:
    head = nn.Linear(weight.shape[1], 1, bias=False, dtype=torch.float32)
    head.weight.data.copy_(weight)
    return head.to(device)


def _from_reward(config: PPOConfig, reward: _Reward, console: Console) -> bool:
    """True where the critic starts from the reward model: that needs one which reads the same tokens."""
    possible = reward.scalar is not None and reward.same_words
    if config.critic.init == "reward" and not possible:
        console.say("critic: from the policy, since the reward is no model that reads the same tokens")
    return config.critic.init == "reward" and possible


def _critic_on_base(
    config: PPOConfig, start: setup.Start, reward: _Reward, console: Console
) -> tuple[ScalarModel, list[nn.Parameter]]:
    """The critic as a new adapter on the reward model's stack, or on the policy's, and what it trains."""
    if config.lora is None:
        raise ModelError("layout adapters needs lora\n  fix: set lora, for example --lora.rank 32")
    trunk, source = start.policy.trunk.model, None
    if _from_reward(config, reward, console):
        source = reward.scalar if reward.scalar is not None and reward.scalar.model is trunk else None
        if source is None:
            console.say("critic: from the policy, since the reward model does not share its base")
    stack = start.policy.stack if source is None else source.stack
    parameters = attach(start.loaded.model, "critic", setup.lora_spec(config.lora, config.seed, start))
    fresh = new_scalar(start.policy, config.seed).score
    head = fresh if source is None else _head(source.score.weight, start.policy.device)
    critic = ScalarModel(trunk, head, stack=(*stack, "critic"))
    card = None if source is None else reward.card
    return _ready(critic, parameters, start.loaded.own_attention, config, card)


def _critic_apart(
    config: PPOConfig, where: setup.Machine, start: setup.Start, reward: _Reward, console: Console
) -> tuple[ScalarModel, list[nn.Parameter], str]:
    """The critic as a model of its own, what it trains, and the weights beneath it."""
    card = reward.card if _from_reward(config, reward, console) else None
    if card is not None:
        check_weights(config.reward, where.device, where.quantize)
        critic, own = load_scalar(config.reward, device=where.device, quantize=where.quantize)
        base = base_of(config.reward)
    else:
        copy = setup.load_start(config.model, start.codec, where, console, packing=config.packing)
        critic, own, base = new_scalar(copy.policy, config.seed), copy.loaded.own_attention, copy.loaded.base
    if config.lora is not None:
        parameters = attach(critic.model, "critic", setup.lora_spec(config.lora, config.seed, start))
        critic = ScalarModel(critic.model, critic.score, stack=(*critic.stack, "critic"))
    elif critic.stack:
        # An adapter is saved against its base, which therefore stays; the adapter itself goes on learning.
        parameters = [part for name in critic.stack for part in adapter_parameters(critic.model, name)]
    else:
        parameters = list(critic.model.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    return (*_ready(critic, parameters, own, config, card), base)


def _ready(
    critic: ScalarModel,
    parameters: list[nn.Parameter],
    own_attention: str,
    config: PPOConfig,
    card: RewardCard | None,
) -> tuple[ScalarModel, list[nn.Parameter]]:
    gate_scalar(critic, own_attention, packing=config.packing == "auto")
    if card is not None:
        # Rewards are centred; values that are not would make every answer's end look better, or worse, than it is.
        critic.shift, critic.scale = card.shift, card.scale
    critic.score.weight.requires_grad_(True)
    return critic, [*parameters, *critic.score.parameters()]
