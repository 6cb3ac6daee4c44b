"""Whether a run may write into a folder, whether it goes on there, and what of an earlier run it removes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from tempfile import TemporaryFile

from posttrain.config import Settings
from posttrain.engine.sealed import steps_in
from posttrain.errors import FolderError, RunExists
from posttrain.run.folder import Facts, Run
from posttrain.run.lock import FolderLock, not_writable
from posttrain.run.record import new_record
from posttrain.run.same import differences, remarks
from posttrain.run.trackers import check_tracker

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
    "classifier.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "README.md",
    "report.html",
)
_RECORDED = tuple(
    f"run/{name}"
    for name in (
        "config.yaml", "run.json", "metrics.jsonl", "samples.jsonl", "problems.jsonl", "reward_failures.jsonl",
        "fingerprints.jsonl", "log.txt",
    )
)  # fmt: skip


class Way(Enum):
    """What a command does with its folder."""

    START = auto()
    RESUME = auto()
    DONE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a command does with its folder, and the lines to say of it."""

    way: Way
    remarks: list[str] = field(default_factory=list[str])


def check_out(
    config: Settings, out: str, *, fresh: bool, lineage: Mapping[str, str] | None = None, data: Sequence[str] = ()
) -> None:
    """Raises what `RunWriter.create` would raise; changes nothing. For before a model is loaded.

    Also raises ModelError for a model of `lineage` that is a run which did not finish.
    """
    check_tracker(getattr(config, "track", None))
    path = Path(out)
    check_free(path, [*(lineage or {}).values(), *data])
    for name in (lineage or {}).values():
        Run(Path(name)).require_done()
    if judge(path, new_record(config, lineage or {}, data), config, fresh=fresh).way is Way.DONE:
        return
    check_writable(path)
    if (path / "run" / "lock").exists():
        FolderLock.take(path).release()


def judge(path: Path, record: Facts, config: Settings, *, fresh: bool) -> Verdict:
    """What to do with `path`, which no other process writes. Raises RunExists when it holds another run.

    An earlier run that left neither a checkpoint nor weights has nothing to lose: whatever the settings, it is started
    over.
    """
    earlier = Run(path)
    if fresh or not earlier.exists():
        return Verdict(way=Way.START)
    differing = differences(earlier, record, config)
    done = earlier.status == "done"
    resumable = bool(steps_in(path / "run" / "checkpoints"))
    if differing and (done or resumable or _has_weights(path)):
        shown = "\n".join(f"    {line}" for line in differing)
        fix = "fix: give another --out, or --fresh to remove that run"
        raise RunExists(f"{path} holds another run; what differs (there -> here):\n{shown}\n  {fix}")
    if done:
        return Verdict(way=Way.DONE)
    if resumable:
        return Verdict(way=Way.RESUME, remarks=remarks(earlier, config))
    lines = [f"{path} held a run that saved nothing: started over"] if earlier.metrics or differing else []
    return Verdict(way=Way.START, remarks=[*lines, *differing])


def _has_weights(path: Path) -> bool:
    return next(path.glob("*.safetensors"), None) is not None


def check_free(path: Path, needed: Sequence[str] = ()) -> None:
    """Raises RunExists for a file, and for a folder that no run wrote.

    And for a folder that holds what the new run `needed`: its model or data would be lost.
    """
    for name in needed:
        if Path(name).exists() and path.resolve() in (Path(name).resolve(), *Path(name).resolve().parents):
            raise RunExists(f"{path} holds {name}, which this run reads\n  fix: give another --out")
    if path.exists() and not path.is_dir():
        raise RunExists(f"{path} is a file\n  fix: give another --out")
    if folder := next((path / name for name in (*_OURS, *_RECORDED) if (path / name).is_dir()), None):
        raise RunExists(f"{folder} is a folder, where a run writes a file\n  fix: give another --out, or remove it")
    names = sorted(item.name for item in path.iterdir()) if path.is_dir() else []
    begun = names == ["run"] and not any((path / "run").iterdir())  # by a run that was killed before its lock stood
    if names and not begun and not Run(path).exists() and not (path / "run" / "lock").exists():
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        raise RunExists(f"{path} holds files that no run wrote: {shown}\n  fix: give another --out, or an empty folder")


def check_writable(path: Path) -> None:
    """Raises FolderError when neither the folder nor, where there is none yet, the one to make it in can be written."""
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        if not place.is_dir():
            raise NotADirectoryError(0, f"{place} is a file")
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(0, f"no permission to write in {place}")
        # Some places give permission and still take no file: a disk mounted to be read, /proc.
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise not_writable(path, error) from error


def check_file_out(out: str, reads: Sequence[str], *, over: bool = False) -> None:
    """Raises RunExists for a file to write that stands already, unless it may be written `over`, and for a folder.

    And, always, for one of the files that the command `reads`. Raises FolderError where no file can be written. For
    before anything is loaded: an answer that cannot be written is lost.
    """
    path = Path(out)
    if any(Path(name).exists() and path.resolve() == Path(name).resolve() for name in reads):
        raise RunExists(f"{path} is what this command reads\n  fix: give another --out")
    if path.is_dir():
        raise RunExists(f"{path} is a folder\n  fix: give the name of a file in it, such as --out {path / 'out.jsonl'}")
    if path.is_file() and not over:
        raise RunExists(f"{path} exists\n  fix: give another --out, or remove it")
    if not path.exists():
        check_writable(path.parent)


def clear(path: Path) -> None:
    """Remove what runs write into their folder, and nothing else; the lock stays, since it is held.

    First goes what says that there is a run: a kill further on leaves none that is done and has lost its model.
    """
    (path / "run" / "run.json").unlink(missing_ok=True)
    clear_model(path)
    for item in (path / "run").iterdir() if (path / "run").is_dir() else ():
        if item.is_dir():
            shutil.rmtree(item)
        elif item.name != "lock":
            item.unlink()


def tidy(path: Path) -> None:
    """Remove the checkpoints of a run that is done, where a kill came between its end and their removal."""
    checkpoints = path / "run" / "checkpoints"
    if not checkpoints.is_dir():
        return
    with suppress(RunExists, FolderError):  # another process is at it, or only reading is allowed
        lock = FolderLock.take(path)
        if Run(path).status == "done":
            shutil.rmtree(checkpoints, ignore_errors=True)
        lock.release()


def clear_model(path: Path) -> None:
    """Remove the model that a run wrote: one that was not finished may be torn."""
    for pattern in _OURS:
        for item in path.glob(pattern):
            if not item.is_dir():
                item.unlink()
