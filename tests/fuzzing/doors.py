"""What a kind of input is: valid files to begin with, and the door that a user's file of that kind goes through."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from posttrain.errors import PosttrainError

from .mutators import Files

Result = TypeVar("Result")


class Broken(AssertionError):
    """Something that must hold for every input did not."""


def law(holds: object, what: str) -> None:
    """Raises Broken, with what should have held, unless it does."""
    if not holds:
        raise Broken(what)


class Told:
    """What the package said of an input. Its own errors are refusals, which must name one of the `names`."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.refusals: list[str] = []

    def attempt(self, call: Callable[[], Result], *also: str) -> Result | None:
        """What a call returns; None where the package refuses the input. Any other error goes on.

        A refusal may name one of `also` instead.
        """
        try:
            return call()
        except PosttrainError as error:
            said = str(error)
            law(said.strip(), f"a {type(error).__name__} says nothing")
            names = [name for name in (*self.names, *also) if name]
            law(any(name in said for name in names), f"a refusal names none of {', '.join(names)}: {said}")
            self.refusals.append(said)
            return None


def _as_they_are(files: Files, rng: random.Random) -> Files:
    return files


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """`seeds` are valid inputs. `door` takes the folder in which one lies, and says whether it is of use.

    `fixed` are files that are left as they are. `after` makes a changed input consistent again, so that what stands
    behind a checksum is reached. Of inputs of all kinds this one gets its `share`, beside those of the others.
    """

    name: str
    seeds: Callable[[], Sequence[Files]]
    door: Callable[[Path, Told], bool]
    fixed: frozenset[str] = field(default_factory=frozenset[str])
    after: Callable[[Files, random.Random], Files] = _as_they_are
    share: float = 1.0


def written(files: Mapping[str, bytes], folder: Path) -> None:
    """Writes an input into an empty folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        else:
            path.write_bytes(data)


def names_of(files: Files) -> list[str]:
    """What a message may call an input: its files by their last name, and the folder of each."""
    return sorted({part for name in files for part in Path(name).parts})


def through(kind: Kind, files: Files, folder: Path) -> bool:
    """Whether an input is of use, written into an empty folder. Raises whatever is no error of the package's own.

    A warning is an error, and so is an error where none can be raised, which Python prints.
    """
    written(files, folder)
    told = Told(names_of(files))
    unseen: list[str] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda found: unseen.append(f"{found.object}: {found.exc_value}")
    try:
        with warnings.catch_warnings(), chdir(folder):
            warnings.simplefilter("error")
            used = kind.door(folder, told)
    finally:
        sys.unraisablehook = before
    law(not unseen, f"an error that nobody could catch was printed: {unseen[:1]}")
    law(used or told.refusals, "it is of no use, and nobody says why")
    return used
