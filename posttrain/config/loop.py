"""The settings of the loop: rounds of sampling, ranking, a reward model and a policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import Field, model_validator

from posttrain.config.methods import EvalConfig, RewardConfig, SampleConfig
from posttrain.config.ppo import PPOConfig
from posttrain.config.preferences import DPOConfig
from posttrain.config.ranking import RankConfig
from posttrain.config.rewards import Functions, Rewards, refuse_idle_functions
from posttrain.config.shared import Clash, Count, Data, Fraction, NotNegative, Percent, Place, Settings, Texts
from posttrain.config.stages import Stage

FEWEST, MOST = 2, 9
"""Answers to one prompt that a person ranks."""


class Wait(Settings):
    """When the answers of a round have been ranked enough."""

    rankings: Count | None = Field(
        default=None, description="rankings of the round's answers, by all people together; set this or share"
    )
    share: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=1.0, description="share of the round's prompts that somebody ranked, skipped or could not judge"
    )

    @model_validator(mode="before")
    @classmethod
    def _rankings_replace_the_default_share(cls, values: Any) -> Any:
        """Giving `rankings` alone means no share, so that the settings name exactly one of the two."""
        if isinstance(values, Mapping):
            given = cast("Mapping[str, Any]", values)
            return {**given, "share": None} if given.get("rankings") is not None and "share" not in given else given
        return values

    @model_validator(mode="after")
    def _one_measure(self) -> Wait:
        if (self.rankings is None) == (self.share is None):
            raise Clash("rankings", "set either rankings or share, the other null")
        return self


class SimulatedAnnotator(Settings):
    """Who ranks in the place of people: a score with noise."""

    score: Rewards = Field(
        description="what answers are ranked by: rewards.py:function, a reward model, or a list of {reward, weight}"
    )
    functions: Functions = Field(default_factory=Functions, description="how Python functions among them are called")
    temperature: NotNegative = Field(
        default=0.1, description="noise: scores this far apart are told right in 73 of 100 pairs; 0: always"
    )
    tie_margin: NotNegative = Field(default=0.0, description="scores at most this far apart may be called a tie")
    tie_share: Fraction = Field(default=0.5, description="how often they are, where they come beside each other")
    names: Texts = Field(
        default=("simulated",), description="annotators, each with noise of its own; several for overlap"
    )

    @model_validator(mode="before")
    @classmethod
    def _as_written(cls, given: Any) -> Any:
        """A reward alone is what it ranks by."""
        return given if isinstance(given, Mapping | SimulatedAnnotator) or given is None else {"score": given}

    @model_validator(mode="after")
    def _functions_are_called_and_names_differ(self) -> SimulatedAnnotator:
        refuse_idle_functions(self.score, self.functions, "score")
        if len(set(self.names)) < len(self.names):
            raise Clash("names", "names somebody twice; an annotator ranks an item once")
        return self


class SampleStage(Stage, of=SampleConfig, filled=("model", "prompts", "out", "seed")):
    """The answers of a round."""

    k: Annotated[int, Field(ge=FEWEST, le=MOST)] = Field(default=4, description="answers per prompt")


class RankStage(Stage, of=RankConfig, filled=("pool", "db", "choose", "reward", "seed")):
    """How the answers of a round are ranked by people."""


class RewardStage(Stage, of=RewardConfig, filled=("version", "model", "data", "eval_data", "out", "seed")):
    """The reward model of a round."""


class PPOStage(Stage, of=PPOConfig, filled=("version", "model", "reward", "functions", "prompts", "out", "seed")):
    """The policy of a round, by PPO."""


class DPOStage(Stage, of=DPOConfig, filled=("version", "model", "data", "eval_data", "out", "seed")):
    """The policy of a round, by DPO."""


class EvalStage(Stage, of=EvalConfig, filled=("model", "against", "judge", "functions", "data", "out", "seed")):
    """How a round's policy is measured."""


class RLHFConfig(Settings):
    """Rounds of the whole loop: sample, rank, reward model, PPO or DPO, evaluation."""

    command: ClassVar[str] = "rlhf"

    version: Literal[1] = Field(default=1, description="version of this layout of settings")
    model: Place = Field(description="the policy to start from: a run of sft, a Hugging Face folder or a hub id")
    prompts: Data = Field(description="prompts to answer: a path, or a list of {path, columns}")
    out: Place = Field(description="the folder of all rounds")
    db: Place | None = Field(default=None, description="the ranking store; null: feedback.db in out")
    rounds: Count = Field(default=3, description="rounds; a finished loop goes on where more are asked for")
    method: Literal["ppo", "dpo"] = Field(default="ppo", description="how the policy of a round is trained")
    policy_from: Literal["start", "last"] = Field(
        default="start", description="where each policy begins, and its reference: at model, or at the last round's"
    )
    ask: Count | None = Field(
        default=None, description="prompts asked a round, those not asked before first; null: all of them"
    )
    held_out: Percent = Field(
        default="10%", description="share of the prompts that nothing is trained on in any round, to measure with"
    )
    choose: Literal["random", "uncertain"] = Field(
        default="random", description="what is ranked first; uncertain: also what the last reward model is unsure of"
    )
    wait: Wait = Field(default_factory=Wait, description="when a round has rankings enough")
    serve: bool = Field(
        default=False, description="serve the ranking page while it is waited; false: posttrain rank does, beside it"
    )
    annotator: SimulatedAnnotator | None = Field(
        default=None, description="a simulated annotator, for tests and demos; null: people rank"
    )
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="of the split, the samples and every stage")
    sample: SampleStage = Field(default_factory=SampleStage, description="as in posttrain sample")
    rank: RankStage = Field(default_factory=RankStage, description="as in posttrain rank")
    reward: RewardStage = Field(default_factory=RewardStage, description="as in posttrain reward")
    ppo: PPOStage = Field(default_factory=PPOStage, description="as in posttrain ppo, for method ppo")
    dpo: DPOStage = Field(default_factory=DPOStage, description="as in posttrain dpo, for method dpo")
    eval: EvalStage = Field(default_factory=EvalStage, description="as in posttrain eval")

    @model_validator(mode="after")
    def _every_setting_has_a_meaning(self) -> RLHFConfig:
        idle = "dpo" if self.method == "ppo" else "ppo"
        stage: Stage = getattr(self, idle)
        if stage != type(stage)():
            raise Clash(idle, f"method {self.method} runs no {idle}; leave it out, or set method: {idle}")
        if self.serve and self.annotator is not None:
            raise Clash("serve", "where the annotator is simulated nobody comes to a page; leave it out")
        return self
