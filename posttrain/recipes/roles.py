"""The four models of RLHF in a chosen layout: actor, critic, reference and reward model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from posttrain.config import PPOConfig
from posttrain.config.rewards import models_in
from posttrain.console import Console
from posttrain.data.pack import Budget
from posttrain.engine.local import ParameterGroup
from posttrain.models.heads import Policy, ScalarModel, before, divergence, scalar_head
from posttrain.models.load import base_of, is_adapter, save_scalar
from posttrain.recipes import setup
from posttrain.recipes.critics import critic_apart, critic_on_base
from posttrain.recipes.functions import Loaded, functions_in
from posttrain.recipes.keeping import saving
from posttrain.recipes.machine import set_aside
from posttrain.recipes.reward import pad_id
from posttrain.recipes.reward_models import reward_loader
from posttrain.recipes.rewarding import assembled
from posttrain.recipes.scoring import RewardCard
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
            return lambda batch: self.actor.values(moved(batch, self.actor.device))
        return None

    def groups(self, rate: float, critic_rate: float) -> list[ParameterGroup]:
        """What the engine updates; actor and critic keep their own learning rate and gradient norm."""
        groups = [ParameterGroup(name="actor", parameters=self.actor_parameters, learning_rate=rate)]
        if self.critic_parameters:
            groups.append(ParameterGroup(name="critic", parameters=self.critic_parameters, learning_rate=critic_rate))
        return groups

    def save_actor(self, folder: Path, codec: Codec) -> None:
        """Writes the actor as it stands as a model folder."""
        saving(self.start.loaded, self.actor.stack, codec)(folder)

    def save(self, folder: Path, codec: Codec) -> None:
        """Writes the actor as the model of the run folder, and the critic under `run/critic`."""
        self.save_actor(folder, codec)
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


def choose_layout(config: PPOConfig, console: Console) -> str:
    """The layout of the run; an automatic one is said with its reason."""
    if config.layout != "auto":
        return config.layout
    models = models_in(config.reward)
    whose = "the reward model" if len(models) == 1 else "a reward model"
    if config.lora is None:
        layout, reason = "separate", "all weights are trained"
    elif not all(is_adapter(path) for path in models):
        layout, reason = "separate", f"{whose} is no adapter"
    elif any(base_of(path) != base_of(config.model) for path in models):
        layout, reason = "separate", f"{whose} has another base"
    else:
        layout, reason = "adapters", "one base serves all roles"
    console.choose("layout", layout, f"layout {layout}: {reason}")
    return layout


def cast_roles(
    config: PPOConfig,
    codec: Codec,
    where: setup.Machine,
    budget: Budget,
    console: Console,
    functions: Loaded | None = None,
) -> Roles:
    """Loads every model of a run, gated. `functions`: those among the rewards, where they are found already."""
    config = config.model_copy(update={"layout": choose_layout(config, console)})
    layout = config.layout
    start = setup.load_start(
        config.model, codec, where, console, packing=config.packing, temperature=config.temperature,
        trained=config.lora is None,
    )  # fmt: skip
    load = reward_loader(config, codec, where, start, budget, console)
    loaded = functions_in(config.reward) if functions is None else functions
    scoring = assembled(config.reward, loaded, config.functions, load)
    reference = _reference(config, codec, where, start, layout, console)
    packing = start.policy.trunk.packing
    critic, critic_parameters = None, list[nn.Parameter]()
    critic_base = start.loaded.base
    if config.baseline == "critic" and layout == "adapters":
        critic, critic_parameters = critic_on_base(config, start, scoring, console)
    elif config.baseline == "critic" and layout == "separate":
        critic, critic_parameters, critic_base = critic_apart(config, where, start, scoring, console)
    actor, actor_parameters = setup.role(start, "policy", config.lora, packing=packing, seed=config.seed)
    if layout == "trunk":
        actor = _with_value_head(actor)
        critic_parameters = list(actor.value_head.parameters()) if actor.value_head else []
        console.say("critic: a head on the actor's trunk, zero at first")
    frozen = (reference, *(model.scalar for model in scoring.models.values()))
    apart = set_aside(where, (actor, *(() if critic is None else (critic,))), frozen, console)
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
