"""The reward of a run, or the judge of an evaluation, as one scorer: models, functions, ensembles and their sum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from posttrain.config.rewards import Functions, RewardItem, is_function, models_in, names_of
from posttrain.errors import ModelError
from posttrain.models.heads import ScalarModel
from posttrain.ops import ensemble
from posttrain.recipes.functions import FunctionScorer, Loaded, functions_in
from posttrain.recipes.scoring import RewardCard, RewardScorer
from posttrain.rollout.grading import Ensemble, Panel, Part
from posttrain.types import Scorer


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModel:
    """A reward model in memory. `reads_alike`: it reads the policy's own tokens, not its text rendered again."""

    path: str
    scalar: ScalarModel
    own_attention: str
    card: RewardCard
    reads_alike: bool
    scorer: RewardScorer


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """What scores answers, and the models in it by path. `weights`: of the parts that are one model alone."""

    scorer: Scorer
    models: Mapping[str, RewardModel]
    weights: Mapping[str, float]

    @property
    def only(self) -> tuple[RewardModel, float] | None:
        """The only reward model, where it is a part of its own, with its weight."""
        if len(self.models) != 1 or len(self.weights) != 1:
            return None
        [(path, weight)] = self.weights.items()
        return self.models[path], weight


def check_rewards(items: Sequence[RewardItem]) -> Loaded:
    """The functions among rewards, found and looked at, before a model is loaded.

    Raises ModelError for what is neither a function of a file nor a finished reward model.
    """
    for path in models_in(items):
        if path.endswith(".py") and Path(path).is_file():
            raise ModelError(f"{path} names no function\n  fix: write {path}:NAME, the name of a function in it")
        RewardCard.read(path)
    return functions_in(items)


def assembled(
    items: Sequence[RewardItem], loaded: Loaded, calls: Functions, load: Callable[[str, int], RewardModel]
) -> Reward:
    """The parts as one scorer. `load` brings in the reward model of a path, with its number among them."""
    models = {path: load(path, number) for number, path in enumerate(models_in(items))}

    def member(spec: str) -> Scorer:
        return FunctionScorer(spec, loaded[spec], calls) if is_function(spec) else models[spec].scorer

    parts = [
        Part(name=name, scorer=_scorer(item, name, member), weight=item.weight)
        for item, name in zip(items, names_of(items), strict=True)
    ]
    alone = len(parts) == 1 and parts[0].weight == 1
    single = [item for item in items if item.reward in models]
    return Reward(
        scorer=parts[0].scorer if alone else Panel(parts),
        models=models,
        weights={item.reward or "": item.weight for item in single} if len(single) == 1 else {},
    )


def _scorer(item: RewardItem, name: str, member: Callable[[str], Scorer]) -> Scorer:
    if item.ensemble is None:
        return member(item.specs[0])
    combine: Mapping[str, Callable[[Tensor], Tensor]] = {
        "mean": ensemble.mean,
        "min": ensemble.minimum,
        "lower_bound": partial(ensemble.lower_bound, deviations=item.deviations),
    }
    return Ensemble(name, {spec: member(spec) for spec in item.specs}, combine[item.combine])
