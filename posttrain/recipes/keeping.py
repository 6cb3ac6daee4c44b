"""Weights that a run keeps beside its own: the best ones so far, and a moving average."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from posttrain.config.automatic import auto_best_of_rows
from posttrain.console import Console
from posttrain.data.source import EpochSource
from posttrain.models.load import Loaded, save_causal
from posttrain.models.precision import master_of, set_values
from posttrain.text.chat import Codec
from posttrain.types import State

Save = Callable[[Path], None]
"""Writes the model as it stands into a folder that does not exist yet."""


@contextmanager
def worn(parameters: Sequence[nn.Parameter], weights: Sequence[Tensor]) -> Generator[None]:
    """Inside, the parameters have other weights; afterwards their own again, which wait in CPU memory."""
    own = [_copy(part) for part in parameters]
    _put(parameters, weights)
    try:
        yield
    finally:
        _put(parameters, own)


def saving(loaded: Loaded, stack: tuple[str, ...], codec: Codec) -> Save:
    """What writes a model that answers, with `stack` active, and its tokenizer."""

    def save(folder: Path) -> None:
        save_causal(loaded, stack, folder, stop_ids=codec.stop_ids)
        codec.save(folder)

    return save


def write_model(folder: Path, save: Save) -> None:
    """A model folder that is whole or not there; an earlier one of that name is replaced."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    save(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


class Average:
    """The exponential moving average of the weights: after an update, average <- decay average + (1 - decay) weights.

    Part of a run's checkpoints. With adapters it is their two matrices that are averaged, not the product.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._parameters = list(parameters)
        self.decay = decay
        self._weights = [master_of(part).detach().clone() for part in parameters]

    @torch.no_grad()
    def after(self, number: int, metrics: Mapping[str, float]) -> None:
        """A hook: takes in the weights after an update; one that was skipped, or overflowed, is none."""
        if not (metrics.get("kl_stopped") or metrics.get("skipped")):
            for kept, part in zip(self._weights, self._parameters, strict=True):
                kept.lerp_(master_of(part), 1 - self.decay)

    def write(self, folder: Path, save: Save) -> None:
        """Writes the averaged model."""
        with worn(self._parameters, self._weights):
            write_model(folder, save)

    def state(self) -> State:
        """The average."""
        return {str(place): kept for place, kept in enumerate(self._weights)}

    def load_state(self, state: State) -> None:
        """Goes on with the average of `state`."""
        for place, kept in enumerate(self._weights):
            kept.copy_(cast("Tensor", state[str(place)]))


def lowest_is_best(measure: str) -> bool:
    """Whether the best value of a measure is its lowest: a loss's is, every other's is its highest."""
    return measure.endswith("loss")


class Best:
    """The weights at which a measure was best, highest or of a loss lowest; without a `measure` it keeps nothing.

    A measure whose name begins with `eval_` belongs to the weights after an update, and `after` looks at it; others
    are of rollouts, sampled before the round's updates, and whoever samples calls `consider`. Metrics that are not
    `healthy` are passed over. The weights lie on the CPU and are part of a run's checkpoints; a run that goes on by
    another measure drops them and uses `say`.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        measure: str | None,
        *,
        healthy: Callable[[Mapping[str, float]], bool] = lambda metrics: True,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._healthy = healthy
        self._say = say
        self._parameters = list(parameters)
        self._sign = -1 if measure is not None and lowest_is_best(measure) else 1
        self.measure = measure
        self.step, self.value = 0, 0.0
        # Kept from the start, so that the memory they take is known before it is forecast.
        self._weights = [] if measure is None else [_copy(part) for part in parameters]
        self._found = False

    @property
    def facts(self) -> dict[str, int | float]:
        """`{"step": 40, "eval_score_sampled": 1.3}`; empty while nothing was measured."""
        return {"step": self.step, self.measure: self.value} if self._found and self.measure is not None else {}

    def after(self, number: int, metrics: Mapping[str, float]) -> None:
        """A hook: an evaluation measures the weights as they stand."""
        if self.measure is not None and self.measure.startswith("eval_"):
            self.consider(number, metrics)

    def consider(self, number: int, metrics: Mapping[str, float]) -> None:
        """Keeps the weights as they stand if the measure is better than ever; of equals the first stay.

        A measure that is not a number, as that of answers of which none has a score, is passed over.
        """
        if self.measure is None or self.measure not in metrics or not self._healthy(metrics):
            return
        value = metrics[self.measure]
        if math.isnan(value) or (self._found and not self._sign * value > self._sign * self.value):
            return
        # New tensors: a state that was noted before holds the old ones.
        self._weights = [_copy(part) for part in self._parameters]
        self.step, self.value, self._found = number, value, True

    def write(self, folder: Path, save: Save) -> None:
        """Writes the best model. Raises RuntimeError while nothing was measured."""
        if not self._found:
            raise RuntimeError("nothing was measured yet")
        with worn(self._parameters, self._weights):
            write_model(folder, save)

    def state(self) -> State:
        """The weights, where and how good they were, and by what; nothing while nothing was measured."""
        if not self._found:
            return {}
        weights = {str(place): kept for place, kept in enumerate(self._weights)}
        return {"step": self.step, "value": self.value, "measure": self.measure, **weights}

    def load_state(self, state: State) -> None:
        """Goes on with the best of `state`, unless it is the best by another measure."""
        there = state.get("measure", self.measure)
        self._found = "step" in state and self.measure is not None and there == self.measure
        if "step" in state and not self._found:
            by = "" if there is None else f", which was by {there}"
            now = "none is kept" if self.measure is None else f"it is by {self.measure}"
            self._say(f"the best model so far, of step {state['step']}, is dropped{by}: from here on {now}")
        if self._found:
            self.step, self.value = cast("int", state["step"]), cast("float", state["value"])
            self._weights = [cast("Tensor", state[str(place)]) for place in range(len(self._parameters))]


def best_of_rows(
    setting: str | None,
    parameters: Sequence[nn.Parameter],
    source: EpochSource[Any],
    console: Console,
    *,
    interval: int | None,
) -> Best:
    """What keeps the best weights of a run over rows, by a measure that is said where it was chosen.

    `interval`: the steps from one evaluation to the next, None where nothing is evaluated.
    """
    evaluations = 0 if interval is None else math.ceil(source.steps / interval)
    measure, reason = auto_best_of_rows(setting, passes=source.passes, evaluations=evaluations)
    if setting == "auto":
        console.choose("best", measure, reason)
    return Best(parameters, measure, say=console.say)


def _copy(parameter: nn.Parameter) -> Tensor:
    return master_of(parameter).detach().to("cpu", copy=True)


def _put(parameters: Sequence[nn.Parameter], weights: Sequence[Tensor]) -> None:
    for part, other in zip(parameters, weights, strict=True):
        set_values(part, other)
