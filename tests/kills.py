"""`python -m tests.kills`: kill every method many times, at random instants and at named points, and show what is lost.

`python -m tests.kills --method ppo-trunk --method dpo --kills 40` takes these alone; `--seed` gives other instants.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fuzzing.small_model import write_model
from tests.killed import METHODS, commands
from tests.killing import INSTANT, Nursery, Toll, kill_often
from tests.stages import build


def main(words: Sequence[str]) -> int:
    """0 when nothing was lost or torn and a kill landed at every point, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--method", action="append", choices=METHODS, help="this one; may be given more than once")
    parser.add_argument("--kills", type=int, default=20, help="kills that have to land, of each method")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    asked = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["POSTTRAIN_CACHE"] = str(folder / "cache")
        (folder / "stages").mkdir()
        model = folder / "tiny"
        write_model(model)
        stages = build(folder / "stages", model)
        aimed, nursery = commands(stages, folder), Nursery(pages=True)
        tolls: dict[str, Toll] = {}
        for method in asked.method or METHODS:
            began = time.monotonic()
            (folder / method).mkdir()
            chance = random.Random(f"{asked.seed} {method}")
            toll = tolls[method] = kill_often(nursery, aimed[method], folder / method, chance, kills=asked.kills)
            print(f"{toll.told(method)} ({time.monotonic() - began:.0f} s)", flush=True)
            for line in [*toll.wrong, *(f"no kill at {point}" for point in sorted(toll.missed))]:
                print(f"  WRONG {line}", flush=True)
        nursery.close()
    print(_table(tolls))
    return int(any(toll.wrong or toll.missed for toll in tolls.values()))


def _table(tolls: dict[str, Toll]) -> str:
    """One line a method: kills that landed, at random instants and at named points, inside saves, and what is lost."""
    heading = ("method", "kills", "instants", "at points", "points", "in saves", "lost or torn")
    lines = ["{:14} {:>6} {:>9} {:>10} {:>7} {:>9} {:>13}".format(*heading)]
    for method, toll in tolls.items():
        instants, points = toll.tale.landed[INSTANT], len(toll.tale.landed.keys() - {INSTANT})
        lines.append(
            f"{method:14} {toll.tale.kills:6} {instants:9} {toll.tale.kills - instants:10} {points:7} "
            f"{toll.tale.inside_saves:9} {len(toll.wrong):13}"
        )
    total = sum(toll.tale.kills for toll in tolls.values())
    return "\n".join([*lines, f"{total} kills landed, {sum(len(toll.wrong) for toll in tolls.values())} lost or torn"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
