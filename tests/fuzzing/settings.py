"""Settings in YAML, as flags and as keywords: the examples, and files of other libraries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

from posttrain.config import CONFIGS, Settings, Training, dump, load_config, make_config
from posttrain.config.flags import flags_of, unknown
from posttrain.config.places import check_out as check_place
from posttrain.data.origins import origin_of
from posttrain.hub import reads_like_an_id
from posttrain.models.load import base_of
from posttrain.recipes.functions import functions_in
from posttrain.run import check_out

from .doors import Kind, Told, law
from .mutators import Files

_ROOT = Path(__file__).resolve().parent.parent.parent
_FOREIGN = {"axolotl": "sft", "llamafactory": "sft", "trl": "sft", "trl_ppo": "ppo"}
_MIXTURES = {
    "sft_mixture": b"model: m\ndata:\n- a.jsonl\n- path: b.csv\n  weight: 0.5\n  columns: {prompt: q, response: a}\n"
    b"- {path: owner/name, subset: main, split: train}\nout: runs/x\n",
    "sft_one": b"model: m\ndata: {path: a.jsonl, columns: {text: t}}\nout: x\nlora: {rank: 4, targets: [q_proj]}\n",
    "ppo_rewards": b"model: m\nprompts: p.jsonl\nout: runs/x\nreward:\n- {ensemble: [a, b], combine: min}\n"
    b"- {reward: rewards.py:f, weight: -1.0, name: n}\nstop_if: {kl: 20.0}\nfunctions: {timeout: 5.0}\n",
}


def command_of(file: str) -> str:
    """The command that a settings file is of, by its name: `ppo_group.yaml` is of ppo."""
    return file.partition(".")[0].partition("_")[0]


@cache
def settings_files() -> Sequence[Files]:
    """Every example, every file of another library, and the forms of sources and rewards."""
    files = [*(_ROOT / "examples").glob("*.yaml"), *(_ROOT / "examples" / "options").glob("*.yaml")]
    found: list[Files] = [{file.name: file.read_bytes()} for file in sorted(files)]
    for name, command in _FOREIGN.items():
        found.append({f"{command}_{name}.yaml": (_ROOT / "tests" / "foreign" / f"{name}.yaml").read_bytes()})
    found += [{f"{name}.yaml": data} for name, data in _MIXTURES.items()]
    return found


def settings_door(folder: Path, told: Told) -> bool:
    """A settings file, read as a command reads it, written as a run writes it, and read again."""
    [path] = list(folder.iterdir())
    config = CONFIGS[command_of(path.name)]
    made = told.attempt(lambda: load_config(config, path, {}))
    if made is not None:
        _again(config, made)
        _used(made, folder, told)
    return made is not None


def _again(config: type[Settings], made: Settings) -> None:
    """Settings that were accepted are written so that they are read as the same."""
    copy = Path("copy.yaml")
    copy.write_text(dump(made), encoding="utf-8")
    law(load_config(config, copy, {}) == made, "what is written of the settings is read as others")


def _used(made: Settings, folder: Path, told: Told) -> None:
    """The places that settings name are looked at as a command does, as far as they are not elsewhere on this disk."""
    given = cast("dict[str, Any]", made.model_dump(mode="json"))
    sources = [given.get(name) or () for name in ("data", "prompts")]
    paths = [item["path"] for items in sources if not isinstance(items, str) for item in items]
    paths += [place for name in ("data", "prompts", "eval_data", "center") if isinstance(place := given.get(name), str)]
    model, out = str(given.get("model") or ""), str(given.get("out") or "")
    named = [*paths, *(str(Path(path)) for path in paths if path), model, out, "--out"]
    for path in filter(partial(_near, folder=folder), paths):
        if not reads_like_an_id(path):
            told.attempt(lambda path=path: origin_of(path), *named)
    if model and _near(model, folder):
        told.attempt(lambda: base_of(model), *named)
    if _near(out, folder):
        told.attempt(lambda: check_place(made), *named)
        if isinstance(made, Training) and all(_near(path, folder) for path in (*paths, model)):
            told.attempt(lambda: check_out(made, out, fresh=False, lineage={"model": model}, data=paths), *named)
    rewards = getattr(made, "reward", None)
    if isinstance(rewards, tuple):  # of the loop it is a stage
        told.attempt(lambda: functions_in(rewards), *(spec for item in rewards for spec in item.specs))


def _near(path: str, folder: Path) -> bool:
    """Whether a path leads to nothing that stands outside the folder."""
    try:
        return not Path(path).exists() or Path(path).resolve().is_relative_to(folder)
    except OSError:
        return True


SETTINGS = Kind(name="settings", seeds=settings_files, door=settings_door, share=3.0)


# --- flags and keywords -----------------------------------------------------------------------------------------------


@cache
def typed() -> Sequence[Files]:
    """What people type for a command, and what they give as keywords, as JSON."""
    lines: Mapping[str, Mapping[str, Any]] = {
        "sft": {
            "model": "m",
            "data": ["a.jsonl", "{path: b.csv, weight: 2}"],
            "out": "o",
            "lora.rank": "8",
            "epochs": "3",
        },
        "ppo": {
            "model": "m",
            "reward": ["rm", "{reward: r.py:f, weight: 2}"],
            "prompts": "p",
            "out": "o",
            "steps": "2",
        },
        "dpo": {"model": "m", "data": "a.jsonl", "out": "o", "loss": "kto", "beta": "0.1", "learning_rate": "1e-5"},
        "check": {"data": "a.jsonl", "rows": "3", "max_bad": "5%"},
        "eval": {"model": "m", "data": "a.jsonl", "measures": ["bleu", "chrf"], "num_train_epochs": "3"},
    }
    keywords: Mapping[str, Mapping[str, Any]] = {
        "sft": {"model": "m", "data": [{"path": "a", "weight": 2.0}], "out": "o", "lora": {"rank": 8}, "epochs": 3.0},
        "ppo": {"model": "m", "reward": [{"ensemble": ["a", "b"]}], "prompts": "p", "out": "o", "stop_if": {"kl": 9.0}},
        "reward": {"model": "m", "data": "a", "out": "o", "annotators": {"weights": {"ann": 2.0}}, "center": "c"},
    }
    found: list[Files] = [{f"{name}_flags.json": json.dumps(given).encode()} for name, given in lines.items()]
    return found + [{f"{name}_keywords.json": json.dumps(given).encode()} for name, given in keywords.items()]


def typed_door(folder: Path, told: Told) -> bool:
    """The same values as flags of a command line and as keywords of Python."""
    [path] = list(folder.iterdir())
    config = CONFIGS[command_of(path.name)]
    try:
        given = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError):
        return True
    if not isinstance(given, dict):
        return True
    if "keywords" in path.name:
        return told.attempt(lambda: make_config(config, given), *_names(given)) is not None
    flags = {name: _words(value) for name, value in given.items()}
    words = [
        word for name, value in flags.items() for word in (f"--{name}", *([value] if isinstance(value, str) else value))
    ]
    list(unknown(config.command, words, flags_of(config.command)))
    return told.attempt(lambda: load_config(config, None, flags), "--") is not None


def _words(value: object) -> str | list[str]:
    """A value as the shell would give it."""
    if isinstance(value, list) and value:
        return [item if isinstance(item, str) else json.dumps(item) for item in value]
    return value if isinstance(value, str) else json.dumps(value)


def _names(given: object) -> list[str]:
    """Every key of a tree, and the names of what is missing."""
    if isinstance(given, dict):
        inner = [name for value in given.values() for name in _names(value)]
        return [*map(str, given), *(ascii(name)[1:-1] for name in given), *inner, "missing", "set either"]
    return [name for value in given for name in _names(value)] if isinstance(given, list) else []


TYPED = Kind(name="typed", seeds=typed, door=typed_door)
