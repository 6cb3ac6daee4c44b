"""Paths on the command line that are not what they are taken for: data as settings, an out that cannot be written."""

from __future__ import annotations

import os
from pathlib import Path

from posttrain.config.shared import Settings
from posttrain.errors import ConfigError, Problem

_DATA = (".jsonl", ".csv", ".tsv", ".parquet", ".txt", ".db", ".gz", ".arrow")


def check_settings_file(command: str, path: Path) -> None:
    """Raises ConfigError for a data file or a folder where a settings file belongs, with the flag that takes it."""
    if path.name.lower().endswith(_DATA):
        flag = "prompts" if command in ("ppo", "online-dpo", "rlhf") else "data"
        what = "is data; a settings file in YAML stands here"
        raise ConfigError([Problem(place=str(path), what=what, fix=f"posttrain {command} --{flag} {path} ...")])
    if path.is_dir():
        what = "is a folder; a settings file in YAML stands here"
        raise ConfigError([Problem(place=str(path), what=what, fix=f"posttrain {command} --model {path} ...")])


def check_out(config: Settings) -> None:
    """Raises ConfigError when the file that `config` writes cannot be made, before anything is loaded."""
    out: object = getattr(config, "out", None)
    if not isinstance(out, str):
        return
    above = next(folder for folder in (Path(out), *Path(os.path.abspath(out)).parents) if folder.exists())
    if above != Path(out) and not above.is_dir():
        raise ConfigError(
            [Problem(place="--out", what=f"{out} cannot be made: {above} is a file", fix="give another --out")]
        )
    if not os.access(above, os.W_OK):
        fix = "give another --out, or change the rights of the folder"
        raise ConfigError(
            [Problem(place="--out", what=f"{out} cannot be written: no right to write in {above}", fix=fix)]
        )
