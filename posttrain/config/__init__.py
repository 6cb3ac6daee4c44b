"""Settings: one frozen class per command, read strictly from YAML, flags or keywords.

Every name is loaded when it is first used: a command line that is only asked for help reads no YAML library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.config.automatic import auto_critic_rate as auto_critic_rate
    from posttrain.config.automatic import auto_learning_rate as auto_learning_rate
    from posttrain.config.automatic import auto_max_length as auto_max_length
    from posttrain.config.automatic import auto_precision as auto_precision
    from posttrain.config.automatic import held_out_share as held_out_share
    from posttrain.config.automatic import planned as planned
    from posttrain.config.automatic import share as share
    from posttrain.config.automatic import steps_between as steps_between
    from posttrain.config.by_command import CONFIGS as CONFIGS
    from posttrain.config.document import dump as dump
    from posttrain.config.leaf import Leaf as Leaf
    from posttrain.config.leaf import leaves as leaves
    from posttrain.config.load import load_config as load_config
    from posttrain.config.load import make_config as make_config
    from posttrain.config.loop import RLHFConfig as RLHFConfig
    from posttrain.config.loop import SimulatedAnnotator as SimulatedAnnotator
    from posttrain.config.methods import Annotators as Annotators
    from posttrain.config.methods import ChatConfig as ChatConfig
    from posttrain.config.methods import CheckConfig as CheckConfig
    from posttrain.config.methods import EvalConfig as EvalConfig
    from posttrain.config.methods import MergeConfig as MergeConfig
    from posttrain.config.methods import RewardConfig as RewardConfig
    from posttrain.config.methods import SampleConfig as SampleConfig
    from posttrain.config.methods import SFTConfig as SFTConfig
    from posttrain.config.ppo import Beta as Beta
    from posttrain.config.ppo import Critic as Critic
    from posttrain.config.ppo import PPOConfig as PPOConfig
    from posttrain.config.preferences import DPOConfig as DPOConfig
    from posttrain.config.preferences import OnlineDPOConfig as OnlineDPOConfig
    from posttrain.config.ranking import RankConfig as RankConfig
    from posttrain.config.rewards import Functions as Functions
    from posttrain.config.rewards import RewardItem as RewardItem
    from posttrain.config.schema import json_schema as json_schema
    from posttrain.config.shared import Data as Data
    from posttrain.config.shared import DataItem as DataItem
    from posttrain.config.shared import Lora as Lora
    from posttrain.config.shared import Settings as Settings
    from posttrain.config.shared import Training as Training
    from posttrain.config.starter import starter_yaml as starter_yaml
    from posttrain.config.tasks import ClassifyConfig as ClassifyConfig

_HOME = {
    "Annotators": "methods",
    "Beta": "ppo",
    "CONFIGS": "by_command",
    "ChatConfig": "methods",
    "CheckConfig": "methods",
    "ClassifyConfig": "tasks",
    "Critic": "ppo",
    "DPOConfig": "preferences",
    "Data": "shared",
    "DataItem": "shared",
    "EvalConfig": "methods",
    "Functions": "rewards",
    "Leaf": "leaf",
    "Lora": "shared",
    "MergeConfig": "methods",
    "OnlineDPOConfig": "preferences",
    "PPOConfig": "ppo",
    "RLHFConfig": "loop",
    "RankConfig": "ranking",
    "RewardConfig": "methods",
    "RewardItem": "rewards",
    "SFTConfig": "methods",
    "SampleConfig": "methods",
    "Settings": "shared",
    "SimulatedAnnotator": "loop",
    "Training": "shared",
    "auto_critic_rate": "automatic",
    "auto_learning_rate": "automatic",
    "auto_max_length": "automatic",
    "auto_precision": "automatic",
    "dump": "document",
    "steps_between": "automatic",
    "held_out_share": "automatic",
    "json_schema": "schema",
    "leaves": "leaf",
    "load_config": "load",
    "make_config": "load",
    "planned": "automatic",
    "share": "automatic",
    "starter_yaml": "starter",
}

__all__ = [
    "CONFIGS",
    "Annotators",
    "Beta",
    "ChatConfig",
    "CheckConfig",
    "ClassifyConfig",
    "Critic",
    "DPOConfig",
    "Data",
    "DataItem",
    "EvalConfig",
    "Functions",
    "Leaf",
    "Lora",
    "MergeConfig",
    "OnlineDPOConfig",
    "PPOConfig",
    "RLHFConfig",
    "RankConfig",
    "RewardConfig",
    "RewardItem",
    "SFTConfig",
    "SampleConfig",
    "Settings",
    "SimulatedAnnotator",
    "Training",
    "auto_critic_rate",
    "auto_learning_rate",
    "auto_max_length",
    "auto_precision",
    "dump",
    "held_out_share",
    "json_schema",
    "leaves",
    "load_config",
    "make_config",
    "planned",
    "share",
    "starter_yaml",
    "steps_between",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'posttrain.config' has no attribute {name!r}")
    return getattr(import_module(f"posttrain.config.{_HOME[name]}"), name)
