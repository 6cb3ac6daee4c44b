"""Rows a second and memory of reading a file of conversations, beside `datasets.load_dataset("json")`.

    python -m benchmarks data [--rows 10000 100000 300000] [--rounds 3]

Each measurement is a process of its own, the two in turns, so that whatever else the machine does falls on both alike.
Seconds are those of the process's own work (CPU) from an imported library to the last record in hand, memory is the
growth of the resident peak over that time. Ours also recognises the layout, checks every row and leaves out
duplicates, which is what `posttrain check` does before it tokenises; `datasets` writes the rows to its cache and
passes over them, which is what a trainer of `transformers` does before it maps them. Files are generated.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.frame.report import keep

TEXT = "once upon a time there was a little girl who liked to play with her red ball in the big green park"
GOAL = 100_000


def write_rows(file: Path, count: int) -> None:
    """A file of `count` conversations of about 60 words, no two the same."""
    draw, words = random.Random(0), TEXT.split()
    with file.open("w", encoding="utf-8") as handle:
        for number in range(count):
            asked = f"{number} " + " ".join(draw.choices(words, k=20))
            said = " ".join(draw.choices(words, k=40))
            talk = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
            handle.write(json.dumps({"messages": talk}) + "\n")


def read_ours(file: str) -> Callable[[], int]:
    """A pass of `open_data`, which returns the number of records."""
    from posttrain.data.readers import open_data  # noqa: PLC0415 - only in the process that measures it

    return lambda: sum(1 for _ in open_data(file, "chat"))


def read_theirs(file: str) -> Callable[[], int]:
    """A pass over what `datasets` loads, which returns the number of rows."""
    import datasets  # noqa: PLC0415 - only in the process that measures it

    datasets.disable_progress_bars()

    def rows() -> int:
        with tempfile.TemporaryDirectory() as cache:
            loaded = datasets.load_dataset("json", data_files=file, split="train", cache_dir=cache)
            return sum(1 for _ in loaded)

    return rows


READERS = {"posttrain": read_ours, "datasets": read_theirs}


def measure(reader: str, file: str) -> dict[str, float]:
    """Rows, CPU seconds and growth of the resident peak in bytes of one pass, in this process."""
    work = READERS[reader](file)
    before = _peak()
    started = time.process_time()
    rows = work()
    return {"rows": rows, "seconds": time.process_time() - started, "bytes": _peak() - before}


def _peak() -> int:
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def _apart(reader: str, file: Path) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks", "data", "--measure", reader, str(file)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """1 when reading is slower than the goal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks data", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 300_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("READER", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(*given.measure)))
        return 0
    kept: list[dict[str, float | str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for count in given.rows:
            file = Path(folder) / f"{count}.jsonl"
            write_rows(file, count)
            found: dict[str, list[dict[str, float]]] = {reader: [] for reader in READERS}
            for _ in range(given.rounds):
                for reader in READERS:
                    found[reader].append(_apart(reader, file))
            for reader, results in found.items():
                seconds = statistics.median(result["seconds"] for result in results)
                grown = statistics.median(result["bytes"] for result in results)
                kept.append({"reader": reader, "rows": count, "rows_per_second": count / seconds, "bytes": grown})
                print(
                    f"{reader:10}{count:>9,} rows  {file.stat().st_size / 2**20:6.1f} MiB  {seconds:6.2f} s"
                    f"  {count / seconds:>9,.0f} rows/s  peak grew {grown / 2**20:6.1f} MiB"
                )
    ours = {int(facts["rows"]): float(facts["rows_per_second"]) for facts in kept if facts["reader"] == "posttrain"}
    rate = ours[max(ours)]
    keep("data", {"files": kept, "measured": {"rows_per_second": rate}})
    print(f"{rate:,.0f} rows/s in the largest file, goal {GOAL:,}: {'reached' if rate >= GOAL else 'missed'}")
    return int(rate < GOAL)


if __name__ == "__main__":
    sys.exit(main())
