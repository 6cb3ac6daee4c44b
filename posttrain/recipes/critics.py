"""The critic of a PPO run: from the only reward model, or from the policy, on the shared base or apart."""

from __future__ import annotations

from torch import nn

from posttrain.config import PPOConfig
from posttrain.console import Console
from posttrain.errors import ModelError
from posttrain.models.adapters import adapter_parameters, attach
from posttrain.models.heads import ScalarModel
from posttrain.models.load import base_of, load_scalar
from posttrain.models.parity import gate_scalar
from posttrain.recipes import setup
from posttrain.recipes.reward import new_scalar
from posttrain.recipes.reward_models import head_of
from posttrain.recipes.rewarding import Reward, RewardModel
from posttrain.recipes.weights import check_weights


def _from_reward(config: PPOConfig, reward: Reward, console: Console) -> tuple[RewardModel, float] | None:
    """The reward model that the critic starts from, with its weight: the only one, if it reads the same tokens."""
    if config.critic.init != "reward":
        return None
    if reward.only is not None and reward.only[0].reads_alike:
        return reward.only
    several = len(reward.models) > 1
    why = "there are several reward models" if several else "the reward is no model that reads the same tokens"
    console.say(f"critic: from the policy, since {why}")
    return None


def critic_on_base(
    config: PPOConfig, start: setup.Start, reward: Reward, console: Console
) -> tuple[ScalarModel, list[nn.Parameter]]:
    """The critic as a new adapter on the reward model's stack, or on the policy's, and what it trains."""
    if config.lora is None:
        raise ModelError("layout adapters needs lora\n  fix: set lora, for example --lora.rank 32")
    trunk = start.policy.trunk.model
    found = _from_reward(config, reward, console)
    if found is not None and found[0].scalar.model is not trunk:
        console.say("critic: from the policy, since the reward model does not share its base")
        found = None
    source = None if found is None else found[0].scalar
    stack = start.policy.stack if source is None else source.stack
    parameters = attach(start.loaded.model, "critic", setup.lora_spec(config.lora, config.seed, start))
    fresh = new_scalar(start.policy, config.seed).score
    head = fresh if source is None else head_of(source.score.weight, start.policy.device)
    critic = ScalarModel(trunk, head, stack=(*stack, "critic"))
    return _ready(critic, parameters, start.loaded.own_attention, config, found)


def critic_apart(
    config: PPOConfig, where: setup.Machine, start: setup.Start, reward: Reward, console: Console
) -> tuple[ScalarModel, list[nn.Parameter], str]:
    """The critic as a model of its own, what it trains, and the weights beneath it."""
    found = _from_reward(config, reward, console)
    if found is not None:
        path = found[0].path
        check_weights(path, where.device, where.quantize)
        critic, own = load_scalar(
            path, device=where.device, quantize=where.quantize, bf16=where.bf16, trained=config.lora is None
        )
        where.prepare(critic.model, console.say)
        base = base_of(path)
    else:
        copy = setup.load_start(
            config.model, start.codec, where, console, packing=config.packing, trained=config.lora is None
        )
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
    return (*_ready(critic, parameters, own, config, found), base)


def _ready(
    critic: ScalarModel,
    parameters: list[nn.Parameter],
    own_attention: str,
    config: PPOConfig,
    source: tuple[RewardModel, float] | None,
) -> tuple[ScalarModel, list[nn.Parameter]]:
    gate_scalar(critic, own_attention, packing=config.packing == "auto")
    if source is not None:
        # Rewards are centred; values that are not would make every answer's end look better, or worse, than it is.
        model, weight = source
        critic.shift, critic.scale = model.card.shift, model.card.scale / weight
    critic.score.weight.requires_grad_(True)
    return critic, [*parameters, *critic.score.parameters()]
