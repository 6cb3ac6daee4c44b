"""Folders that are whole or not there: written beside, flushed, sealed with a manifest, then renamed."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from hashlib import file_digest
from pathlib import Path

MANIFEST = "manifest.json"
FORMAT = 1
_STEP = re.compile(r"step-(\d{6,})")


def write_sealed(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fills a folder so that a kill at any instant leaves it whole or absent. An earlier one of that name is replaced.

    Sizes and sha256 of all files are written last; then the folder gets its name. Raises OSError.
    """
    part = folder.with_name(folder.name + ".part")
    _remove(part)
    part.mkdir(parents=True)
    fill(part)
    names = sorted(item.name for item in part.iterdir())
    for name in names:
        flush(part / name)
    facts = {name: {"bytes": (part / name).stat().st_size, "sha256": _sha256(part / name)} for name in names}
    with (part / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, "files": facts}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    flush(part)
    remove_sealed(folder)
    part.rename(folder)
    flush(folder.parent)


def damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder, in a few words; None when every byte is as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            return f"its format is {manifest['format']}, known is {FORMAT}"
        facts = {str(name): (int(fact["bytes"]), str(fact["sha256"])) for name, fact in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return f"its {MANIFEST} is missing or damaged"
    for name, (size, digest) in facts.items():
        file = folder / Path(name).name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size:,} of {size:,} bytes"
        if _sha256(file) != digest:
            return f"{name} has other content than was written"
    return None


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step stands."""
    return folder / f"step-{step:06d}"


def steps_in(folder: Path) -> list[int]:
    """The steps that have a folder, newest first; it may be damaged. Unfinished ones have another name."""
    if not folder.is_dir():
        return []
    matches = (_STEP.fullmatch(item.name) for item in folder.iterdir())
    return sorted((int(match[1]) for match in matches if match), reverse=True)


def remove_sealed(folder: Path) -> None:
    """Removes a folder so that a kill leaves it whole or under a name that is never read."""
    if folder.is_dir():
        gone = folder.with_name(folder.name + ".gone")
        _remove(gone)
        folder.rename(gone)
        _remove(gone)


def sweep(folder: Path) -> None:
    """Removes what kills left behind: folders not finished, and folders not removed to the end."""
    if folder.is_dir():
        for item in folder.iterdir():
            if item.name.endswith((".part", ".gone")):
                _remove(item)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)


def flush(path: Path) -> None:
    """Makes a file's content, or a folder's list of names, survive a loss of power; nothing where there is none."""
    if not path.exists():
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
