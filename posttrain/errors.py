"""What can go wrong, in the words of the person who can mend it. Every error carries its exit code."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

# Packages that are installed only when asked for, and the extra that brings each.
_EXTRAS = {"datasets": "hub", "vaderSentiment": "stories"}

# How torch, the system and a GPU's libraries say that there is no more memory, where their error has no type for it.
_NO_MEMORY = ("t allocate memory", "Cannot allocate memory", "std::bad_alloc", "_ALLOC_FAILED", "CUDA out of memory")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong: where it stands (`file:line`, a flag or a folder), what it is, and how to mend it."""

    place: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        line = f"{self.place}  {self.what}" if self.place else self.what
        return f"{line}\n  fix: {self.fix}" if self.fix else line


class PosttrainError(Exception):
    """The package's own errors: raised for what the user can mend, printed without a traceback."""

    exit_code = 2


class ConfigError(PosttrainError, ValueError):
    """A setting is wrong. `problems` holds all of them, not only the first, and the message shows them all."""

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        self.problems = _as_problems(problems)
        super().__init__(_listing(self.problems, most=len(self.problems)))


class DataError(PosttrainError, ValueError):
    """Rows of a data file are wrong. `problems` holds all of them; the message shows the first five."""

    def __init__(self, problems: Sequence[Problem] | str) -> None:
        self.problems = _as_problems(problems)
        super().__init__(_listing(self.problems))


class ModelError(PosttrainError, ValueError):
    """A model folder cannot be used: no weights, no tokenizer, or outputs that differ from the model's own."""


class RunExists(PosttrainError, FileExistsError):
    """The output path already holds something that this run would write over."""


class FolderError(PosttrainError, OSError):
    """The output path cannot be written to."""


class Interrupted(KeyboardInterrupt):
    """A run was asked to stop, and did so with nothing lost; the message says where it goes on. Exit code 130."""


class DoesNotFit(PosttrainError, MemoryError):
    """The run needs more memory or disk than there is."""

    exit_code = 3


class Diverged(PosttrainError, ArithmeticError):
    """A loss or gradient was not finite, or a trip wire fired; nothing was updated with it."""

    exit_code = 4


class Tripped(Diverged):
    """A rule of `stop_if` was broken: the run has gone wrong, and is stopped with what it kept."""


class LawBroken(PosttrainError, AssertionError):
    """A self-test measured something that theory does not allow. `broken` names the laws."""

    exit_code = 1

    def __init__(self, broken: Sequence[str]) -> None:
        self.broken = tuple(broken)
        named = "".join(f"\n  {law}" for law in self.broken)
        fix = "reinstall, run it again with OMP_NUM_THREADS=1, and report it with the output of --json"
        super().__init__(f"{len(self.broken)} of the laws do not hold here{named}\n  fix: {fix}")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of whoever says that no more memory was to be had; not one of our own, which says what to do."""
    if isinstance(error, PosttrainError):
        return False
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | OSError) and any(sign in str(error) for sign in _NO_MEMORY)


def unforeseen(error: Exception) -> tuple[str, int]:
    """The message and exit code of an error that is none of the package's own."""
    if out_of_memory(error):
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        fix = "end other programs that hold memory, a smaller micro_batch_tokens, or a smaller model"
        return f"out of memory: {said}\n  fix: {fix}", DoesNotFit.exit_code
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        fix = f"pip install 'posttrain[{_EXTRAS[error.name]}]'"
        return f"the package {error.name} is not installed\n  fix: {fix}", PosttrainError.exit_code
    if disk_is_full(error):
        place = getattr(error, "filename", None) or "a file"
        return f"{place}  cannot be written: {why_full(error)}\n  fix: free some space", DoesNotFit.exit_code
    if isinstance(error, OSError) and error.filename is not None:
        why = (error.strerror or str(error)).lower()
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            fix = "give another --out, or change the rights of the folder"
            return f"{error.filename}  cannot be opened: {why}\n  fix: {fix}", PosttrainError.exit_code
    return f"{type(error).__name__}: {error}", 1


def disk_is_full(error: Exception) -> bool:
    """Whether a file could not be written for want of room, be it of the disk, of a quota or of a limit."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _FULL
    # Writers in other languages tell the system's number in their text alone.
    return any(f"os error {number})" in str(error) for number in _FULL)


def why_full(error: Exception) -> str:
    """The system's reason of an error of a full disk."""
    return (getattr(error, "strerror", None) or os.strerror(errno.ENOSPC)).lower()


def _as_problems(problems: Sequence[Problem] | str) -> tuple[Problem, ...]:
    if isinstance(problems, str):
        return (Problem(place="", what=problems),)
    return tuple(problems)


def _listing(problems: Sequence[Problem], *, most: int = 5) -> str:
    if len(problems) == 1:
        return str(problems[0])
    shown = "\n".join(f"  {str(problem).replace(chr(10), chr(10) + '  ')}" for problem in problems[:most])
    more = f"\n  and {len(problems) - most} more" if len(problems) > most else ""
    return f"{len(problems)} problems\n{shown}{more}"
