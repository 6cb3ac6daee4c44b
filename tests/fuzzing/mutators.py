"""Files of every type changed at random, and inputs of several files of which some are changed, gone or exchanged."""

from __future__ import annotations

import gzip
import random
import sqlite3
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from .plain_changes import (
    BYTES,
    JSON,
    LINES,
    TABLES,
    Mutator,
    cut,
    flip,
    inserted,
    node_changed,
    parsed,
    spelled,
    twice,
)
from .yaml_changes import YAML

Files: TypeAlias = Mapping[str, bytes]
"""What an input is: files by name. A name that ends with a slash is a folder that stands where a file should."""


# --- files of tensors, databases, compressed files --------------------------------------------------------------------


def header_changed(data: bytes, rng: random.Random) -> bytes:
    """The JSON at the beginning of a safetensors file, with one node changed, its length right or wrong."""
    size = int.from_bytes(data[:8], "little")
    tree = parsed(data[8 : 8 + size])
    if tree is None:
        return flip(data, rng)
    header = spelled(node_changed(tree, rng), rng)
    said = len(header) if rng.random() < 0.8 else rng.choice((0, 2**63, len(header) + 1, len(data) * 2))
    return said.to_bytes(8, "little") + header + data[8 + size :]


def row_changed(data: bytes, rng: random.Random) -> bytes:
    """A database whose cells hold something else, whatever its own checks say."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.db"
        path.write_bytes(data)
        try:
            with closing(sqlite3.connect(path)) as connection:
                _change_cell(connection, rng)
        except sqlite3.Error:
            return flip(data, rng)
        return path.read_bytes()


def _change_cell(connection: sqlite3.Connection, rng: random.Random) -> None:
    connection.execute("PRAGMA ignore_check_constraints = ON")
    connection.execute("PRAGMA journal_mode = DELETE")
    for name in [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")]:
        connection.execute(f"DROP TRIGGER {name}")
    table, columns = rng.choice(
        (
            ("items", ("id", "prompt", "responses", "seed", "audit")),
            ("events", ("item", "annotator", "kind", "payload")),
        )
    )
    column = rng.choice(columns)
    rows = connection.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
    number, old = rng.choice(rows)
    tree = parsed(old.encode()) if isinstance(old, str) else None
    fresh: Any = (
        spelled(node_changed(tree, rng), rng) if tree is not None else rng.choice((None, b"\xff", 2**62, "", 1.5))
    )
    if isinstance(fresh, bytes) and rng.random() < 0.9:
        fresh = fresh.decode("utf-8", "replace")
    connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (fresh, number))
    if rng.random() < 0.1:
        connection.execute(
            rng.choice(("DROP TABLE events", "PRAGMA user_version = 99", "ALTER TABLE items RENAME TO x"))
        )
    connection.commit()


def inside(data: bytes, rng: random.Random, name: str) -> bytes:
    """What a gzip file holds changed, or the file itself."""
    if rng.random() < 0.4:
        return rng.choice(BYTES)(data, rng)
    try:
        plain = gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        return flip(data, rng)
    return gzip.compress(rng.choice(mutators_of(name))(plain, rng), mtime=0)


_BY_TYPE: Mapping[str, Sequence[Mutator]] = {
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), JSON),
    **dict.fromkeys((".yaml", ".yml"), YAML),
    **dict.fromkeys((".csv", ".tsv"), TABLES),
    **dict.fromkeys((".txt", ".py", ".jinja", ".md"), LINES),
    ".safetensors": (flip, cut, twice, inserted, *[header_changed] * 6),
    ".db": (flip, flip, cut, *[row_changed] * 8),
}


def mutators_of(name: str) -> Sequence[Mutator]:
    """What can be wrong with a file of this name."""
    return _BY_TYPE.get(PurePosixPath(name).suffix.lower(), BYTES)


def mutated(files: Files, others: Sequence[Files], rng: random.Random, *, fixed: frozenset[str]) -> dict[str, bytes]:
    """The files with one or more of them changed, but for those `fixed`; `others` lend whole files or pieces."""
    names = sorted(name for name in files if name not in fixed)
    changed = dict(files)
    for _ in range(rng.choice((1, 1, 1, 1, 2))):
        name = rng.choice(names)
        if name not in changed:
            continue
        if rng.random() < 0.06:
            _misplace(changed, name, [each for each in names if each in changed], others, rng)
            continue
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            if name.endswith(".gz"):
                changed[name] = inside(changed[name], rng, name.removesuffix(".gz"))
            else:
                changed[name] = rng.choice(mutators_of(name))(changed[name], rng)
    return changed


def _misplace(
    changed: dict[str, bytes], name: str, names: Sequence[str], others: Sequence[Files], rng: random.Random
) -> None:
    """A file gone, a folder in its place, another file's content, or two files in one."""
    lent = rng.choice([data for files in others for data in files.values()])
    change = rng.randrange(5)
    if change == 0 and len(changed) > 1:
        del changed[name]
    elif change == 1:
        del changed[name]
        changed[f"{name}/"] = b""
    elif change == 2:
        changed[name] = lent
    elif change == 3:
        place = rng.randint(0, len(changed[name]))
        changed[name] = changed[name][:place] + lent + changed[name][place:]
    else:
        other = rng.choice(names)
        changed[name], changed[other] = changed[other], changed[name]
