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
_STEP = re.compile(r"step-([0-9]{6}|[1-9][0-9]{6,})")


def write_sealed(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fills a folder so that a kill at any instant leaves it whole or absent. An earlier one of that name is replaced.

    Sizes and sha256 of all files are written last; then the folder gets its name. Raises OSError.
    """
    part = folder.with_name(folder.name + ".part")
    _remove(part)
    part.parent.mkdir(exist_ok=True)  # not the ones above it: a run folder that is gone is not made again
    part.mkdir()
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


def damage(folder: Path, *, content: bool = True) -> str | None:
    """What is wrong with a sealed folder, in a few words; None when every byte is as it was written.

    Without `content` names and sizes alone are looked at, which takes no time.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            return f"its format is {str(manifest['format'])[:40]}, known is {FORMAT}"
        facts = {str(name): (int(fact["bytes"]), str(fact["sha256"])) for name, fact in manifest["files"].items()}
        names = {item.name for item in folder.iterdir()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return f"its {MANIFEST} is missing or damaged"
    for name, (size, digest) in facts.items():
        wrong = _wrong(folder / Path(name).name, name, size, digest if content else None)
        if wrong is not None:
            return wrong
    strange = sorted(names - facts.keys() - {MANIFEST})
    return f"{strange[0]} is not in its {MANIFEST}" if strange else None


def _wrong(file: Path, name: str, size: int, digest: str | None) -> str | None:
    """What is wrong with one file of a sealed folder, its content included where a `digest` is given."""
    try:
        if not file.is_file():
            return f"{name} is missing"
        found = file.stat().st_size
        if found != size:
            return f"{name} has {found:,} of {size:,} bytes"
        if digest is not None and _sha256(file) != digest:
            return f"{name} has other content than was written"
    except OSError as error:
        return f"{name} cannot be read: {(error.strerror or str(error)).lower()}"
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
