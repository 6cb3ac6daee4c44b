"""Post-training for language models: finetuning, reward models from rankings, RLHF with PPO, and DPO.

    import posttrain as pt

    run = pt.sft(model="runs/base", data="train.jsonl", lora=pt.Lora(rank=32), out="runs/sft")

Every name is loaded when it is first used: importing the package imports neither torch nor transformers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pathlib import Path

    from posttrain import ops as ops
    from posttrain.config import Beta as Beta
    from posttrain.config import Critic as Critic
    from posttrain.config import DataItem as DataItem
    from posttrain.config import Lora as Lora
    from posttrain.config import Settings
    from posttrain.console import Console
    from posttrain.errors import ConfigError as ConfigError
    from posttrain.errors import DataError as DataError
    from posttrain.errors import Diverged as Diverged
    from posttrain.errors import DoesNotFit as DoesNotFit
    from posttrain.errors import LawBroken as LawBroken
    from posttrain.errors import ModelError as ModelError
    from posttrain.errors import PosttrainError as PosttrainError
    from posttrain.errors import RunExists as RunExists
    from posttrain.recipes.checked import Checked
    from posttrain.recipes.merge import Merged
    from posttrain.run import Run as Run
    from posttrain.run.differing import Difference
    from posttrain.workflows.rlhf import Loop
    from posttrain.workflows.selftest import Selftest

_LAZY = {
    "Beta": "posttrain.config",
    "ConfigError": "posttrain.errors",
    "Critic": "posttrain.config",
    "DataError": "posttrain.errors",
    "DataItem": "posttrain.config",
    "Diverged": "posttrain.errors",
    "DoesNotFit": "posttrain.errors",
    "LawBroken": "posttrain.errors",
    "Lora": "posttrain.config",
    "ModelError": "posttrain.errors",
    "PosttrainError": "posttrain.errors",
    "Run": "posttrain.run",
    "RunExists": "posttrain.errors",
}
_RECIPES = {
    "sft": "posttrain.recipes.sft:sft",
    "classify": "posttrain.recipes.classify:classify",
    "reward": "posttrain.recipes.reward:reward",
    "ppo": "posttrain.recipes.ppo:ppo",
    "dpo": "posttrain.recipes.dpo:dpo",
    "online-dpo": "posttrain.recipes.online_dpo:online_dpo",
    "rlhf": "posttrain.workflows.rlhf:rlhf",
    "sample": "posttrain.recipes.sample:sample",
    "rank": "posttrain.workflows.ranking:rank",
    "chat": "posttrain.recipes.chat:chat",
    "eval": "posttrain.recipes.evaluate:evaluate",
    "check": "posttrain.recipes.check:check",
    "merge": "posttrain.recipes.merge:merge",
}

__all__ = [
    "Beta",
    "ConfigError",
    "Critic",
    "DataError",
    "DataItem",
    "Diverged",
    "DoesNotFit",
    "LawBroken",
    "Lora",
    "ModelError",
    "PosttrainError",
    "Run",
    "RunExists",
    "check",
    "classify",
    "diff",
    "dpo",
    "evaluate",
    "merge",
    "online_dpo",
    "ops",
    "ppo",
    "report_of",
    "reward",
    "rlhf",
    "sample",
    "selftest",
    "sft",
    "start",
]


def __getattr__(name: str) -> Any:
    if name == "ops":
        return import_module("posttrain.ops")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'posttrain' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__]


def sft(*, fresh: bool = False, quiet: bool = False, **settings: object) -> Run:
    """The finished run of supervised finetuning. Keywords are the settings of `posttrain sft --help`.

    `fresh` removes an earlier run in `out`; `quiet` shows nothing. Raises ConfigError, DataError, ModelError,
    RunExists, DoesNotFit or Diverged, as do all commands.
    """
    return cast("Run", _call("sft", settings, fresh=fresh, quiet=quiet))


def classify(*, fresh: bool = False, quiet: bool = False, **settings: object) -> Run:
    """The finished run of a head on labelled rows. Keywords as in `posttrain classify --help`."""
    return cast("Run", _call("classify", settings, fresh=fresh, quiet=quiet))


def reward(*, fresh: bool = False, quiet: bool = False, **settings: object) -> Run:
    """The finished run of a reward model trained on rankings. Keywords as in `posttrain reward --help`."""
    return cast("Run", _call("reward", settings, fresh=fresh, quiet=quiet))


def ppo(*, fresh: bool = False, quiet: bool = False, **settings: object) -> Run:
    """The finished run of PPO against a reward. Keywords as in `posttrain ppo --help`."""
    return cast("Run", _call("ppo", settings, fresh=fresh, quiet=quiet))


def dpo(*, fresh: bool = False, quiet: bool = False, **settings: object) -> Run:
    """The finished run of direct preference optimisation. Keywords as in `posttrain dpo --help`."""
    return cast("Run", _call("dpo", settings, fresh=fresh, quiet=quiet))


def online_dpo(*, fresh: bool = False, quiet: bool = False, **settings: object) -> Run:
    """The finished run of DPO on the policy's own answers. Keywords as in `posttrain online-dpo --help`."""
    return cast("Run", _call("online-dpo", settings, fresh=fresh, quiet=quiet))


