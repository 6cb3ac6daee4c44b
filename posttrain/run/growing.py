"""Files that grow by lines, also while the disk is full: what finds no room waits in memory, in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from posttrain.engine.sealed import flush
from posttrain.errors import disk_is_full


class Growing:
    """Files of one folder that grow by lines. Two threads may use it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: dict[str, bytes] = {}
        self._lock = Lock()

    def append(self, name: str, line: str) -> None:
        """Adds a line to a file; on a full disk it waits. Raises OSError where a file cannot be written otherwise.

        Half a character is written as its escape.
        """
        added = line.encode(errors="backslashreplace") + b"\n"
        with self._lock:
            self._waiting[name] = self._waiting.get(name, b"") + added
            try:
                for one in (name, *(other for other in self._waiting if other != name)):
                    self._write(one)
            except OSError as error:
                if not disk_is_full(error):
                    raise

    def size(self, name: str) -> int:
        """Bytes of a file once all that waits is written."""
        file = self._folder / name
        with self._lock:
            return (file.stat().st_size if file.is_file() else 0) + len(self._waiting.get(name, b""))

    @property
    def waiting(self) -> list[str]:
        """The files that have lines in memory."""
        with self._lock:
            return list(self._waiting)

    def write(self) -> None:
        """Writes what waits. Raises OSError."""
        with self._lock:
            for name in list(self._waiting):
                self._write(name)

    def flush(self, names: Sequence[str]) -> None:
        """What was added to these files survives a loss of power. Raises OSError while something has to wait."""
        self.write()
        for name in names:
            flush(self._folder / name)
        flush(self._folder)

    def cut(self, name: str, size: int) -> None:
        """Takes back what was added to a file beyond `size` bytes, those that wait included."""
        file = self._folder / name
        with self._lock:
            there = file.stat().st_size if file.is_file() else 0
            waiting = self._waiting.pop(name, b"")[: max(0, size - there)]
            if waiting:
                self._waiting[name] = waiting
            if there > size:
                with file.open("r+b") as opened:
                    opened.truncate(size)

    def _write(self, name: str) -> None:
        """What fits is written, half a line too: the rest comes right behind it."""
        text, file = self._waiting.pop(name), self._folder / name
        try:
            with file.open("ab", buffering=0) as opened:
                while text:
                    text = text[opened.write(text) :]
        except OSError as error:
            self._waiting[name] = text
            error.filename = error.filename or str(file)
            raise
