"""Our side of a training benchmark, in a process of its own: a run as a user starts it, with notes of its steps.

python -m benchmarks.sides.ours JOB.json
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.frame.digest import row_hash, step_hashes
from benchmarks.frame.marks import Marks, tell
from posttrain import start
from posttrain.config import CONFIGS, make_config
from posttrain.console import Console, Silent
from posttrain.console.progress import Progress
from posttrain.recipes import fitting, setup


class Watching(Silent):
    """Shows nothing and notes when each step begins and ends."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks

    def start(self, progress: Progress) -> None:
        """The first step begins."""
        self._marks.step()

    def step(self, progress: Progress) -> None:
        """A step has ended."""
        self._marks.step()


class Recorded:
    """A source whose batches are kept, as they go by, to be hashed when training is over."""

    def __init__(self, inner: Any, kept: list[Any]) -> None:
        self._inner, self._kept = inner, kept

    def __iter__(self) -> Iterator[Any]:
        for step in self._inner:
            self._kept.append([])
            yield replace(step, micro_batches=self._through(step.micro_batches))

    def _through(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches: they may be there to be taken once."""
        for batch in batches:
            self._kept[-1].append(_stream(batch))
            yield batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def main() -> None:
    """Runs the job, and tells what it noted."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    marks, kept, waits = Marks(job.get("device", "cpu")), [], []
    load_start, fit = setup.load_start, fitting.fit

    def loaded(*given: Any, **named: Any) -> Any:
        found = load_start(*given, **named)
        marks.loaded()
        return found

    setup.load_start = loaded
    fitting.fit = lambda source, *given, **named: fit(Recorded(source, kept), *given, **named)
    _time_reference(waits)
    config: Any = make_config(CONFIGS[job["method"]], job["settings"])
    start(config, console=Console(Watching(marks)), fresh=True)
    metrics = [json.loads(line) for line in (Path(config.out) / "run" / "metrics.jsonl").read_text().splitlines()]
    hashes = [row for step in kept for row in sorted(hash for batch in step for hash in _rows(batch))]
    tell(
        marks.facts(
            losses=[row["loss"] for row in metrics if "loss" in row],
            steps=step_hashes(hashes, config.batch_size),
            before={"seconds": sum(wall for wall, _ in waits), "cpu": sum(cpu for _, cpu in waits)},
        )
    )


def _time_reference(waits: list[tuple[float, float]]) -> None:
    """Notes how long the reference's log-probs take, which are computed before the first step."""
    from posttrain.recipes import dpo  # noqa: PLC0415 - beside what it changes

    computed: Callable[..., Any] = dpo.reference_sums

    def timed(*given: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            return computed(*given)
        finally:
            waits.append((time.perf_counter() - wall, time.process_time() - cpu))

    dpo.reference_sums = timed


def _stream(batch: Any) -> Any:
    """The flat stream of a micro-batch, whatever it stands in."""
    return batch if hasattr(batch, "parent") else batch.tokens


def _rows(batch: Any) -> Iterator[str]:
    """The hash of each row of a micro-batch: its prompt and its answers, told apart by which tokens are trained."""
    segments = batch.segment.tolist()
    spans: list[list[int]] = [[] for _ in batch.parent]
    trained: list[list[bool]] = [[] for _ in batch.parent]
    for token, segment, is_trained in zip(batch.tokens.tolist(), segments, batch.trained.tolist(), strict=True):
        spans[segment].append(token)
        trained[segment].append(is_trained)
    for root, parent in enumerate(batch.parent.tolist()):
        if parent >= 0:
            continue
        answers = [spans[branch] for branch, of in enumerate(batch.parent.tolist()) if of == root]
        if not answers:
            cut = trained[root].index(True)
            yield row_hash(spans[root][:cut], spans[root][cut:])
        else:
            yield row_hash(spans[root], *answers)


if __name__ == "__main__":
    main()
