"""What answers are rewarded by, or judged by: reward models, functions, several of them as one, and their sums."""

from __future__ import annotations

import inspect
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

from pydantic import BeforeValidator, Field, ModelWrapValidatorHandler, PrivateAttr, model_validator

from posttrain.config.shared import Clash, Count, NotNegative, Percent, Place, Positive, Settings, Text

Function: TypeAlias = Callable[..., Any]
SESSION = "<session>"
"""Stands for the file of a function that has none: one that was typed into a notebook or a prompt."""


class Functions(Settings):
    """How Python functions among the rewards are called."""

    timeout: Positive | None = Field(default=60.0, description="seconds that a call may take; null: no limit")
    at_once: Count | Literal["auto"] = Field(
        default="auto", description="calls under way at a time; auto: 1 of a plain function, 16 of an async one"
    )
    max_failures: Percent = Field(
        default="5%", description="more answers of a step without a score than this share stop the run"
    )


class RewardItem(Settings):
    """One part of a reward: a reward model or a function, or an ensemble of several that score the same thing."""

    reward: Place | None = Field(default=None, description="a run of `reward`, a model, or rewards.py:function")
    ensemble: Annotated[tuple[Place, ...], Field(strict=False)] | None = Field(
        default=None, description="two or more of them, whose scores are combined"
    )
    combine: Literal["mean", "min", "lower_bound"] = Field(
        default="mean", description="an ensemble's score: mean, min, or mean less so many deviations"
    )
    deviations: NotNegative = Field(default=1.0, description="standard deviations that lower_bound takes off the mean")
    weight: float = Field(default=1.0, description="what its score is multiplied with in the sum; may be negative")
    name: Text | None = Field(default=None, description="its name in the metrics; null: that of the run or function")
    _functions: dict[str, Function] = PrivateAttr(default_factory=dict[str, Function])

    @model_validator(mode="wrap")
    @classmethod
    def _as_written(cls, given: Any, handler: ModelWrapValidatorHandler[RewardItem]) -> RewardItem:
        """A path, a Python function, or a mapping that holds them."""
        functions: dict[str, Function] = {}
        if isinstance(given, str | os.PathLike) or callable(given):
            given = {"reward": given}
        if isinstance(given, Mapping):
            values = dict(cast("Mapping[str, Any]", given))
            if "reward" in values:
                values["reward"] = _spec(values["reward"], functions)
            many = values.get("ensemble")
            if isinstance(many, list | tuple):
                values["ensemble"] = [_spec(one, functions) for one in cast("Sequence[object]", many)]
            given = values
        made = handler(given)
        made._functions.update(functions)
        return made

    @model_validator(mode="after")
    def _parts_agree(self) -> RewardItem:
        if (self.reward is None) == (self.ensemble is None):
            raise Clash("reward", "set either reward or ensemble")
        if self.ensemble is not None and len(self.ensemble) < 2:
            raise Clash("ensemble", "combines two or more; for one write reward")
        twice = [spec for spec, times in Counter(self.ensemble or ()).items() if times > 1]
        if twice:
            raise Clash("ensemble", f"names {twice[0]} twice, which would count once; each member is another model")
        fields = type(self).model_fields
        changed = [name for name in ("combine", "deviations") if getattr(self, name) != fields[name].default]
        if self.ensemble is None and changed:
            raise Clash(changed[0], "combines the scores of an ensemble; there is one reward here")
        if "deviations" in changed and self.combine != "lower_bound":
            raise Clash("deviations", f"are taken off by combine: lower_bound, not by {self.combine}")
        if self.weight == 0:
            raise Clash("weight", "a reward of weight 0 does nothing; leave it out")
        return self

    @property
    def specs(self) -> tuple[str, ...]:
        """The models and functions that score."""
        return self.ensemble or (self.reward or "",)

    @property
    def functions(self) -> Mapping[str, Function]:
        """The Python functions that were given as such, by what names them."""
        return self._functions


Rewards: TypeAlias = Annotated[
    tuple[RewardItem, ...],
    Field(strict=False),
    BeforeValidator(
        lambda given: _as_many(given),
        json_schema_input_type=Annotated[str, Field(min_length=1)]
        | RewardItem
        | Annotated[list[Annotated[str, Field(min_length=1)] | RewardItem], Field(min_length=1)],
    ),
]


def _as_many(given: object) -> object:
    if not isinstance(given, list | tuple):
        return given if given is None else (given,)
    if not given:
        raise ValueError("names no reward")
    return tuple(cast("Sequence[object]", given))


def _spec(given: object, functions: dict[str, Function]) -> object:
    """What names a reward in a settings file; a Python function is noted in `functions`."""
    if isinstance(given, str | os.PathLike) or not callable(given):
        return given
    spec = spec_of(given)
    functions[spec] = given
    return spec


def spec_of(function: Function) -> str:
    """`file.py:name` of a Python function; `<session>:name` where there is no file.

    Raises ValueError for what cannot be found again by a name: a lambda, a function inside another, a bound method.
    """
    inner = inspect.unwrap(function)
    fix = "write it with def at the top of a file"
    if not inspect.isfunction(inner):
        raise ValueError(f"{function!r} is no Python function, and nothing names it in the record of the run; {fix}")
    if inner.__name__ == "<lambda>":
        raise ValueError(f"a lambda has no name to record it by; {fix}")
    if inner.__qualname__ != inner.__name__:
        raise ValueError(f"{inner.__qualname__} stands inside something else and is not found again by a name; {fix}")
    file = Path(inner.__code__.co_filename)
    if not file.is_file():
        return f"{SESSION}:{inner.__name__}"
    here = Path.cwd()
    whole = file.resolve()
    return f"{whole.relative_to(here) if whole.is_relative_to(here) else whole}:{inner.__name__}"


def source_of(function: Function) -> str:
    """The text of a function, or the hash of its code where nobody kept the text."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        code = inspect.unwrap(function).__code__
        return f"code {sha256(repr((code.co_code, code.co_consts, code.co_names)).encode()).hexdigest()}"


def is_function(spec: str) -> bool:
    """True for `file.py:name`."""
    return ":" in spec and not Path(spec).is_dir()


def names_of(items: Sequence[RewardItem]) -> list[str]:
    """The name of each part in the metrics, no two alike: its own, else that of its run, function or ensemble."""
    seen: Counter[str] = Counter()
    found: list[str] = []
    for item in items:
        spec = item.reward or ""
        name = item.name or ("ensemble" if item.ensemble else spec.rpartition(":")[2] if is_function(spec) else "")
        name = name or Path(spec).name
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return found


def refuse_idle_functions(items: Sequence[RewardItem], functions: Functions, setting: str) -> None:
    """Raises Clash for settings of calls where none of the rewards, which are in `setting`, is a function."""
    if functions != Functions() and not any(is_function(spec) for item in items for spec in item.specs):
        raise Clash("functions", f"no Python function is in {setting}; leave it out")


def models_in(items: Sequence[RewardItem]) -> list[str]:
    """The reward models among the parts, each once."""
    return list(dict.fromkeys(spec for item in items for spec in item.specs if not is_function(spec)))
