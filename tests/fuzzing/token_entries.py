"""Entries of the cache of tokens: damaged ones are made again, and none is read as something else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from posttrain.data.cache import Cache
from posttrain.data.readers import open_data
from posttrain.data.tokenise import conversations, labels, rankings, targets, tokens_of
from posttrain.types import Kind as RecordKind

from .data_files import json_lines, rows_of, words
from .doors import Kind, Told, law
from .mutators import Files

ENCODERS: Mapping[str, tuple[RecordKind, Callable[[], Any]]] = {
    "response": ("chat", lambda: conversations(words(), 64, "drop", "assistant")),
    "scores": ("ranked", lambda: rankings(words(), 64, "drop")),
    "label": ("labelled", lambda: labels(words(), 64, "drop")),
    "class": ("target", lambda: targets(words(), 64, "drop")),
}


@cache
def seeds() -> Sequence[Files]:
    """The entry of each kind of rows, beside them."""
    found: list[Files] = []
    for layout in ENCODERS:
        rows = f"{layout}.jsonl"
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            (folder / rows).write_bytes(json_lines(rows_of(layout)))
            (folder / "cache").mkdir()
            entry = _entry(folder / "cache", folder / rows)
            found.append(
                {
                    rows: (folder / rows).read_bytes(),
                    **{f"entry/{p.name}": p.read_bytes() for p in sorted(entry.iterdir())},
                }
            )
    return found


def _entry(cache_folder: Path, rows: Path) -> Path:
    """The folder of the entry that rows have in a cache, made where there is none."""
    said: list[str] = []
    _tokens(cache_folder, rows, said)
    [entry] = [path for path in cache_folder.iterdir() if len(path.name) == 64]
    return entry


def _tokens(cache_folder: Path, rows: Path, said: list[str]) -> Any:
    kind, encoder = ENCODERS[rows.stem]
    return tokens_of(open_data(rows, kind, max_bad=1.0), encoder(), Cache(cache_folder), said.append, {})


def door(folder: Path, told: Told) -> bool:
    """The entry stands where the cache looks for it; what comes out are the rows, read or made again."""
    [rows] = [path for path in folder.iterdir() if path.suffix == ".jsonl"]
    kept = folder / "cache"
    kept.mkdir()
    entry = _entry(kept, rows)
    said: list[str] = []
    right = _content(_tokens(kept, rows, said))
    shutil.rmtree(entry)
    shutil.copytree(folder / "entry", entry) if (folder / "entry").is_dir() else entry.touch()
    found = told.attempt(lambda: _tokens(kept, rows, said))
    if found is not None:
        law(found.cached or said or not entry.is_dir() or not (entry / "lock").is_file(), "made again, unsaid")
        law(len(_content(found)) == len(right) or found.cached, "rows were lost")
    told.refusals += said
    return found is not None and (found.cached or not said)


def _content(tokens: Any) -> list[Any]:
    """Every row, decoded, and every column."""
    items = tokens.items
    items.lengths.sum()
    items.prompts.sum()
    items.contents.sum()
    return [(items[place], items.id_of(place)) for place in range(len(items))]


ENTRIES = Kind(name="entries", seeds=seeds, door=door, fixed=frozenset(f"{name}.jsonl" for name in ENCODERS), share=0.7)
