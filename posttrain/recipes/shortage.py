"""A run whose memory runs out: once more from its last whole step with half the micro-batch, then a clear end."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

import torch

from posttrain.data.pack import Budget
from posttrain.engine.local import LocalEngine
from posttrain.errors import DoesNotFit, out_of_memory
from posttrain.recipes.setup import Telling


class LastStep(Protocol):
    """What knows the last whole step of a run."""

    @property
    def step(self) -> int: ...

    def back(self) -> None:
        """Everything but weights and optimizer stands as it did after the last whole step."""
        ...

    def stop(self) -> str:
        """Saves the last whole step; the words of what was kept."""
        ...


class Shortage:
    """Lets a run train on when memory runs out before an update: the step under way is forgotten and made again.

    Its micro-batches are halved once, also those that were asked for: that changes rounding alone. A second time, and
    in the middle of an update, the run ends with DoesNotFit; the last whole step is saved where it still can be.
    """

    def __init__(self, keeper: LastStep, budget: Budget, engine: LocalEngine, run: Telling) -> None:
        self._keeper = keeper
        self._budget = budget
        self._engine = engine
        self._run = run
        self._torn = False

    def whole(self, held_off: Callable[[], AbstractContextManager[None]]) -> AbstractContextManager[None]:
        """An update with its hooks: what breaks off inside is half done, and cannot be made again."""

        @contextmanager
        def watched() -> Generator[None]:
            with held_off():
                try:
                    yield
                except BaseException:
                    self._torn = True
                    raise

        return watched()

    def train(self, fit: Callable[[int], object]) -> None:
        """Calls `fit` with the step to go on from; a second time where its memory ran out. Raises DoesNotFit."""
        why = self._tried(fit)
        if why is None:
            return
        if not self._torn:
            self._halve(why)
            self._keeper.back()
            why = self._tried(fit)
        if why is not None:
            self._end(why)

    def _halve(self, why: str) -> None:
        """Half the micro-batch from here on, which is said and noted."""
        step, before = self._keeper.step + 1, self._budget.halve()
        self._run.console.say(
            f"out of memory in step {step}, which is made again: {why}; micro_batch_tokens "
            f"{before:,} -> {self._budget.tokens:,} from here on: the same method, but not bit for bit"
        )
        with suppress(OSError):  # a full disk: the next note writes this one too
            self._run.writer.note(shortage={"step": step, "micro_batch_tokens": [before, self._budget.tokens]})

    def _tried(self, fit: Callable[[int], object]) -> str | None:
        """Why memory ran out, in the words of whoever needed some; None where all went well.

        Only the words are kept: with the error the memory of all that was under way would live on.
        """
        try:
            fit(self._keeper.step)
        except Exception as error:
            if not out_of_memory(error):
                raise
            why = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        else:
            return None
        self._engine.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return why

    def _end(self, why: str) -> None:
        where = "inside the update" if self._torn else "before its update"
        kept = "the checkpoint before it stands; the same command goes on" if self._torn else self._keeper.stop()
        raise DoesNotFit(
            f"out of memory in step {self._keeper.step + 1}, {where}, "
            f"with micro_batch_tokens {self._budget.tokens:,}: {why}\n"
            f"  {kept}\n"
            f"  fix: end other programs that hold memory, or --micro_batch_tokens {max(1, self._budget.tokens // 2)}"
        )
