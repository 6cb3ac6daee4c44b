"""The settings of the page on which people rank answers."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from posttrain.config.shared import Clash, Data, Fraction, Percent, Place, Positive, Settings, Text


class RankConfig(Settings):
    """A page on which people rank answers, and the store that keeps what they say."""

    command: ClassVar[str] = "rank"
    positional: ClassVar[str] = "pool"

    pool: Data | None = Field(
        default=None,
        description="answers to rank, as sample writes them, or pairs or rankings; null: what is in the store",
    )
    db: Place = Field(default="feedback.db", description="the ranking store; it is made where it is not there")
    host: Text = Field(
        default="127.0.0.1", description="the address to listen on; others than this machine's ask for a token"
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=8712, description="the port; 0: any that is free")
    token: Text | None = Field(
        default="auto",
        description="what the address carries; auto: nothing on this machine, else one is made; null: nothing",
    )
    overlap: Fraction = Field(default=0.2, description="share of the items that go to two people")
    audit: Fraction = Field(default=0.05, description="share of the prompts that check people and are never trained on")
    repeat: Fraction = Field(default=0.05, description="share of a person's items that come back after ten others")
    guidelines: Place | None = Field(default=None, description="a text that annotators can read; null: none")
    choose: Literal["random", "uncertain"] = Field(
        default="random",
        description="which items come first; uncertain: also those that a reward model is least sure of",
    )
    reward: Place | None = Field(default=None, description="the reward model of choose uncertain: a run or a folder")
    uncertain: Fraction = Field(default=0.5, description="with choose uncertain, the share that the reward chooses")
    lock: Positive = Field(default=10.0, description="minutes for which an item is held for who has it before them")
    max_bad: Percent = Field(default="5%", description="more bad rows than this share are refused; fewer are left out")
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="of every choice of items and order")

    @model_validator(mode="after")
    def _a_reward_chooses(self) -> RankConfig:
        if self.choose == "uncertain" and self.reward is None:
            raise Clash("reward", "choose uncertain asks a reward model: give one, for example runs/rm")
        if self.choose == "random" and self.reward is not None:
            raise Clash("reward", "is asked by choose uncertain alone; take it out, or set choose: uncertain")
        return self
