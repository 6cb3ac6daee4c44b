"""The fingerprint of every step, as a run's file holds it: what it read, its loss, and each weight after it.

`run/fingerprints.jsonl` begins with a line of its format and the names of the weights; then each step has a line: the
numbers of its batch and loss in hexadecimal, those of its weights in base64, 32 bits each, the lowest byte first.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from struct import pack, unpack
from typing import Any, cast

from posttrain.errors import DataError, Problem

FILE = "fingerprints.jsonl"
FORMAT = 1
FIX = "restore the file from a copy; to write into the folder again: another --out, or --fresh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What names a step: `batch` and `loss` are empty for step 0, the weights before the first one."""

    step: int
    batch: str
    loss: str
    weights: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A step as it is kept; `weights` are the bytes of the numbers in the order of the names."""

    batch: str
    loss: str
    weights: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprints:
    """The fingerprints of a run, by step: all that it has, none where its file is missing."""

    names: tuple[str, ...] = ()
    steps: Mapping[int, Kept] = field(default_factory=dict[int, Kept])

    def weights(self, step: int) -> dict[str, int]:
        """The number of each weight after a step."""
        kept = self.steps[step].weights
        return dict(zip(self.names, unpack(f"<{len(self.names)}I", kept), strict=True))


def heading(names: Sequence[str]) -> dict[str, object]:
    """The first line of the file."""
    return {"format": FORMAT, "weights": [*names]}


def line(found: Fingerprint) -> dict[str, object]:
    """The line of a step."""
    numbers = pack(f"<{len(found.weights)}I", *found.weights.values())
    return {"step": found.step, "batch": found.batch, "loss": found.loss, "weights": b64encode(numbers).decode()}


def read_fingerprints(path: Path) -> Fingerprints:
    """What a file of fingerprints holds; a last line that a kill cut short is left out.

    Raises DataError with file and line where one is not as it was written.
    """
    rows = json_lines(path)
    if not rows:
        return Fingerprints()
    number, first = rows[0]
    names = first.get("weights")
    if first.get("format") != FORMAT or not isinstance(names, list) or not names:
        raise _damaged(path, number, f"expected the names of the weights and format {FORMAT}")
    known = tuple(str(name) for name in cast("list[object]", names))
    steps: dict[int, Kept] = {}
    last = -1
    for number, row in rows[1:]:
        step, kept = _kept(path, number, row, len(known))
        if step <= last:
            raise _damaged(
                path, number, f"step {step} stands after step {last}" if steps else f"there is no step {step}"
            )
        steps[step] = kept
        last = step
    return Fingerprints(names=known, steps=steps)


def last_weights(path: Path, step: int) -> dict[str, int]:
    """The number of each weight after a step; none where the file does not tell them."""
    try:
        found = read_fingerprints(path)
    except DataError:
        return {}
    return found.weights(step) if step in found.steps else {}


def _kept(path: Path, number: int, row: Mapping[str, Any], count: int) -> tuple[int, Kept]:
    step, batch, loss, weights = (row.get(name) for name in ("step", "batch", "loss", "weights"))
    if (
        isinstance(step, bool)
        or not isinstance(step, int)
        or not all(isinstance(x, str) for x in (batch, loss, weights))
    ):
        raise _damaged(path, number, "expected step, batch, loss and weights")
    try:
        numbers = b64decode(str(weights), validate=True)
    except ValueError as error:
        raise _damaged(path, number, "weights are not in base64") from error
    if len(numbers) != 4 * count:
        raise _damaged(path, number, f"has {len(numbers):,} bytes of weights, and needs {4 * count:,}")
    return step, Kept(batch=str(batch), loss=str(loss), weights=numbers)


def json_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file that a run wrote, each with the number of its line; none when there is no file.

    A last line without its end is left out: a kill cut it short, or it is being written. Raises DataError for others
    that are no object.
    """
    rows: list[tuple[int, dict[str, Any]]] = []
    if not path.is_file():
        return rows
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if not text.endswith(b"\n"):
                break
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise _damaged(path, number, "is not JSON") from error
            if not isinstance(row, dict):
                raise _damaged(path, number, "is no object")
            rows.append((number, cast("dict[str, Any]", row)))
    return rows


def _damaged(path: Path, number: int, what: str) -> DataError:
    fix = f"remove {path.name} to compare by what is left" if path.name == FILE else FIX
    return DataError([Problem(place=f"{path}:{number}", what=f"damaged: {what}", fix=fix)])