def rlhf(*, fresh: bool = False, quiet: bool = False, **settings: object) -> Loop:
    """The finished rounds of the loop: answers, rankings, a reward model and a policy each. Keywords as in its help.

    Settings of a stage are a mapping by its name: `reward={"epochs": 2}`. Raises as the commands of its stages do.
    """
    return cast("Loop", _call("rlhf", settings, fresh=fresh, quiet=quiet))


def sample(model: str | os.PathLike[str], *, fresh: bool = False, quiet: bool = False, **settings: object) -> Path:
    """The file with the model's answers to `prompts`. Keywords as in `posttrain sample --help`."""
    return cast("Path", _call("sample", {"model": model, **settings}, fresh=fresh, quiet=quiet))


def evaluate(model: str | os.PathLike[str], *, quiet: bool = False, **settings: object) -> Mapping[str, Any]:
    """The measures of a model by name. Keywords as in `posttrain eval --help`."""
    return cast("Mapping[str, Any]", _call("eval", {"model": model, **settings}, fresh=False, quiet=quiet))


def check(data: str | os.PathLike[str] | Sequence[object], *, quiet: bool = False, **settings: object) -> Checked:
    """What a run would make of data files. Keywords as in `posttrain check --help`.

    Nothing is raised for what a run would refuse: then `trainable` is False, and each file has its `refusals`.
    """
    return cast("Checked", _call("check", {"data": data, **settings}, fresh=False, quiet=quiet))


def diff(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> Difference:
    """What differs between two runs: settings, versions, data, and the first step and weights that are not the same.

    `identical` is True when both took the same steps to the same weights, bit for bit. Nothing is written. Raises
    ModelError for what is no run, DataError for a file of one that is damaged.
    """
    return cast("Difference", import_module("posttrain.run.differing").diff(first, second))


def report_of(*runs: str | os.PathLike[str], out: str | os.PathLike[str] | None = None, link: bool = False) -> Path:
    """The file with the report of a run, or of several side by side: a page, or as `out` is named Markdown or JSON.

    `link` keeps plotly's script beside the page instead of in it. Raises ModelError for what is no run, DataError for a
    damaged file of one, RunExists for an `out` that is no report, FolderError where it cannot be written.
    """
    write = import_module("posttrain.workflows.reporting").report
    return cast("Path", write(runs, out="" if out is None else os.fspath(out), link=link))


def selftest(model: str | os.PathLike[str] | None = None, *, only: str = "", quiet: bool = False) -> Selftest:
    """What this installation, and a model if one is given, measures of the laws of theory; `broken` names the broken.

    `only` takes the laws that say this. Nothing is written, and nothing is raised for a broken law; ModelError for a
    model that cannot be loaded.
    """
    from posttrain.console import open_console

    measure = import_module("posttrain.workflows.selftest").selftest
    path = None if model is None else os.fspath(model)
    return cast("Selftest", measure(path, only=only, console=open_console(quiet=quiet)))


def merge(model: str | os.PathLike[str], *, out: str | os.PathLike[str], quiet: bool = False) -> Merged:
    """What a merge of an adapter into full weights wrote, and by how much outputs differ.

    Raises ModelError, with nothing written, where they differ by more than rounding.
    """
    return cast("Merged", _call("merge", {"model": model, "out": out}, fresh=False, quiet=quiet))


def start(config: Settings, *, console: Console, **options: bool) -> object:
    """What the recipe of the settings' command returns: a Run, a file of samples, measures, or what was checked.

    Options (`fresh`, `dry_run`) are those that the recipe has; a dry run gives what the run would take. The console's
    panel is closed whichever way it ends.
    """
    from posttrain.config import Training

    module, name = _RECIPES[config.command].split(":")
    # `rlhf` writes its own page, and all else has none: to look for one would import much.
    leaves_a_run = isinstance(config, Training)
    try:
        result = getattr(import_module(module), name)(config, console=console, **options)
        if leaves_a_run:
            _reporting("ended", result, console)
        return result
    except Exception as end:
        # What was never loaded has raised nothing.
        preflight: Any = sys.modules.get("posttrain.recipes.preflight")
        if preflight is not None and isinstance(end, preflight.Rehearsed):
            return cast("Any", end).forecast
        if leaves_a_run:
            _reporting("failed", config.out, console)
        raise
    finally:
        console.finish()


def _reporting(what: str, of: object, console: Console) -> None:
    """Writes the page of a run that has ended so. What goes wrong with it is said: the run has ended as it has.

    Training stands without the rooms that make the page.
    """
    try:
        getattr(import_module("posttrain.workflows.reporting"), what)(of, console)
    except Exception as error:
        if not (isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("posttrain.")):
            console.say(f"no report: {error!r}")


def _call(command: str, settings: Mapping[str, object], *, fresh: bool, quiet: bool) -> object:
    from posttrain.config import CONFIGS, make_config
    from posttrain.console import open_console

    options = {"fresh": True} if fresh else {}  # an evaluation writes no run, so its recipe has no such option
    return start(make_config(CONFIGS[command], settings), console=open_console(quiet=quiet), **options)
