"""Settings: one frozen class per command, read strictly from YAML, flags or keywords."""

from posttrain.config.automatic import auto_learning_rate, auto_max_length, every, held_out_share
from posttrain.config.document import dump
from posttrain.config.leaves import Leaf, leaves
from posttrain.config.load import load_config, make_config, unknown_flags
from posttrain.config.methods import (
    CONFIGS,
    Beta,
    CheckConfig,
    Critic,
    DPOConfig,
    EvalConfig,
    PPOConfig,
    RewardConfig,
    SampleConfig,
    SFTConfig,
)
from posttrain.config.shared import Data, DataItem, Lora, Settings, Training

__all__ = [
    "CONFIGS",
    "Beta",
    "CheckConfig",
    "Critic",
    "DPOConfig",
    "Data",
    "DataItem",
    "EvalConfig",
    "Leaf",
    "Lora",
    "PPOConfig",
    "RewardConfig",
    "SFTConfig",
    "SampleConfig",
    "Settings",
    "Training",
    "auto_learning_rate",
    "auto_max_length",
    "dump",
    "every",
    "held_out_share",
    "leaves",
    "load_config",
    "make_config",
    "unknown_flags",
]
