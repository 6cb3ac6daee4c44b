"""`python -m tests.fuzz [KIND ...] [--count N] [--seed S]`: mutated files through the doors that files go through.

Each input is accepted, or refused by an error of the package's own that names the file. Anything else is shown, and
written to `tests/fuzzed` (or `--out`), whose cases `tests/test_fuzz.py` reads.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

# Names of models of the hub come about by chance; none of them is looked for.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from posttrain.recipes.setup import quiet_libraries
from tests.fuzzing.cases import FOLDER, Case
from tests.fuzzing.doors import Kind, through
from tests.fuzzing.guard import Guard, guarded
from tests.fuzzing.kinds import KINDS
from tests.fuzzing.mutators import Files, mutated
from tests.fuzzing.shrinking import shrunk


@dataclass(slots=True)
class Found:
    """What came of the inputs of a kind. `others` are inputs that broke something, by what broke."""

    accepted: int = 0
    refused: int = 0
    others: Counter[str] = field(default_factory=Counter[str])


def the_input(kind: Kind, seed: int, number: int) -> Files:
    """The input of a kind, a seed and a number; the same each time."""
    rng = random.Random(f"{kind.name} {seed} {number}")
    seeds = kind.seeds()
    files = mutated(rng.choice(seeds), seeds, rng, fixed=kind.fixed)
    return kind.after(files, rng)


def outcome(kind: Kind, files: Files) -> str:
    """`accepted`, `refused`, or what broke, with the line of the package where it did."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        place = Path(folder).resolve() / "input"
        place.mkdir()
        try:
            return "accepted" if through(kind, files, place) else "refused"
        except BaseException as error:
            return _told(error)


def _told(error: BaseException) -> str:
    """What broke, in a line that is the same for inputs that break the same thing."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/posttrain/" in frame.filename]
    places = [f"{frame.filename.rpartition('/posttrain/')[2]}:{frame.lineno}" for frame in frames[-1:]]
    said = " ".join(str(error).split())
    return f"{type(error).__name__} {' '.join(places)}: {re.sub(r'0x[0-9a-f]+|[0-9]+', '0', said)[:160]}"


def fuzz(kind: Kind, count: int, seed: int, out: Path) -> Found:
    """What came of `count` inputs; the first input of each break is written to `out`."""
    found = Found()
    kind.seeds()

    def one(number: int) -> str:
        return outcome(kind, the_input(kind, seed, number))

    for number, said in guarded(one, count, Guard()):
        if said in ("accepted", "refused"):
            found.accepted += said == "accepted"
            found.refused += said == "refused"
            continue
        if said not in found.others:
            name = f"{kind.name}-{seed}-{number}.json"
            case = Case(kind=kind.name, showed=said, files=the_input(kind, seed, number))
            case.write(out / name)
            smaller(case).write(out / name)
            print(f"{name}: {said}", flush=True)
        found.others[said] += 1
    return found


def smaller(case: Case) -> Case:
    """The case with a smaller input that breaks the same; one that takes all time or memory is left as it is."""
    kind = KINDS[case.kind]
    if case.showed.startswith(("Hangs", "killed", "the process", "MemoryError")):
        return case

    def breaks(files: Files) -> bool:
        [(_, said)] = guarded(lambda number: outcome(kind, files), 1, Guard())
        return said == case.showed

    return replace(case, files=shrunk(case.files, breaks))


def _shares(names: Sequence[str], count: int) -> dict[str, int]:
    """How many inputs each kind gets, by its share, together at least `count`."""
    whole = sum(KINDS[name].share for name in names)
    return {name: -int(-count * KINDS[name].share // whole) for name in names}


def main(words: Sequence[str]) -> int:
    """0 when every input was accepted or refused in the package's own words, else 1."""
    quiet_libraries()
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"one of {', '.join(KINDS)}; none: all")
    parser.add_argument("--count", type=int, default=10_000, help="inputs of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=FOLDER, help="where inputs that break something are written")
    asked = parser.parse_args(words)
    unknown = [name for name in asked.kinds if name not in KINDS]
    if unknown:
        parser.error(f"there is no kind {unknown[0]}; there are {', '.join(KINDS)}")
    total = Found()
    print(f"{'kind':<12}{'inputs':>8}{'accepted':>10}{'refused':>9}{'others':>8}", flush=True)
    for name, count in _shares(asked.kinds or [*KINDS], asked.count).items():
        found = fuzz(KINDS[name], count, asked.seed, asked.out)
        print(_line(name, found), flush=True)
        total = Found(total.accepted + found.accepted, total.refused + found.refused, total.others + found.others)
    print(_line("all", total))
    return int(bool(total.others))


def _line(name: str, found: Found) -> str:
    others = found.others.total()
    return (
        f"{name:<12}{found.accepted + found.refused + others:>8,}{found.accepted:>10,}{found.refused:>9,}{others:>8,}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
