"""Each setting of a command stands in a YAML example of it, each shared setting in that of some command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from posttrain.config import CONFIGS, Settings, leaves
from posttrain.config.shared import Passes, Training

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHARED = (Training, Passes)
FILES = sorted([*EXAMPLES.glob("*.yaml"), *EXAMPLES.glob("options/*.yaml")])


def names(value: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted name that a settings file gives a value."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield f"{prefix}{key}"
            yield from names(part, f"{prefix}{key}.")
    elif isinstance(value, list):
        for part in value:
            yield from names(part, prefix)


def shown(commands: set[str]) -> set[str]:
    """The settings that the examples of these commands name."""
    files = [file for file in FILES if file.stem.partition("_")[0] in commands]
    return {name for file in files for name in names(YAML(typ="safe").load(file))}


def own(config: type[Settings]) -> set[str]:
    """The settings that a command does not share with the other training commands.

    A stage of the loop takes those of its command, which stand in the examples of that.
    """
    shared = {leaf.name for part in SHARED if issubclass(config, part) for leaf in leaves(part)}
    names = {leaf.name for leaf in leaves(config)} - shared
    return {name for name in names if "." not in name or name.partition(".")[0] not in CONFIGS}


@pytest.mark.parametrize("command", sorted(CONFIGS))
def test_each_setting_of_a_command_stands_in_an_example(command: str) -> None:
    assert own(CONFIGS[command]) - shown({command}) == set()


@pytest.mark.parametrize("part", SHARED)
def test_each_shared_setting_stands_in_an_example(part: type[Settings]) -> None:
    commands = {name for name, config in CONFIGS.items() if issubclass(config, part)}
    assert {leaf.name for leaf in leaves(part)} - shown(commands) == set()
