"""What run.json says of a run before its first step: where it comes from and what it runs on."""

from __future__ import annotations

import json
import os
import platform
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import file_digest, sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from posttrain.config import Settings
from posttrain.run.folder import Facts, Run

_PACKAGES = ("posttrain", "torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")


def new_record(config: Settings, lineage: Mapping[str, str], data: Sequence[str]) -> Facts:
    """The first content of run.json; `lineage` names the models a run starts from, `data` its files."""
    return {
        "command": config.command,
        "status": "running",
        "started": now(),
        "process": os.getpid(),
        "host": socket.gethostname(),
        "seeds": {"seed": getattr(config, "seed", 0)},
        "parents": {name: _parent(model) for name, model in lineage.items()},
        "data": {name: content_hash(Path(name)) for name in data if Path(name).exists()},
        "versions": {"python": platform.python_version(), **_versions()},
        "hardware": {"platform": platform.platform(), "cores": os.cpu_count()},
    }


def _parent(model: str) -> Facts:
    """Where a model comes from: its name and, when it is a run, that run's command, start and own parents."""
    run = Run(Path(model))
    if not run.exists():
        return {"name": model}
    record = run.record
    return {"name": model, "command": record["command"], "started": record["started"], "parents": record["parents"]}


def _versions() -> dict[str, str]:
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
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def content_hash(path: Path) -> str:
    """The sha256 of a file, or of all files of a folder with their names."""
    if path.is_dir():
        parts = [f"{item.relative_to(path)} {content_hash(item)}" for item in sorted(path.rglob("*")) if item.is_file()]
        return sha256("\n".join(parts).encode()).hexdigest()
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
