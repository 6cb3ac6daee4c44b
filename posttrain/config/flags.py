"""The flags of a command as they were typed: spelled as we write them, and what is said of those that there are not."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from posttrain.config.by_command import CONFIGS
from posttrain.config.document import scalar
from posttrain.config.foreign_values import switch
from posttrain.config.hints import hint
from posttrain.config.leaf import leaves
from posttrain.errors import ConfigError, Problem

# What people type for a command that has another name here.
_ALSO = {
    "train": "sft",
    "finetune": "sft",
    "rm": "reward",
    "classifier": "classify",
    "classification": "classify",
    "regression": "classify",
    "loop": "rlhf",
    "talk": "chat",
    "grpo": "ppo",
    "rloo": "ppo",
    "online_dpo": "online-dpo",
    "kto": "dpo",
    "simpo": "dpo",
    "orpo": "dpo",
    "generate": "sample",
    "evaluate": "eval",
    "template": "init",
    "diff": "runs diff",
    "compare": "runs diff",
}
_FILES = ("config", "config_file", "config_path", "settings", "yaml", "args_file")
_SHORT = {"q": "--quiet"}
_ALWAYS = ("--help", "--version")


def flags_of(command: str) -> list[str]:
    """Every setting of a command as a flag; none for a command without settings."""
    config = CONFIGS.get(command)
    return [f"--{leaf.name}" for leaf in leaves(config) if leaf.name != "version"] if config else []


def spelled(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """The words with every flag as we write it: `--max-bad=1%` is `--max_bad=1%`."""
    known = {flag[2:].replace("_", "-"): flag for flag in flags}
    return [_spelled(word, known) if word.startswith("--") else word for word in words]


def _spelled(word: str, known: dict[str, str]) -> str:
    flag, equals, value = word.partition("=")
    return known.get(flag[2:].replace("_", "-"), flag) + equals + value


def unknown(command: str, words: Sequence[str], flags: Sequence[str]) -> Iterator[Problem]:
    """One problem for each flag among the words that is none of `flags`."""
    typed = {flag: _value(flag, text) for flag, text in _typed(words)}
    given = {_name(flag): value for flag, value in typed.items()}
    for flag in typed:
        if flag not in (*flags, *_ALWAYS, *(name[1:] for name in flags if len(name) == 3)):  # `-k` is `--k`
            yield Problem(place=flag, what=f"unknown flag{_meant(command, flag, given, flags)}")


def _name(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _value(flag: str, text: str) -> object:
    """What a flag was given; one that stands alone is on, where elsewhere it is a switch."""
    return scalar(text) if text else switch(_name(flag)) or ""


def _typed(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every flag with the text after it, which is empty when the next word is a flag too."""
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        before = words[place - 1] if place else ""
        is_value = before.startswith("--") and "=" not in before
        if (flag.startswith("--") and flag != "--") or (re.match(r"-[A-Za-z]", flag) and not is_value):
            after = [text for text in words[place + 1 : place + 2] if not text.startswith("-")]
            yield flag, value if equals else "".join(after)


def _meant(command: str, flag: str, given: dict[str, object], flags: Sequence[str]) -> str:
    config, name = CONFIGS.get(command), _name(flag)
    if name in _SHORT:
        return f"; did you mean {_SHORT[name]}?"
    if len(name) == 1:
        return next((f"; did you mean {known}?" for known in flags if known.startswith(f"--{name}")), "")
    if config is None:
        return did_you_mean(flag, flags)
    if name in _FILES:
        return f"; a settings file stands without one: posttrain {command} {given[name] or 'FILE'}"
    return hint(config, name, form="--{}", given=given) or did_you_mean(f"--{name}", flags)


def did_you_mean(word: str, names: Sequence[str]) -> str:
    """`; did you mean NAME?`, or nothing when no name is near."""
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def unknown_command(name: str, commands: Sequence[str]) -> str:
    """What is said of a command that there is not."""
    near = difflib.get_close_matches(name, [*commands, *_ALSO], n=1, cutoff=0.5)
    hint = f"did you mean {_ALSO.get(near[0], near[0])}?" if near else f"there are {', '.join(commands)}"
    return f"unknown command '{name}'; {hint}"


def asked_of_runs(words: Sequence[str]) -> tuple[str] | tuple[str, str]:
    """The folder to list, `runs` where none is named, or both folders of `runs diff A B`.

    Raises ConfigError for other words.
    """
    fix = "fix: posttrain runs diff A B"
    what, *folders = words or ("runs",)
    if not folders and what != "diff":
        return (what,)
    if what != "diff":
        raise ConfigError(f"runs  has no command '{what}'{did_you_mean(what, ['diff'])}\n  {fix}")
    if len(folders) != 2:
        raise ConfigError(f"runs diff  needs the folders of two runs, got {len(folders)}\n  {fix}")
    return folders[0], folders[1]


def with_positional(name: str, sources: Sequence[str], flags: Mapping[str, object]) -> dict[str, object]:
    """The flags with what stands without one, as setting `name`, of which several may be given where it is a list.

    A source that a flag gives with settings of its own (`{path: FILE, columns: …}`) is not taken twice.
    Raises ConfigError where there is room for one.
    """
    given = flags.get(name)
    if isinstance(given, list):
        texts = cast("list[str]", given)
        items = [cast("Mapping[str, object]", item) for item in map(scalar, texts) if isinstance(item, Mapping)]
        paths = {item.get("path") for item in items}
        return {**flags, name: [*(source for source in sources if source not in paths), *texts]}
    if given is not None:
        raise ConfigError(f"the {name} is given twice: {sources[0]!r} and --{name}")
    return {name: sources[0] if len(sources) == 1 else [*sources], **flags}
