"""Which weights of two folders have other bits, read from their files without a model or a tensor library."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

from posttrain.errors import DataError, Problem

_PLACES = ("", "run/critic", "run/best", "run/ema")
_LONGEST = 100 * 2**20
_BLOCK = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsCompared:
    """The tensors of two folders by name; those of a critic or of a kept model stand behind the name of its folder.

    `differing`: of the `common` ones those with another type, shape or bit. The others are in one folder `alone`.
    """

    common: int
    differing: tuple[str, ...]
    alone: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def same(self) -> bool:
        """Whether both folders hold the same tensors, bit for bit."""
        return not self.differing and self.alone == ((), ())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    file: Path
    kind: object
    begin: int
    size: int


def compare_weights(first: Path, second: Path) -> WeightsCompared:
    """How the saved weights of two run folders differ. Raises DataError for a file that is not whole."""
    one, other = _tensors(first), _tensors(second)
    common = [name for name in one if name in other]
    return WeightsCompared(
        common=len(common),
        differing=tuple(name for name in common if not _same(one[name], other[name])),
        alone=(tuple(name for name in one if name not in other), tuple(name for name in other if name not in one)),
    )


def _tensors(folder: Path) -> dict[str, _Tensor]:
    found: dict[str, _Tensor] = {}
    for place in _PLACES:
        for file in sorted(item for item in (folder / place).glob("*.safetensors") if item.is_file()):
            found |= {f"{place}/{name}" if place else name: tensor for name, tensor in _in_file(file)}
    return found


def _in_file(file: Path) -> Iterator[tuple[str, _Tensor]]:
    """The tensors of a file from its header: a length of 8 bytes, JSON, then their bytes."""
    total = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        try:
            if total < 8 or length > min(_LONGEST, total - 8):
                raise ValueError
            header = cast("dict[str, Any]", json.loads(opened.read(length)))
            for name, facts in header.items():
                if name == "__metadata__":
                    continue
                begin, end = (int(place) for place in facts["data_offsets"])
                shape = [int(size) for size in facts["shape"]]
                if not 0 <= begin <= end <= total - 8 - length or prod(shape) * 8 < (end - begin):
                    raise ValueError
                kind = facts["dtype"], shape
                yield name, _Tensor(file=file, kind=kind, begin=8 + length + begin, size=end - begin)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            fix = "train the run again with --fresh"
            raise DataError([Problem(place=str(file), what="is no whole file of weights", fix=fix)]) from error


def _same(one: _Tensor, other: _Tensor) -> bool:
    if (one.kind, one.size) != (other.kind, other.size):
        return False
    with one.file.open("rb") as first, other.file.open("rb") as second:
        return all(mine == theirs for mine, theirs in zip(_blocks(first, one), _blocks(second, other), strict=True))


def _blocks(file: BinaryIO, tensor: _Tensor) -> Iterator[bytes]:
    file.seek(tensor.begin)
    for place in range(0, tensor.size, _BLOCK):
        yield file.read(min(_BLOCK, tensor.size - place))
