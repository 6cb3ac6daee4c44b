"""Whether a run may write into a folder, and what of an earlier run it removes."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from posttrain.config import Settings
from posttrain.errors import RunExists
from posttrain.run.folder import Facts, Run
from posttrain.run.record import new_record

# What a run may write into its folder, besides everything under run/. Only these are ever removed.
_OURS = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "score.safetensors",
    "reward.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "README.md",
    "report.html",
)


def check_out(
    config: Settings, out: str, *, fresh: bool, lineage: Mapping[str, str] | None = None, data: Sequence[str] = ()
) -> None:
    """Raises RunExists when `RunWriter.create` would; touches nothing. For before a model is loaded."""
    check_free(Path(out), [*(lineage or {}).values(), *data])
    if Run(Path(out)).exists() and not fresh:
        check_same(Run(Path(out)), new_record(config, lineage or {}, data), config)


def check_free(path: Path, needed: Sequence[str] = ()) -> None:
    """Raises RunExists for a file, for a folder that no run wrote, and for a run that is being written now.

    And for a folder that holds what the new run `needed`: its model or data would be lost.
    """
    for name in needed:
        if Path(name).exists() and path.resolve() in (Path(name).resolve(), *Path(name).resolve().parents):
            raise RunExists(f"{path} holds {name}, which this run reads\n  fix: give another --out")
    if path.exists() and not path.is_dir():
        raise RunExists(f"{path} is a file\n  fix: give another --out")
    run = Run(path)
    names = sorted(item.name for item in path.iterdir()) if path.is_dir() else []
    if names and not run.exists():
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        raise RunExists(f"{path} holds files that no run wrote: {shown}\n  fix: give another --out, or an empty folder")
    if names and _alive(run.record):
        raise RunExists(f"{path} is being written by process {run.record['process']}\n  fix: give another --out")


def _alive(record: Facts) -> bool:
    """True while another process of this machine writes the run."""
    process = record.get("process")
    if record["status"] != "running" or record.get("host") != socket.gethostname() or process == os.getpid():
        return False
    try:
        os.kill(cast("int", process), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def check_same(earlier: Run, record: Facts, config: Settings) -> None:
    """Raises RunExists when a run that made at least one step differs from the one about to start."""
    if earlier.status != "done" and not earlier.metrics:
        return
    differences = list(_differences(earlier, record, config))
    if differences:
        shown = "\n".join(f"    {line}" for line in differences)
        fix = "fix: give another --out, or --fresh to remove that run"
        raise RunExists(f"{earlier.path} holds another run; what differs (there -> here):\n{shown}\n  {fix}")


def _differences(earlier: Run, record: Facts, config: Settings) -> Iterator[str]:
    """One line for each setting, data file or parent that differs."""
    there = earlier.record
    if there["command"] != record["command"]:
        yield f"command: {there['command']} -> {record['command']}"
        return
    old, new = _flat(earlier.config.model_dump(mode="json")), _flat(config.model_dump(mode="json"))
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name) and name != "out":
            yield f"{name}: {_said(old.get(name))} -> {_said(new.get(name))}"
    for name in there["data"].keys() & record["data"].keys():
        if there["data"][name] != record["data"][name]:
            yield f"{name}: its content changed"
    for name in there["parents"].keys() & record["parents"].keys():
        if there["parents"][name] != record["parents"][name] and old.get(name) == new.get(name):
            yield f"{name}: {record['parents'][name]['name']} was trained again"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Facts:
    flat: Facts = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _said(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def clear(path: Path) -> None:
    """Remove what runs write into their folder, and nothing else."""
    for pattern in _OURS:
        for item in path.glob(pattern):
            item.unlink()
    if (path / "run").is_dir():
        shutil.rmtree(path / "run")
