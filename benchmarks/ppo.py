"""Rounds of PPO: ours in its layouts beside TRL 1.11, the last one with PPO, with the same four models.

python -m benchmarks ppo [--size 15m] [--precision fp32] [--layouts separate adapters trunk] [--ends] [--quick]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.frame import alternate, rounds, texts
from benchmarks.frame.report import keep, print_table
from benchmarks.frame.rounds import LAYOUTS, PEERS, Ground
from benchmarks.frame.sizes import SIZES


def main() -> int:
    """1 when the sides do not agree."""
    given = _arguments()
    with tempfile.TemporaryDirectory() as name:
        ground = rounds.make_ground(
            Path(name), SIZES[given.size], rounds=1 + given.rounds, longest=given.longest, ends=given.ends,
            group=given.group, adapters="adapters" in given.layouts, device=given.device,
        )  # fmt: skip
        about = "ending by themselves" if given.ends else "none ends by itself"
        print(
            f"ppo {given.size}: {given.rounds} rounds of {rounds.ROLLOUTS} answers of at most {given.longest} tokens,"
            f" {about}, {given.group} to a prompt of {texts.source()}; {given.repeats} repeats in turns",
            flush=True,
        )
        kinds = dict.fromkeys(given.layouts, given.precision)
        kinds |= {f"TRL {setting}": alternate.kind_of(setting) for setting in given.peer}
        peaks = alternate.peaks(given.device, kinds.values())
        sides = {layout: partial(rounds.run_ours, ground, layout, given.precision) for layout in given.layouts}
        sides |= {f"TRL {setting}": partial(rounds.run_peer, ground, setting) for setting in given.peer}
        found = alternate.in_turns(sides, given.repeats)
        return _tell(ground, given, found, alternate.peaks(given.device, kinds.values(), peaks), kinds)


def _tell(
    ground: Ground,
    given: argparse.Namespace,
    found: Mapping[str, Any],
    peaks: Mapping[str, float],
    kinds: Mapping[str, str],
) -> int:
    """Prints and keeps what was found; 1 when the sides do not agree."""
    sides = {
        name: rounds.summary(ground, runs, name if name in LAYOUTS else "separate", peaks[kinds[name]])
        for name, runs in found.items()
    }
    print(f"GEMM peak: {alternate.shown(peaks)}")
    print_table([rounds.row_of(name, facts) for name, facts in sides.items()])
    measured = ratios(sides)
    for key, value in measured.items():
        print(f"{key}: {value:.2f}")
    problems = rounds.disagreements(ground, sides)
    for problem in problems:
        print(f"no fair comparison: {problem}")
    facts = {"method": "ppo", "size": given.size, "precision": given.precision, "texts": texts.source()}
    facts |= {"longest": given.longest, "ends": given.ends, "group": given.group, "rounds": given.rounds}
    facts |= {"repeats": given.repeats, "gemm": dict(peaks), "sides": sides, "measured": measured}
    ends = "-ends" if given.ends else ""
    name = f"ppo-{given.size}-{given.precision}{ends}{alternate.suffix(given.device)}"
    keep(name, {**facts, "problems": problems}, given.json)
    return int(bool(problems))


def ratios(sides: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Rounds a second and memory growth of each layout as a multiple of the fastest setting of TRL, share of GEMM."""
    found: dict[str, float] = {}
    peers = {name: facts for name, facts in sides.items() if name not in LAYOUTS}
    fastest = min(peers.values(), key=lambda facts: facts["seconds"].median) if peers else None
    for layout in (name for name in sides if name in LAYOUTS):
        ours, start = sides[layout], "" if layout == "separate" else f"{layout} "
        found[f"{start}gemm"] = ours["share_of_gemm"].median
        if fastest is not None:
            found[f"{start}times"] = fastest["seconds"].median / ours["seconds"].median
            found[f"{start}growth"] = ours["growth"].median / fastest["growth"].median
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks ppo", description=f"{__doc__}\n{rounds.__doc__}",
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--size", default="15m", choices=SIZES)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="of ours")
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=LAYOUTS)
    parser.add_argument("--peer", nargs="*", default=["fp32"], choices=PEERS, help="TRL's settings; none: ours alone")
    parser.add_argument("--ends", action="store_true", help="answers end by themselves, at most 128 tokens")
    parser.add_argument("--longest", type=int, help="longest answer, 64, or 128 with --ends")
    parser.add_argument("--group", type=int, default=1, help="answers to a prompt")
    parser.add_argument("--rounds", type=int, default=2, help="rounds that are counted, after one that is not")
    parser.add_argument("--repeats", type=int, default=3)
    alternate.add_device(parser)
    parser.add_argument("--quick", action="store_true", help="one round counted, one repeat")
    parser.add_argument("--json", type=Path, help="where the finding goes, in place of benchmarks/results")
    given = parser.parse_args()
    alternate.show_device(given.device)
    given.longest = given.longest or (128 if given.ends else 64)
    if given.quick:
        given.rounds, given.repeats = 1, 1
    return given
