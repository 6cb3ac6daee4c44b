"""What run.json says of a run before its first step: where it comes from and what it runs on."""

from __future__ import annotations

import json
import os
import platform
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from uuid import uuid4

from posttrain.config import RewardItem, Settings
from posttrain.config.rewards import source_of
from posttrain.engine.sealed import flush
from posttrain.errors import ModelError
from posttrain.models.cards import facts_in
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

    The content of a folder, and of the one that an adapter stands on, goes by `model_hash`; what a hub id stands for
    is not looked up. A run that has not finished is no model yet.
    """
    run = Run(Path(model))
    if not run.exists():
        return {"name": model, **_content(Path(model))}
    record = run.record
    facts = {"name": model, **{name: record[name] for name in ("command", "started", "parents")}}
    return {**facts, **_content(Path(model))} if record["status"] == "done" else facts


def _content(folder: Path) -> Facts:
    """The hash of a model folder, and of what it stands on; nothing for what is no folder."""
    if not folder.is_dir():
        return {}
    base = _base(folder)
    return {"content": model_hash(folder), **({} if base is None else {"base": model_hash(base)})}


def _base(folder: Path) -> Path | None:
    """The folder of the full weights that an adapter was trained on; none where that cannot be read."""
    base, passed = folder, {folder}
    with suppress(ModelError, OSError, ValueError):
        while (config := base / "adapter_config.json").is_file():
            base = Path(facts_in(config, {"base_model_name_or_path": str})["base_model_name_or_path"])
            if base in passed or not base.is_dir():
                return None
            passed.add(base)
        return None if base == folder else base
    return None


def versions() -> dict[str, str]:
    """The versions of the packages that a run's numbers come from."""
    return {package: found for package in _PACKAGES if (found := _version(package)) is not None}


@cache
def _version(package: str) -> str | None:
    """The version of a package, None without it; read from its files once in a process, which takes milliseconds."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """The model of the processor, as the system names it; empty where it does not."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor()


def now() -> str:
    """The time, in UTC and ISO 8601 to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def write_json(path: Path, value: object) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    write_whole(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader, or a run that goes on after a kill, finds the old one or the new one.

    The new one is on the disk, name and all, when this returns. Raises OSError with the file's name.
    """
    part = path.with_name(path.name + ".part")
    try:
        # Half a character, of a file's name or in what a reward raised, is written as the escape that JSON has for it.
        with part.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        flush(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)
        with suppress(OSError):
            part.unlink()
        raise
