"""Names of models that are no folders here: whether one can be of the hub, and the hub without waiting for it."""

from __future__ import annotations

import difflib
import json
import re
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path

from posttrain.errors import ModelError, PosttrainError, out_of_memory

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COPY = "copy the folder again, whole"
_OFFLINE = "HF_HUB_OFFLINE"
_PATIENCE = 5.0
"""Seconds in which the hub has to begin an answer; its own libraries go on asking for most of a minute."""


def reads_like_an_id(path: str) -> bool:
    """Whether `path` reads like `owner/name`, is not there, and is not a slip in a path that is."""
    return _ID.fullmatch(path) is not None and not Path(path).exists() and not Path(path).parent.is_dir()


def check_model_name(path: str) -> None:
    """Raises ModelError for what is neither a folder nor `owner/name`, with the folder that may have been meant."""
    folder = Path(path)
    if folder.is_file():
        raise ModelError(f"{path} is a file, not a model folder\n  fix: give the folder that it is in")
    if not folder.is_dir() and not reads_like_an_id(path):
        near = _near(folder)
        meant = f"; did you mean {near}?" if near else ""
        fix = "give a folder with config.json, a run folder, or a model of the hub as owner/name"
        raise ModelError(f"{path}: no such model folder{meant}\n  fix: {fix}")


def _near(folder: Path) -> Path | None:
    """The folder beside it whose name is nearest."""
    try:
        names = [entry.name for entry in folder.parent.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return None
    near = difflib.get_close_matches(folder.name, names, n=1, cutoff=0.6)
    return folder.parent / near[0] if near else None


@contextmanager
def in_our_words(path: str | Path, what: str, *, fix: str = _COPY) -> Generator[None, None, None]:
    """A place to have a library read the model `path`; its errors become a ModelError that begins with `what`.

    Files that were cut or altered make libraries raise anything. Where one of the folder's own is no JSON object, that
    is what the message names. What is out of memory stays what it is.
    """
    try:
        yield
    except BaseException as error:
        # A panic of a library written in Rust is no Exception, but an error like others.
        foreign = isinstance(error, Exception) or type(error).__name__ == "PanicException"
        if not foreign or isinstance(error, PosttrainError) or out_of_memory(error):
            raise
        raise ModelError(f"{what}: {_no_object_in(Path(path)) or _first_words(error)}\n  fix: {fix}") from error


def _first_words(error: BaseException) -> str:
    """The first line of what an error says, and the second where that one only introduces it."""
    said = [line.strip() for line in str(error).strip().splitlines()[:2]]
    return " ".join(said[: 2 if said and said[0].endswith(":") else 1]) or type(error).__name__


def _no_object_in(folder: Path) -> str | None:
    """Which JSON file of a folder holds no object, and why; None when all do."""
    for file in sorted(folder.glob("*.json")):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            return f"{file} cannot be read as JSON: {error}"
        if not isinstance(found, dict):
            return f"{file} holds a {type(found).__name__}, expected an object"
    return None


@contextmanager
def from_hub(path: str) -> Generator[None, None, None]:
    """A place to load the model `path` in, be it a folder or of the hub.

    Raises ModelError for what is neither, and where the hub does not answer and no copy of it is here.
    """
    check_model_name(path)
    if Path(path).is_dir():
        yield
        return
    with hub_or_cache() as answers:
        try:
            yield
        except (OSError, ValueError, KeyError, RuntimeError) as reason:
            if answers:
                raise
            raise ModelError(
                f"{path}: no such model folder, and the hub cannot be reached to look for a model of this name\n"
                "  fix: check the path or the network; without a network give a folder"
            ) from reason


@contextmanager
def hub_or_cache() -> Generator[bool, None, None]:
    """Whether the hub answers. Inside, while it does not, its libraries look for copies on this machine only."""
    from huggingface_hub import constants, logging  # noqa: PLC0415 - slow to import: only for names of the hub

    logging.set_verbosity_error()
    answers = _answers(int(time.monotonic() // 60))
    with ExitStack() as stack:
        for module in (constants, sys.modules.get("datasets.config")):
            if module is not None and not answers:
                stack.callback(setattr, module, _OFFLINE, getattr(module, _OFFLINE))
                setattr(module, _OFFLINE, True)
        yield answers


@lru_cache(maxsize=1)
def _answers(minute: int) -> bool:
    """Whether the hub answers, with whatever; asked at most once a minute."""
    from huggingface_hub import constants, get_session, is_offline_mode  # noqa: PLC0415 - as above

    if is_offline_mode():
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
    except Exception:  # each library of sessions has errors of its own
        return False
    return True
