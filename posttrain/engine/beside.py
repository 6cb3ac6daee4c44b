"""One piece of work in a thread beside the caller's, whose end and errors the caller fetches."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Beside(Generic[Result]):
    """Work that began in a thread of its own. A process that ends does not wait for it; whoever began it shall."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._made: Result | None = None
        self._error: BaseException | None = None
        self._over = Event()
        Thread(target=self._run, args=(work,), name="beside", daemon=True).start()

    @property
    def over(self) -> bool:
        """Whether it has ended, well or not."""
        return self._over.is_set()

    def end(self) -> Result:
        """What the work gave, once it has ended. Raises what the work raised, and may be asked again."""
        self._over.wait()  # not Thread.join: Python 3.11 takes a thread for ended whose join was interrupted
        if self._error is not None:
            raise self._error
        return self._made  # pyright: ignore[reportReturnType]  # without an error it was set

    def _run(self, work: Callable[[], Result]) -> None:
        try:
            self._made = work()
        except BaseException as error:  # raised again where the end is asked for
            self._error = error
        finally:
            self._over.set()
