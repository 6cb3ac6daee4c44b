"""The time that training is held up by checkpoints, written beside it and while it waits, against none.

    python -m benchmarks saves [--size 15m] [--every 10] [--saves 4] [--repeats 3]

Our SFT trains the same rows three times in turns, each run a process of its own: without a save, with one every so many
steps beside the training, and with one for which training waits. Counted is from the end of the first step to the end
of the last one, in which all saves but that of the end lie. Held up is the share of the time from one save to the next
by which the two steps after the save are longer than the same steps of the run without: copying, waiting, and what a
thread that hashes and writes takes from training on the same cores. The other steps tell how much faster or slower the
machine was in the one run than in the other at that time, and that is taken out: whole runs differ by more than saves
cost. The median over all saves counts. What a run itself notes as waiting is told beside it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.frame.alternate import in_turns, run, threads
from benchmarks.frame.marks import Marks, tell
from benchmarks.frame.report import keep, print_table
from benchmarks.frame.sizes import SIZES, write_model
from benchmarks.frame.texts import answers, source, write_tokenizer

GOAL = 0.05
WAYS = ("none", "beside", "waiting")
TOUCHED = 2  # steps after a save in which it may still be under way
SAVED = re.compile(r"checkpoint of step \d+ in ([\d.]+) s(?: beside the training, which waited ([\d.]+) s)?")


def settings_of(way: str, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """The settings of a run whose last step comes right after a save."""
    return {
        "model": str(folder / "model"),
        "data": str(folder / "rows.jsonl"),
        "out": str(folder / way),
        "steps": given.every * given.saves + 1,
        "save_every": None if way == "none" else given.every,
        "batch_size": 16,
        "eval_data": None,
        "learning_rate": 1e-4,
        "precision": "fp32",
    }


def measure(way: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds of each step but the first, and of what the run says of its saves."""
    from posttrain import start  # noqa: PLC0415 - only in the process that measures
    from posttrain.config import SFTConfig, make_config  # noqa: PLC0415
    from posttrain.console import Console, Silent  # noqa: PLC0415
    from posttrain.console.progress import Progress  # noqa: PLC0415
    from posttrain.recipes import preflight  # noqa: PLC0415

    marks = Marks()
    marks.loaded()

    class Watching(Silent):
        def step(self, progress: Progress) -> None:
            marks.step()

    if way == "waiting":
        preflight.checkpoint = lambda config, trained: sys.maxsize  # no memory for a copy
    config = make_config(SFTConfig, settings)
    start(config, console=Console(Watching()), fresh=True)
    log = (Path(config.out) / "run" / "log.txt").read_text(encoding="utf-8")
    saves = [(float(wrote), float(waited or wrote)) for wrote, waited in SAVED.findall(log)]
    disk = json.loads((Path(config.out) / "run" / "run.json").read_text(encoding="utf-8"))["forecast"]["disk"]
    return marks.facts(saves=saves[:-1], disk=disk)  # the last one comes after the last step


def told(found: Mapping[str, Sequence[Mapping[str, Any]]], every: int) -> dict[str, dict[str, float]]:
    """By way: seconds of training, the share of it that a save holds up in the middle, and what the run waited."""
    rows: dict[str, dict[str, float]] = {}
    for way, runs in found.items():
        took = [sum(one["seconds"]) for one in runs]
        pairs = zip(runs, found["none"], strict=True)
        held = [share for one, bare in pairs for share in held_up(one["seconds"], bare["seconds"], every)]
        waited = [sum(waited for _, waited in one["saves"]) / sum(one["seconds"]) for one in runs]
        wrote = [wrote for one in runs for wrote, _ in one["saves"]]
        rows[way] = {"seconds": median(took), "held": median(held), "waited": median(waited)}
        rows[way]["a_save"] = median(wrote) if wrote else 0.0
    return rows


def held_up(seconds: Sequence[float], bare: Sequence[float], every: int) -> list[float]:
    """For each save but the last: the share by which it lengthens the steps from it to the next one.

    `seconds` are of the steps but the first, `bare` of the same steps of a run without a save.
    """
    shares: list[float] = []
    for first in range(every - 1, len(seconds) - every + 1, every):
        block = range(first, first + every)
        pace = median(seconds[place] / bare[place] for place in block[TOUCHED:])
        longer = sum(seconds[place] / pace - bare[place] for place in block[:TOUCHED])
        shares.append(longer / (sum(bare[place] for place in block) + longer))
    return shares


def main() -> int:
    """1 when saves beside the training hold it up by more than the goal."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks saves", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", default="15m", choices=list(SIZES))
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--saves", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        asked = json.loads(given.measure)
        tell(measure(asked["way"], asked["settings"]))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [{"prompt": question, "completion": answer} for question, answer in answers()]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        write_tokenizer(folder / "words", vocabulary=SIZES[given.size].vocabulary)
        write_model(folder / "model", SIZES[given.size], folder / "words")
        found = in_turns({way: _side(way, folder, given) for way in WAYS}, given.repeats)
    rows_of = told(found, given.every)
    steps = given.every * given.saves
    print(f"{given.size}, {source()}, {threads()} threads, {given.saves} saves in {steps} steps, x{given.repeats}")
    print_table([_row(way, facts) for way, facts in rows_of.items()])
    measured = {f"{way} {key}": value for way, facts in rows_of.items() for key, value in facts.items()}
    keep(f"saves-{given.size}", {"disk": found["beside"][0]["disk"], "measured": measured})
    return int(rows_of["beside"]["held"] > GOAL)


def _side(way: str, folder: Path, given: argparse.Namespace) -> Any:
    asked = json.dumps({"way": way, "settings": settings_of(way, folder, given)})
    return lambda: run(["benchmarks", "saves", "--measure", asked], cache=folder / "cache")


def _row(way: str, facts: Mapping[str, float]) -> dict[str, object]:
    return {
        "saves": way,
        "seconds": f"{facts['seconds']:.1f}",
        "held up": f"{facts['held']:.1%}",
        "waited by itself": f"{facts['waited']:.1%}",
        "a save takes": f"{facts['a_save']:.2f} s",
    }
