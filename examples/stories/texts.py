"""Which stories are there to train on, and which are held out: a folder, a file, or a data set of the hub."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

from posttrain.data.readers import read
from posttrain.data.split import split
from posttrain.errors import DataError, Problem
from posttrain.types import TextRecord

HELD_OUT_NAMES = ("valid", "validation", "test")
HELD_OUT_SHARE = 0.1
HUB_LIMITS = {"train": 5_000, "validation": 1_000}
"""As many stories as the default run needs: the first of each split, streamed, so that no more is downloaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stories:
    """Texts to learn from, and texts that only the evaluation sees."""

    train: list[str]
    held_out: list[str]


def load_stories(data: str) -> Stories:
    """The stories of a folder, a file, or a hub id, without repetitions.

    A folder with `train.*` and `valid.*` (`validation.*`, `test.*`) is split as it stands; of any other folder or file
    a tenth is held out, drawn by content. Raises DataError when there are none, or when `data` is nothing of the kind.
    """
    path = Path(data).expanduser()
    if path.exists():
        stories = _of_path(path)
    elif data.count("/") == 1 and not data.startswith((".", "/", "~")):
        stories = _of_hub(data)
    else:
        raise DataError([Problem(place=data, what="there is no such file or folder", fix="check --data")])
    train = list(dict.fromkeys(stories.train))
    held_out = list(dict.fromkeys(stories.held_out).keys() - set(train))
    return Stories(train=train, held_out=sorted(held_out, key=stories.held_out.index))


def _of_path(path: Path) -> Stories:
    train = _named(path, "train")
    held_out = next((file for name in HELD_OUT_NAMES for file in _named(path, name)), None)
    if train and held_out is not None:
        return Stories(train=_texts(train[0]), held_out=_texts(held_out))
    train_texts, held_texts = split(_texts(path), HELD_OUT_SHARE, key=lambda text: text, seed=0)
    return Stories(train=train_texts, held_out=held_texts)


def _named(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{name}.*")) if folder.is_dir() else []


def _texts(path: Path) -> list[str]:
    return [cast("TextRecord", record).text for record in read(path, "text").records]


def _of_hub(name: str) -> Stories:
    try:
        from datasets import load_dataset  # noqa: PLC0415 - an optional extra, needed for hub ids alone
    except ImportError as missing:
        what = "there is no such file or folder, and hub ids need the library `datasets`"
        raise DataError(
            [Problem(place=name, what=what, fix="pip install 'posttrain[hub]', or give a path")]
        ) from missing

    def first(part: str) -> list[str]:
        rows = cast("Iterable[dict[str, str]]", load_dataset(name, split=part, streaming=True))
        return [row["text"] for row in islice(rows, HUB_LIMITS[part])]

    return Stories(train=first("train"), held_out=first("validation"))
