"""The settings of PPO: what is rewarded, how the four models are held, and when a run stops by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from posttrain.config.rewards import Functions, Rewards, refuse_idle_functions
from posttrain.config.shared import (
    SHARE,
    Clash,
    Count,
    Data,
    Every,
    Fraction,
    NotNegative,
    Percent,
    Place,
    Positive,
    Settings,
    Texts,
    Training,
)

_OF_TRUNK = ("value_coef", "critic.detach")
_OF_CRITIC = ("value_clip", "value_coef", "lam")
MOST_OFF = 0.2
"""The largest part of itself by which an adaptive weight of the KL moves in `horizon` answers."""


class Beta(Settings):
    """The weight of the KL penalty against the reference."""

    coef: NotNegative = Field(default=0.05, description="penalty per nat of KL")
    target: Positive | None = Field(
        default=None, description="KL in nats per answer that the weight adapts to; null: the weight is fixed"
    )
    horizon: Positive = Field(default=10_000.0, description="answers over which an adaptive weight moves")
    estimator: Literal["auto", "k1", "k2", "k3", "exact"] = Field(
        default="auto", description="the KL of a token; exact: over the whole vocabulary; auto: k1, in the loss k3"
    )


class Critic(Settings):
    """The value model."""

    init: Literal["reward", "policy"] = Field(
        default="reward", description="starting weights; reward falls back to policy if the models do not match"
    )
    warmup: Annotated[int, Field(ge=0)] = Field(
        default=10, description="updates of the critic alone before the policy moves"
    )
    learning_rate: Positive | Literal["auto"] = Field(default="auto", description="auto: the policy's")
    detach: bool = Field(default=False, description="layout trunk: the critic's loss does not reach the shared trunk")


class Ptx(Settings):
    """Text whose language-model loss is mixed into the policy's updates."""

    data: Data = Field(description="text or conversations: a path, or a list of {path, weight, columns}")
    coef: Positive = Field(default=1.0, description="weight of its loss per trained token beside the policy's")
    batch_size: Count = Field(default=8, description="rows of it per optimizer step, over all devices together")


class StopIf(Settings):
    """Trip wires: a run ends, exit code 4, where a step breaks one of them."""

    kl: Positive | None = Field(default=None, description="KL to the start policy above this, k1, nats per answer")
    length_ratio: Annotated[float, Field(gt=1)] | None = Field(
        default=None, description="answers longer than this many times those of the first step"
    )
    no_eos: Fraction | None = Field(default=None, description="more than this share of answers not ended by themselves")
    entropy: Positive | None = Field(default=None, description="entropy of sampled tokens below this, nats per token")
    distinct: Fraction | None = Field(
        default=None, description="less than this share of an answer's token pairs distinct: it repeats itself"
    )
    patience: Count = Field(default=1, description="steps one after another in which a rule must be broken")

    @property
    def limits(self) -> dict[str, float]:
        """The rules that are set, by name."""
        named = self.model_dump(exclude={"patience"})
        return {name: limit for name, limit in named.items() if limit is not None}

    @model_validator(mode="after")
    def _some_rule(self) -> StopIf:
        if not self.limits:
            raise ValueError("names no rule; write one, for example {kl: 20}, or null")
        return self


