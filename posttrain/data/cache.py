"""Where tokens are kept between runs: entries named by their content, built aside, bounded, and safe to share.

An entry is a folder. It is built beside its place and renamed into it when it is whole, so that a kill leaves nothing
that reads like an entry; whoever reads or builds one holds a lock on its file `lock`, and only what nobody holds is
ever removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

LARGEST = 20 * 10**9
"""Bytes that entries may take together; the least recently used ones go first."""
_LOCK = "lock"
_DRAFT = ".draft-"
# A draft gets its lock a moment after its folder; one that has none after so long was left behind.
_ORPHAN_SECONDS = 3600.0


class Entry:
    """A folder of the cache, kept from removal as long as this object lives. `lock` is a locked file descriptor."""

    def __init__(self, path: Path, lock: int, cache: Cache) -> None:
        self.path = path
        self.release = weakref.finalize(self, os.close, lock)
        """Lets go of the folder: it may be removed from now on."""
        self._cache = cache


class Cache:
    """A folder of entries. `largest` bounds the bytes of all of them together."""

    def __init__(self, folder: Path, *, largest: int = LARGEST) -> None:
        self.folder = folder
        self._largest = largest

    @staticmethod
    def open(say: Callable[[str], None]) -> Cache:
        """The cache of this user; a folder that lasts as long as the process, and says so, where that is not writable.

        It is `tokens/` in $POSTTRAIN_CACHE, else in $XDG_CACHE_HOME/posttrain, else in ~/.cache/posttrain.
        """
        folder = cache_home() / "tokens"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                fcntl.flock(file, fcntl.LOCK_SH)  # some network disks have no locks
            return Cache(folder)
        except OSError as reason:
            aside = Path(tempfile.mkdtemp(prefix="posttrain-"))
            say(f"cache: {folder} cannot be used ({reason.strerror}); tokens are kept in {aside} for this run only")
            cache = Cache(aside)
            weakref.finalize(cache, shutil.rmtree, aside, ignore_errors=True)
            return cache

    def find(self, key: str) -> Entry | None:
        """The entry of a key, now the most recently used one; None when there is none."""
        path = self.folder / key
        try:
            lock = _locked(path, fcntl.LOCK_SH)
        except (FileNotFoundError, NotADirectoryError):
            return None
        # Whoever removes an entry holds its lock: it may have gone while this waited, and be there anew.
        if not _stands(path, lock):
            os.close(lock)
            return None
        with suppress(PermissionError):  # another user's
            os.utime(path / _LOCK)
        return Entry(path, lock, self)

    def build(self, key: str, make: Callable[[Path], None]) -> Entry:
        """The entry of a key, as `make` fills its folder; then entries are removed until the rest fits.

        Where there is an entry already, since another process was faster, ours is used by this process alone.
        """
        path = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self.folder))
        entry = Entry(path, _new_lock(path), self)
        try:
            make(path)
        except BaseException:
            entry.release()
            shutil.rmtree(path, ignore_errors=True)
            raise
        try:
            entry.path = path.rename(self.folder / key)  # fails on a folder that is not empty: none is ever replaced
        except OSError:
            weakref.finalize(entry, shutil.rmtree, path, ignore_errors=True)
        else:
            self._shrink(keep=key)
        return entry

    def discard(self, entry: Entry) -> None:
        """Takes a damaged entry away, unless another process reads it."""
        entry.release()
        _remove_if_free(entry.path)

    def _shrink(self, keep: str) -> None:
        """Removes what killed processes left, then entries from the least recently used on until the rest fits."""
        entries: list[tuple[float, int, Path]] = []
        for path in self.folder.iterdir():
            if path.name.startswith(_DRAFT):
                _remove_if_free(path)
            elif path.name != keep:
                with suppress(FileNotFoundError, NotADirectoryError):  # what is no entry stays
                    entries.append(((path / _LOCK).stat().st_mtime, _size(path), path))
        total = _size(self.folder / keep) + sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self._largest:
                return
            total -= size if _remove_if_free(path) else 0


def cache_home() -> Path:
    """$POSTTRAIN_CACHE, else $XDG_CACHE_HOME/posttrain, else ~/.cache/posttrain."""
    own, user = os.environ.get("POSTTRAIN_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own).expanduser()
    return (Path(user).expanduser() if user else Path.home() / ".cache") / "posttrain"


def _new_lock(path: Path) -> int:
    """A file descriptor that holds a new folder's lock, from the instant on that others can find it."""
    aside = path / f"{_LOCK}.new"
    lock = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    fcntl.flock(lock, fcntl.LOCK_SH)
    aside.rename(path / _LOCK)
    return lock


def _stands(path: Path, lock: int) -> bool:
    """Whether the folder's lock is still the file that is locked."""
    try:
        return os.path.samestat(os.fstat(lock), (path / _LOCK).stat())
    except FileNotFoundError:
        return False


def _locked(path: Path, kind: int) -> int:
    """A file descriptor that holds a folder's lock. Raises FileNotFoundError where there is none."""
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except IsADirectoryError as error:
        raise FileNotFoundError(f"{path / _LOCK} is a folder") from error
    try:
        fcntl.flock(lock, kind)
    except OSError:
        os.close(lock)
        raise
    return lock


def _remove_if_free(path: Path) -> bool:
    """Removes a folder that nobody reads or builds; True when it is gone."""
    try:
        lock = _locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        with suppress(FileNotFoundError):
            if abs(time.time() - path.stat().st_mtime) > _ORPHAN_SECONDS:  # also of a clock that was ahead
                _remove(path)
        return not path.exists()
    _remove(path)
    os.close(lock)
    return True


def _remove(path: Path) -> None:
    """Removes a folder as a whole: under its name it is there or not, never in part."""
    aside = path.with_name(f"{_DRAFT}{path.name.removeprefix(_DRAFT)}-{os.getpid()}-{time.monotonic_ns()}")
    with suppress(FileNotFoundError):
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):
        return sum(item.stat().st_size for item in path.iterdir())
    return 0
