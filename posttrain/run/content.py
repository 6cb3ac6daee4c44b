"""What files hold, as a hash: whether data, code or a model changed under a run."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from functools import lru_cache
from hashlib import file_digest, sha256
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

_WHOLE = 16 * 2**20
_END = 2**20
_BLOCKS, _BLOCK = 64, 2**16
_MODEL = frozenset({".safetensors", ".json", ".jinja", ".model", ".txt", ".tiktoken", ".bpe", ".spm"})
_DATABASE = b"SQLite format 3\x00"


def content_hash(path: Path) -> str:
    """The sha256 of a file, or of all files of a folder with their names; a file is read once in a process.

    That of a database goes by its rows, wherever they stand: the newest are in a log beside the file.
    """
    if path.is_dir():
        parts = [f"{item.relative_to(path)} {content_hash(item)}" for item in sorted(path.rglob("*")) if item.is_file()]
        return sha256("\n".join(parts).encode()).hexdigest()
    if _is_database(path):
        with suppress(sqlite3.Error, UnicodeDecodeError):  # what is wrong with it is said where its rows are read
            return _database_hash(path)
    facts = path.stat()
    return _file_hash(os.fspath(path.resolve()), facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=1024)
def _file_hash(path: str, size: int, mtime: int) -> str:
    """The size and time are for the cache: with another of either the file is read again."""
    with open(path, "rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_DATABASE)) == _DATABASE


def _database_hash(path: Path) -> str:
    digest = sha256()
    with closing(sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True)) as connection:
        for line in connection.iterdump():
            digest.update(line.encode())
    return digest.hexdigest()


def model_hash(folder: Path) -> str:
    """A hash of a model folder's weights, configs and tokenizer that does not read all of large files.

    The card, and what else lies there, does not count. A file over 16 MB counts with its size, its first and last MB
    and 64 blocks of 64 KB spread evenly between: what training changes it changes nearly everywhere. Hidden files and
    folders within are left out.
    """
    found = (item for item in folder.iterdir() if item.suffix in _MODEL and not item.name.startswith("."))
    files = sorted(item for item in found if item.is_file())
    return sha256("\n".join(f"{item.name} {_sampled(item)}" for item in files).encode()).hexdigest()


def _sampled(path: Path) -> str:
    size = path.stat().st_size
    if size <= _WHOLE:
        return content_hash(path)
    with path.open("rb") as file:
        return f"{size} {_samples(file, size)}"


def _samples(file: BinaryIO, size: int) -> str:
    digest = sha256(file.read(_END))
    for number in range(_BLOCKS):
        file.seek(_END + number * (size - 2 * _END) // _BLOCKS)
        digest.update(file.read(_BLOCK))
    file.seek(size - _END)
    digest.update(file.read(_END))
    return digest.hexdigest()
