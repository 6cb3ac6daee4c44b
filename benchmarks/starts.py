"""How long a run takes to come to its model, and how much memory: the first start on some data, and the second.

    python -m benchmarks starts [--rows 1000 10000 100000]

Counted is from the library imported to the moment in which the model is loaded: files are found, read, checked and
tokenised, or their tokens are in the cache. Beside it stands the tokenizer library alone, given the rendered texts at
once. Every start is a process of its own with all threads; the files are generated, the model and its tokenizer are
those of the other benchmarks.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.data import write_rows
from benchmarks.frame import alternate
from benchmarks.frame.marks import memory, tell
from benchmarks.frame.report import keep, print_table
from benchmarks.frame.sizes import Size, write_model
from benchmarks.frame.texts import write_tokenizer

SMALL = Size(hidden=64, layers=2, heads=4, kv_heads=4, intermediate=128, vocabulary=32_000, tied=True)
GOAL = 2.0
FEW, MANY = 1_000, 100_000


class Reached(Exception):
    """The run has come to its model."""


def measure(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds, CPU seconds and growth of the resident peak of a start, in this process."""
    from posttrain import start  # noqa: PLC0415 - only in the process that measures
    from posttrain.config import CONFIGS, make_config  # noqa: PLC0415
    from posttrain.console import open_console  # noqa: PLC0415
    from posttrain.recipes import setup, sft  # noqa: F401, PLC0415 - imported before the clock runs

    def reached(*_: Any, **__: Any) -> Any:
        raise Reached

    setup.load_start = reached
    config: Any = make_config(CONFIGS["sft"], settings)
    before, wall, cpu = memory("VmHWM"), time.perf_counter(), time.process_time()
    with suppress(Reached):
        start(config, console=open_console(quiet=True), fresh=True)
    seconds, busy = time.perf_counter() - wall, time.process_time() - cpu
    return {"seconds": seconds, "cpu": busy, "growth": memory("VmHWM") - before}


def tokenizer_alone(file: str, words: str) -> dict[str, Any]:
    """Seconds of the tokenizer library on the rendered texts of a file."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - only in the process that measures

    tokenizer = AutoTokenizer.from_pretrained(words)
    rows = [json.loads(line)["messages"] for line in Path(file).read_text(encoding="utf-8").splitlines()]
    texts = [f"<s>Question: {asked['content']}\nAnswer: {said['content']}</s>" for asked, said in rows]
    wall, cpu = time.perf_counter(), time.process_time()
    for first in range(0, len(texts), 1024):
        tokenizer.backend_tokenizer.encode_batch_fast(texts[first : first + 1024], add_special_tokens=False)
    return {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def main() -> int:
    """1 when a second start takes longer than the goal."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks starts", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[FEW, 10_000, MANY])
    parser.add_argument("--start", help=argparse.SUPPRESS)
    parser.add_argument("--tokenizer", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.start or given.tokenizer:
        tell(measure(json.loads(given.start)) if given.start else tokenizer_alone(*given.tokenizer))
        return 0
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tokenizer(folder / "words", vocabulary=SMALL.vocabulary)
        write_model(folder / "model", SMALL, folder / "words")
        for count in given.rows:
            found.append(_of(count, folder))
            print_table([_row(found[-1])])
    slowest = max(facts["second"]["seconds"] for facts in found)
    measured = {"second_start": slowest, "growth_mb": max(facts["first"]["growth"] for facts in found) / 1e6}
    by_rows = {facts["count"]: facts for facts in found}
    if {FEW, MANY} <= by_rows.keys():
        few, many = by_rows[FEW], by_rows[MANY]
        measured["over_tokenizer"] = many["first"]["seconds"] / many["tokenizer"]["seconds"]
        measured["growth_by_rows"] = many["first"]["growth"] / few["first"]["growth"]
    keep("starts", {"rows": found, "measured": measured})
    print(f"slowest second start {slowest:.2f} s, goal {GOAL} s: {'reached' if slowest < GOAL else 'missed'}")
    return int(slowest >= GOAL)


def _of(count: int, folder: Path) -> dict[str, Any]:
    """The starts on a file of so many rows."""
    file = folder / f"{count}.jsonl"
    write_rows(file, count)
    settings = {"model": str(folder / "model"), "data": str(file), "out": str(folder / f"out-{count}")}
    words = ["benchmarks", "starts", "--start", json.dumps(settings)]
    first, second = (alternate.run(words, cache=folder / "cache") for _ in range(2))
    alone = alternate.run(["benchmarks", "starts", "--tokenizer", file, folder / "words"])
    return {"count": count, "first": first, "second": second, "tokenizer": alone}


def _row(facts: Mapping[str, Any]) -> dict[str, object]:
    first, second, alone = facts["first"], facts["second"], facts["tokenizer"]
    return {
        "rows": f"{facts['count']:>9,}",
        "first start s": f"{first['seconds']:7.2f}",
        "CPU": f"{first['cpu']:7.2f}",
        "grew MB": f"{first['growth'] / 1e6:6.1f}",
        "second s": f"{second['seconds']:6.2f}",
        "grew": f"{second['growth'] / 1e6:6.1f}",
        "tokenizer alone s": f"{alone['seconds']:6.2f}",
        "tokenizer CPU": f"{alone['cpu']:6.2f}",
    }


if __name__ == "__main__":
    sys.exit(main())
