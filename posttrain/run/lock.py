"""One process for each run folder: a lock that the system frees when its holder ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from weakref import WeakSet

from posttrain.errors import DataError, FolderError, RunExists
from posttrain.run.folder import Run

_INSTANT = 0.02
_NOT_SUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class FolderLock:
    """The right to write one run folder, held until it is released or the process ends."""

    def __init__(self, number: int) -> None:
        self._number: int | None = number
        _HELD.add(self)

    @staticmethod
    def take(folder: Path) -> FolderLock:
        """The lock on `folder`, which is made where there is none.

        Raises RunExists while another process, or another run of this one, holds it; FolderError for a folder that
        cannot be written to. A file system without locks gives a lock that keeps nobody out.
        """
        try:
            (folder / "run").mkdir(parents=True, exist_ok=True)
            number = os.open(folder / "run" / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise not_writable(folder, error) from error
        lock = FolderLock(number)
        try:
            _lock(number)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                lock.release()
                raise RunExists(f"{folder} is being written by {_holder(folder)}\n  fix: give another --out") from error
        return lock

    def release(self) -> None:
        """Frees the folder; a second call does nothing."""
        if self._number is not None:
            os.close(self._number)
            self._number = None

    def __del__(self) -> None:
        self.release()


def _lock(number: int) -> None:
    """Locks an open file. Whoever looks whether it is held (`is_held`) has it for an instant: then a second try."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(_INSTANT)
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)


_HELD: WeakSet[FolderLock] = WeakSet()


def _let_go() -> None:
    """A forked child, such as a reward function's own, must not hold the folder when this process is killed."""
    for lock in [*_HELD]:
        lock.release()


os.register_at_fork(after_in_child=_let_go)


def is_held(folder: Path) -> bool:
    """Whether a process writes the run folder at this moment.

    True also where that cannot be told: the lock may not be read, or the file system has none.
    """
    try:
        number = os.open(folder / "run" / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(number)
    return False


def _holder(folder: Path) -> str:
    run = Run(folder)
    try:
        return f"process {run.record['process']} on {run.record['host']}" if run.exists() else "another process"
    except (DataError, KeyError):  # a record that is damaged is said to whoever may write here
        return "another process"


def not_writable(folder: Path, error: OSError) -> FolderError:
    """The error for an output path that cannot be written to, with the system's reason."""
    reason = (error.strerror or str(error)).lower()
    return FolderError(f"{folder} cannot be written to: {reason}\n  fix: give an --out where you may write")
