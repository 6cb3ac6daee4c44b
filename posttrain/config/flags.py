"""The flags of a command as they were typed: spelled as we write them, and what is said of those that there are not."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from posttrain.config.hints import hint
from posttrain.config.leaf import leaves
from posttrain.config.methods import CONFIGS
from posttrain.errors import Problem

# What people type for a command that has another name here.
_ALSO = {
    "train": "sft",
    "finetune": "sft",
    "rm": "reward",
    "rlhf": "ppo",
    "grpo": "ppo",
    "rloo": "ppo",
    "generate": "sample",
    "evaluate": "eval",
    "template": "init",
}
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
    for place, word in enumerate(words):
        flag, _, value = word.partition("=")
        if not flag.startswith("--") or flag == "--" or flag in (*flags, *_ALWAYS):
            continue
        after = [text for text in words[place + 1 : place + 2] if not text.startswith("--")]
        yield Problem(place=flag, what=f"unknown flag{_meant(command, flag, value or ''.join(after), flags)}")


def _meant(command: str, flag: str, value: str, flags: Sequence[str]) -> str:
    config = CONFIGS.get(command)
    told = hint(config, flag[2:].replace("-", "_"), form="--{}", text=value) if config else ""
    return told or did_you_mean(flag, flags)


def did_you_mean(word: str, names: Sequence[str]) -> str:
    """`; did you mean NAME?`, or nothing when no name is near."""
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def unknown_command(name: str, commands: Sequence[str]) -> str:
    """What is said of a command that there is not."""
    hint = f"; did you mean {_ALSO[name]}?" if name in _ALSO else did_you_mean(name, commands)
    return f"unknown command '{name}'{hint or '; there are ' + ', '.join(commands)}"
