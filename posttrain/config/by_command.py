"""Every command that has settings, and the class of them."""

from __future__ import annotations

from posttrain.config.loop import RLHFConfig
from posttrain.config.methods import (
    ChatConfig,
    CheckConfig,
    EvalConfig,
    MergeConfig,
    RewardConfig,
    SampleConfig,
    SFTConfig,
)
from posttrain.config.ppo import PPOConfig
from posttrain.config.preferences import DPOConfig, OnlineDPOConfig
from posttrain.config.ranking import RankConfig
from posttrain.config.shared import Settings
from posttrain.config.tasks import ClassifyConfig

CONFIGS: dict[str, type[Settings]] = {
    config.command: config
    for config in (
        SFTConfig,
        ClassifyConfig,
        SampleConfig,
        RankConfig,
        RewardConfig,
        PPOConfig,
        DPOConfig,
        OnlineDPOConfig,
        RLHFConfig,
        EvalConfig,
        ChatConfig,
        CheckConfig,
        MergeConfig,
    )
}
