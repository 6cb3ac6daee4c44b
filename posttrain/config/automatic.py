"""Settings that are chosen when they say `auto`: each choice comes with the reason that is printed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, TypeVar

from posttrain.config.preferences import WITHOUT_REFERENCE
from posttrain.config.shared import Every, Settings
from posttrain.counted import counted

SettingsT = TypeVar("SettingsT", bound=Settings)

_SMALL, _LARGE = 2.6e5, 7e9

# (full weights, LoRA), each (rate at 0.26 million parameters, rate at 7 billion): the small ones were measured on
# stories260k, the large ones are what published 7B recipes use.
_RATES: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "sft": ((1e-3, 1e-5), (5e-3, 2e-4)),
    "reward": ((1e-3, 1e-5), (5e-3, 1e-4)),
    "classify": ((1e-3, 1e-5), (5e-3, 1e-4)),
    "ppo": ((3e-4, 3e-6), (1e-3, 3e-5)),
    "dpo": ((3e-4, 5e-7), (1e-3, 5e-6)),
    "online-dpo": ((3e-4, 5e-7), (1e-3, 5e-6)),
}


def auto_learning_rate(method: str, parameters: int, *, lora: bool) -> tuple[float, str]:
    """The peak learning rate for a model of `parameters` weights, and the reason in one line.

    A straight line in log-log between two sizes where a rate is known to work, held constant beyond them; rounded to
    two digits.
    """
    small, large = _RATES[method][1 if lora else 0]
    place = math.log(parameters / _SMALL) / math.log(_LARGE / _SMALL)
    place = min(max(place, 0.0), 1.0)
    rate = float(f"{small * (large / small) ** place:.1e}")
    trained = "LoRA" if lora else "all weights"
    return rate, f"learning_rate {rate:g}: for {method} with {trained} at {_size(parameters)}"


def _size(parameters: int) -> str:
    if parameters < 1e5:
        return counted(parameters, "parameter")
    return f"{parameters / 1e6:,.1f} M parameters" if parameters < 1e9 else f"{parameters / 1e9:,.1f} B parameters"


def auto_max_length(context: int) -> tuple[int, str]:
    """The longest conversation in tokens for a model with `context` positions, and the reason in one line."""
    length = min(context, 2048)
    reason = "the model's context" if length == context else f"enough for most, below the model's context of {context}"
    return length, f"max_length {length}: {reason}"


def auto_precision(device: str, *, able: bool) -> tuple[Literal["fp32", "bf16"], str]:
    """The precision on a device (`cuda`, `cpu`) that is `able` to compute in bf16, and the reason in one line."""
    if device == "cpu":
        return "fp32", "precision fp32: few CPUs are faster in bf16"
    return ("bf16", f"precision bf16: {device} has it") if able else ("fp32", f"precision fp32: {device} has no bf16")


def auto_critic_rate(rate: float) -> tuple[float, str]:
    """The critic's learning rate beside a policy trained at `rate`, and the reason in one line."""
    return rate, f"critic.learning_rate {rate:g}: the policy's"


def auto_estimator(setting: str, kl_in: str) -> tuple[str, str]:
    """The estimator of the KL to the reference in the `reward` or the `loss`, and the reason in one line."""
    if setting != "auto":
        return setting, ""
    if kl_in == "loss":
        return "k3", "beta.estimator k3: never negative, as in GRPO"
    return "k1", "beta.estimator k1: unbiased, and the rewards of an answer sum to its score less beta times its KL"


def auto_beta(loss: str) -> tuple[float, str]:
    """The weight of a preference loss's reference, and the reason in one line."""
    beta = 2.0 if loss == "simpo" else 0.1
    return beta, f"beta {beta:g}: usual with loss {loss}"


def auto_reference(loss: str) -> tuple[str, str]:
    """What a preference loss holds the policy to, and the reason in one line."""
    if loss in WITHOUT_REFERENCE:
        return "none", f"reference none: {loss} compares the policy's own log-probs, so none is loaded"
    return "start", "reference start: the policy before its first step"


def auto_best(setting: str | None, *, wired: bool, evaluated: bool = False) -> tuple[str | None, str]:
    """The measure by which the best weights are kept, None for none, and the reason in one line."""
    if setting != "auto":
        return setting, ""
    if evaluated:
        return "eval_score_sampled", "best eval_score_sampled: the run is evaluated on prompts of its own"
    if wired:
        return "objective", "best objective: a run that stop_if ends leaves its best weights"
    return None, "best null: nothing ends the run before its last weights"


_AGAIN = 1.5
"""Passes over the rows from which on some have been learnt twice, so that the last weights may be worse on others."""


def auto_best_of_rows(setting: str | None, *, passes: float, evaluations: int) -> tuple[str | None, str]:
    """The measure by which the best weights are kept in a run over rows, None for none, and the reason in one line.

    `passes`: over the rows that are passed over most. A copy of the weights costs memory and disk, so none is kept
    where the last weights are the best as a rule.
    """
    if setting != "auto":
        return setting, ""
    if evaluations == 0:
        return None, "best null: nothing is evaluated"
    if evaluations == 1:
        return None, "best null: only the last weights are evaluated"
    if passes < _AGAIN:
        return None, "best null: the rows are passed over once"
    return "eval_loss", f"best eval_loss: {passes:.3g} passes over the rows may be too many"


def resolved(config: SettingsT, choices: Mapping[str, object]) -> SettingsT:
    """The settings with what the automatic ones (dotted names) came to."""
    tree = config.model_dump()
    for name, value in choices.items():
        *groups, last = name.split(".")
        place = tree
        for group in groups:
            place = place[group]
        if place.get(last) == "auto":
            place[last] = value
    return type(config).model_validate(tree)


def planned(steps: int, shares: Mapping[str, Every | None]) -> str:
    """What shares of a run of `steps` come to: `eval_every 10% is every 6 steps`; empty when none is a share."""
    parts = [(name, share) for name, share in shares.items() if isinstance(share, str)]
    return ", ".join(f"{name} {share} is every {_steps(steps_between(share, steps))}" for name, share in parts)


def _steps(count: int | None) -> str:
    return "step" if count == 1 else f"{count} steps"


def steps_between(setting: Every | None, steps: int) -> int | None:
    """The number of steps between two events in a run of `steps`, at least 1; None when the setting is null."""
    if setting is None:
        return None
    if isinstance(setting, int):
        return setting
    return max(1, round(share(setting) * steps))


def share(percent: str) -> float:
    """The fraction that "2%" or "12.5 %" stands for."""
    return float(percent.rstrip("% ")) / 100


def held_out_share(eval_data: str | None) -> float | None:
    """The fraction of rows to hold out, or None when `eval_data` is a file or null."""
    if eval_data is None or not eval_data.rstrip().endswith("%"):
        return None
    return share(eval_data)