class PPOConfig(Training):
    """Reinforcement learning from a reward with PPO."""

    command: ClassVar[str] = "ppo"

    reward: Rewards = Field(
        description="the reward: a run of `reward`, a model, rewards.py:function, or a list of {reward, weight}"
    )
    functions: Functions = Field(default_factory=Functions, description="how Python functions among rewards are called")
    prompts: Data = Field(description="prompts to answer: a path, or a list of {path, weight, columns}")
    layout: Literal["auto", "separate", "adapters", "trunk"] = Field(
        default="auto",
        description="the four models: apart, as adapters on one base, or the critic on the actor's trunk",
    )
    reward_form: Literal["token", "sequence", "spread"] = Field(
        default="token", description="score at the last token, score less mean KL there, or spread evenly"
    )
    reward_scale: Literal["running", "batch"] | None = Field(
        default=None, description="divide scores by their deviation: of all so far, or of the step; null: not divided"
    )
    reward_clip: Positive | None = Field(
        default=5.0, description="largest absolute score, after the scale; null: not clipped"
    )
    missing_eos_penalty: NotNegative = Field(
        default=1.0, description="subtracted from the score of an answer cut by max_new_tokens"
    )
    steps: Count = Field(default=300, description="rounds of sampling and updating")
    rollouts: Count = Field(default=128, description="answers per step, over all devices together")
    group: Count = Field(default=1, description="answers per prompt")
    max_new_tokens: Count = Field(default=256, description="longest answer in tokens")
    temperature: Positive = Field(default=1.0, description="divides the logits of policy and reference alike")
    stop: Texts = Field(default=(), description="texts that end an answer, besides the end of turn")
    beta: Beta = Field(default_factory=Beta, description="the KL penalty")
    kl_in: Literal["reward", "loss"] = Field(
        default="reward", description="where the KL to the reference stands: in the rewards, or in the policy's loss"
    )
    clip: Positive = Field(default=0.2, description="clip range of the importance ratio")
    value_clip: Positive | None = Field(default=0.2, description="clip range of the critic; null: not clipped")
    value_coef: Positive = Field(default=1.0, description="weight of the critic's loss on a shared trunk")
    entropy: NotNegative = Field(default=0.0, description="weight of the entropy bonus per token")
    ppo_epochs: Count = Field(default=4, description="passes over the answers of a step")
    minibatches: Count = Field(default=1, description="optimizer steps per pass")
    epoch_kl_stop: Positive | None = Field(
        default=None, description="KL in nats per token, old policy against new, that ends a step's updates; null: none"
    )
    whiten: bool = Field(default=True, description="advantages to mean 0 and variance 1 over the step")
    gamma: Annotated[float, Field(gt=0, le=1)] = Field(default=1.0, description="discount per token")
    lam: Fraction = Field(default=0.95, description="lambda of generalised advantage estimation")
    baseline: Literal["critic", "none", "rloo", "group"] = Field(
        default="critic", description="what a return is compared with"
    )
    critic: Critic = Field(default_factory=Critic, description="the value model")
    ptx: Ptx | None = Field(default=None, description="text mixed into the updates, against forgetting; null: none")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="decay of a moving average of the policy, written to run/ema; null: none is kept"
    )
    stop_if: StopIf | None = Field(default=None, description="trip wires that end a run; null: none")
    best: Literal["auto", "objective", "reward", "score", "eval_score_greedy", "eval_score_sampled"] | None = Field(
        default="auto", description="measure of the weights kept in run/best; auto: as eval_prompts and stop_if allow"
    )
    eval_prompts: Percent | Place | None = Field(
        default=None, description="prompts to evaluate on: a share of them, held out by prompt, or a file; null: none"
    )
    eval_every: Every | None = Field(
        default="10%", description="with eval_prompts: every so many steps, or share of the run"
    )
    rollouts_every: Every | None = Field(default=10, description="keep a step's answers for reading; null: never")

    @model_validator(mode="after")
    def _parts_agree(self) -> PPOConfig:
        if self.rollouts % self.group:
            raise Clash("rollouts", f"{self.rollouts} answers do not divide into groups of {self.group}")
        if self.minibatches > self.rollouts:
            raise Clash("minibatches", f"{self.minibatches} minibatches need at least as many rollouts")
        if self.baseline in ("rloo", "group") and self.group < 2:
            raise Clash("baseline", f"{self.baseline} compares the answers of one prompt: set group to 2 or more")
        if self.layout == "adapters" and self.lora is None:
            raise Clash("layout", "adapters needs lora, for example lora: {rank: 32}")
        if self.kl_in == "loss" and self.beta.estimator in ("k1", "exact"):
            why = "has no gradient on average" if self.beta.estimator == "k1" else "is for rewards"
            raise Clash("beta.estimator", f"{self.beta.estimator} {why}: with kl_in loss use k3 or k2")
        if self.eval_prompts is not None and self.eval_prompts.endswith("%") and not re.match(SHARE, self.eval_prompts):
            raise Clash("eval_prompts", f"expected a share up to 100%, got {self.eval_prompts!r}")
        if (self.best or "").startswith("eval_") and (self.eval_prompts is None or self.eval_every is None):
            raise Clash("best", f"{self.best} needs eval_prompts and eval_every, for example eval_prompts: 5%")
        if self.layout == "trunk" and self.baseline != "critic":
            raise Clash("layout", f"trunk holds a critic, but baseline is {self.baseline}")
        return self

    @model_validator(mode="after")
    def _an_adaptive_weight_stays_above_zero(self) -> PPOConfig:
        # A step changes the weight by at most 0.2 rollouts / horizon of itself.
        if self.beta.target is not None and self.beta.horizon <= MOST_OFF * self.rollouts:
            what = f"{self.beta.horizon:g} lets a step of {self.rollouts} answers turn the weight negative"
            raise Clash("beta.horizon", f"{what}; use more than {MOST_OFF * self.rollouts:g}, usual are 10000")
        return self

    @model_validator(mode="after")
    def _every_setting_has_a_meaning(self) -> PPOConfig:
        refuse_idle_functions(self.reward, self.functions, "reward")
        for name, why in self._without_meaning():
            raise Clash(name, f"{why}; leave it out")
        return self

    def _without_meaning(self) -> Iterator[tuple[str, str]]:
        """The settings that were changed and that change nothing beside the others, and why."""
        idle: dict[str, str] = {}
        if self.baseline != "critic":
            why = f"baseline {self.baseline} has no critic"
            idle |= dict.fromkeys((*(f"critic.{name}" for name in Critic.model_fields), *_OF_CRITIC), why)
        elif self.layout != "trunk":
            idle |= dict.fromkeys(_OF_TRUNK, "is of a critic on the policy's weights, layout trunk")
        if self.baseline in ("rloo", "group"):
            idle["gamma"] = f"baseline {self.baseline} compares whole answers, whose tokens are not discounted"
        if self.beta.target is None:
            idle["beta.horizon"] = "is of an adaptive weight, which needs beta.target"
        if self.beta.coef == 0:
            idle["beta.target"] = "a weight that begins at 0 stays there: set beta.coef"
        if self.ppo_epochs * self.minibatches == 1:
            idle["epoch_kl_stop"] = "a step has one update, after which there is none to skip"
        for name, why in idle.items():
            group, _, last = name.rpartition(".")
            part: Settings = getattr(self, group) if group else self
            if getattr(part, last) != type(part).model_fields[last].default:
                yield name, why
