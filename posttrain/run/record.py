"""What run.json says of a run before its first step: where it comes from and what it runs on."""

from __future__ import annotations

import json
import os
import platform
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from uuid import uuid4

from posttrain.config import RewardItem, Settings
from posttrain.config.rewards import source_of
from posttrain.run.content import content_hash, model_hash
from posttrain.run.folder import Facts, Run

_PACKAGES = ("posttrain", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")


def new_record(config: Settings, lineage: Mapping[str, str], data: Sequence[str]) -> Facts:
    """The first content of run.json; `lineage` names the models a run starts from, `data` its files."""
    return {
        "id": uuid4().hex[:12],
        "command": config.command,
        "status": "running",
        "started": now(),
        "process": os.getpid(),
        "host": socket.gethostname(),
        "seeds": {"seed": getattr(config, "seed", 0)},
        "parents": {name: _parent(model) for name, model in lineage.items()},
        "data": {name: content_hash(Path(name)) for name in data if Path(name).exists()},
        "files": {name: content_hash(Path(name)) for name in _beside(config, lineage)} | _hashes(_sources(config)),
        "functions": _sources(config),
        "versions": {"python": platform.python_version(), **versions()},
        "hardware": {"platform": platform.platform(), "cores": os.cpu_count()},
    }


def _beside(config: Settings, lineage: Mapping[str, str]) -> list[str]:
    """The files that decide what is learnt and are neither data nor models: a template, the code of a reward."""
    template = getattr(config, "template", None)
    found = [template] if isinstance(template, str) and Path(template).is_file() else []
    given = _sources(config)
    files = [name.rpartition(":")[0] for name in lineage.values() if name not in given]
    return found + [file for file in dict.fromkeys(files) if Path(file).is_file()]


def _sources(config: Settings) -> dict[str, str]:
    """The text of the functions that were given as such: the rest of their file is no part of the run."""
    items: tuple[RewardItem, ...] = getattr(config, "reward", None) or ()
    return {spec: source_of(function) for item in items for spec, function in item.functions.items()}


def _hashes(texts: Mapping[str, str]) -> dict[str, str]:
    return {name: sha256(text.encode()).hexdigest() for name, text in texts.items()}


def _parent(model: str) -> Facts:
    """Where a model comes from: its name and, when it is a run, that run's command, start and own parents.

    The content of a plain folder goes by `model_hash`; what a hub id stands for is not looked up.
    """
    run = Run(Path(model))
    if not run.exists():
        return {"name": model, "content": model_hash(Path(model))} if Path(model).is_dir() else {"name": model}
    record = run.record
    return {"name": model, "command": record["command"], "started": record["started"], "parents": record["parents"]}


def versions() -> dict[str, str]:
    """The versions of the packages that a run's numbers come from."""
    found: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time, in UTC and ISO 8601 to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    write_whole(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader, or a run that goes on after a kill, finds the old one or the new one.

    Raises OSError with the file's name.
    """
    part = path.with_name(path.name + ".part")
    try:
        # Half a character, of a file's name or in what a reward raised, is written as the escape that JSON has for it.
        with part.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)
        with suppress(OSError):
            part.unlink()
        raise
