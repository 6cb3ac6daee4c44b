"""Our side of PPO, in a process of its own: a run as a user starts it, with notes of its rounds and their parts.

python -m benchmarks.sides.our_ppo JOB.json
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.frame.marks import Marks, tell
from posttrain import start
from posttrain.config import CONFIGS, make_config
from posttrain.console import Console, Silent
from posttrain.console.progress import Progress
from posttrain.recipes import ppo


class Watching(Silent):
    """Shows nothing and notes when each round begins and ends."""

    def __init__(self, marks: Marks, updates: int, began: Callable[[], None]) -> None:
        self._marks = marks
        self._updates = updates
        self._began = began

    def start(self, progress: Progress) -> None:
        """The first round begins."""
        self._began()
        self._marks.step()

    def step(self, progress: Progress) -> None:
        """An update has ended."""
        if progress.step % self._updates == 0:
            self._marks.step()


def main() -> None:
    """Runs the job, and tells what it noted."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    marks = Marks(job["device"])
    sample: list[float] = []
    annotate: list[float] = []
    answers: list[list[Any]] = []
    cast_roles, sampler, annotator = ppo.cast_roles, ppo.setup.sampler, ppo.Annotator

    def began() -> None:
        # What the preflight sampled is no part of a round.
        sample.clear()
        answers.clear()

    def cast(*given: Any, **named: Any) -> Any:
        found = cast_roles(*given, **named)
        marks.loaded()
        return found

    def timed(*given: Any, **named: Any) -> Any:
        inner = sampler(*given, **named)

        def answer(*asked: Any, **named: Any) -> Any:
            start_of = time.perf_counter()
            found = inner(*asked, **named)
            sample.append(time.perf_counter() - start_of)
            answers.append(found)
            return found

        return answer

    class Timed(annotator):
        def __call__(self, *given: Any, **named: Any) -> Any:
            start_of = time.perf_counter()
            found = super().__call__(*given, **named)
            annotate.append(time.perf_counter() - start_of)
            return found

    ppo.cast_roles, ppo.setup.sampler, ppo.Annotator = cast, timed, Timed
    config: Any = make_config(CONFIGS["ppo"], job["settings"])
    start(config, console=Console(Watching(marks, config.ppo_epochs * config.minibatches, began)), fresh=True)
    lines = (Path(config.out) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    metrics = [json.loads(line) for line in lines]
    first = next(row for row in metrics if "ratio" in row)
    tell(
        marks.facts(
            sample=sample,
            annotate=annotate,
            lengths=[[len(answer.tokens) for answer in of_round] for of_round in answers],
            prompt_tokens=sum(len(answer.prompt.tokens) for answer in answers[0]),
            kl=first["kl"],
            ratio=first["ratio"],
            score=first["reward"],
        )
    )


if __name__ == "__main__":
    main()
