"""One row of training from end to end: prepares, runs the sides in turns, prints, keeps, and says if they agree."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.frame import alternate, texts, training
from benchmarks.frame.report import RESULTS, keep, print_table
from benchmarks.frame.sizes import SIZES
from benchmarks.frame.training import PEERS, Ground
from posttrain.counted import counted

# The precision of ours, what else it sets, and TRL's settings beside it; `best` tries all of TRL's, takes the fastest.
SETTINGS: dict[str, tuple[str, dict[str, object], tuple[str, ...]]] = {
    "fp32": ("fp32", {}, ("fp32",)),
    "bf16": ("bf16", {}, ("bf16",)),
    "best": ("bf16", {}, ()),
    "lean": ("bf16", {"activation_checkpointing": True}, ("defaults",)),
}
ROWS = {"15m": 32, "60m": 16, "135m": 8}
"""Rows of a step, so that one of TRL's takes no more than a minute."""


def main(method: str, description: str) -> int:
    """1 when the sides do not agree on tokens or on the last loss."""
    given = _arguments(method, description)
    size = SIZES[given.size]
    precision, ours, settings = SETTINGS[given.precision]
    with tempfile.TemporaryDirectory() as name:
        batch = given.batch or ROWS[given.size]
        ground = training.make_ground(Path(name), method, size, 1 + given.steps, batch=batch, device=given.device)
        _say(ground, given)
        tried = earlier(given)
        if given.peer:
            settings = tuple(given.peer)
        elif not settings:
            tried = tried or try_all(ground)
            settings = (min(tried, key=tried.__getitem__),)
        kinds = {"posttrain": precision, **{f"TRL {setting}": alternate.kind_of(setting) for setting in settings}}
        peaks = alternate.peaks(given.device, kinds.values())
        sides = {"posttrain": partial(training.run_ours, ground, precision, ours)}
        sides |= {f"TRL {setting}": partial(training.run_peer, ground, setting) for setting in settings}
        found = alternate.in_turns(sides, given.repeats)
        return _tell(ground, given, found, alternate.peaks(given.device, kinds.values(), peaks), kinds, tried)


def earlier(given: argparse.Namespace) -> dict[str, float]:
    """The seconds of TRL's settings as an earlier finding of the same row has them; none where `--again` is given."""
    file = given.json or RESULTS / f"{_name(given)}.json"
    if given.again or not file.is_file():
        return {}
    return json.loads(file.read_text(encoding="utf-8")).get("tried", {})


def try_all(ground: Ground) -> dict[str, float]:
    """Seconds a step of each setting of TRL that works here and trains what the others do; printed."""
    found: dict[str, float] = {}
    losses: dict[str, float] = {}
    for setting in training.settings_of(ground.method):
        try:
            facts = training.run_peer(ground, setting)
        except RuntimeError as error:
            print(f"TRL {setting}: does not work here: {str(error).strip().splitlines()[-1]}", flush=True)
            continue
        before = (facts["before"] or {"seconds": 0.0})["seconds"] / ground.steps
        found[setting] = sum(facts["seconds"][1:]) / (ground.steps - 1) + before
        losses[setting] = facts["losses"][-1]
        print(f"TRL {setting}: {found[setting]:.2f} s a step, last loss {losses[setting]:.5f}", flush=True)
    usual = statistics.median(losses.values())
    return {
        setting: seconds
        for setting, seconds in found.items()
        if abs(losses[setting] - usual) <= training.TOLERANCE["bf16"] * usual
    }


def _name(given: argparse.Namespace) -> str:
    """The name of the finding."""
    return f"{given.method}-{given.size}-{given.precision}{alternate.suffix(given.device)}"


def _arguments(method: str, description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {method}", description=description, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", default="15m", choices=SIZES)
    about = "best: TRL's fastest setting, ours bf16; lean: both with bf16 and checkpointing"
    parser.add_argument("--precision", default="fp32", choices=SETTINGS, help=about)
    parser.add_argument("--peer", nargs="+", choices=PEERS, help="TRL's settings, in place of those of the precision")
    parser.add_argument("--steps", type=int, default=2, help="steps that are counted, after one that is not")
    parser.add_argument("--batch", type=int, help="rows of a step; 32 at 15m, 16 at 60m, 8 at 135m")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="best: try TRL's settings though a finding has them")
    alternate.add_device(parser)
    parser.add_argument("--quick", action="store_true", help="one step counted, one repeat")
    parser.add_argument("--json", type=Path, help="where the finding goes, in place of benchmarks/results")
    given = parser.parse_args()
    alternate.show_device(given.device)
    given.method = method
    if given.quick:
        given.steps, given.repeats = 1, 1
    return given


def _say(ground: Ground, given: argparse.Namespace) -> None:
    spans = [[len(span) for span in row] for row in ground.rows.tokens]
    prompt = sum(row[0] for row in spans) / len(spans)
    answer = sum(sum(row[1:]) for row in spans) / sum(len(row) - 1 for row in spans)
    print(
        f"{ground.method} {given.size}: {ground.steps} steps of {ground.rows.batch} rows from {texts.source()}, prompt"
        f" {prompt:.0f} tokens, answer {answer:.0f}; the first step is not counted; {given.repeats} repeats in turns",
        flush=True,
    )


def _tell(
    ground: Ground,
    given: argparse.Namespace,
    found: Mapping[str, Sequence[Mapping[str, Any]]],
    peaks: Mapping[str, float],
    kinds: Mapping[str, str],
    tried: Mapping[str, float],
) -> int:
    """Prints and keeps what was found; 1 when the sides do not agree."""
    sides = {name: training.summary(ground, runs, peaks[kinds[name]]) for name, runs in found.items()}
    if ground.method == "dpo":
        runs = found["posttrain"]
        sides["posttrain, reference reused"] = training.summary(ground, runs, peaks[kinds["posttrain"]], reused=True)
    print(f"GEMM peak: {alternate.shown(peaks)}; {counted(int(peaks['threads']), 'thread')}")
    print_table([training.row_of(name, facts) for name, facts in sides.items()])
    ours, ratios = sides["posttrain"], dict[str, dict[str, float]]()
    for name, facts in sides.items():
        if name.startswith("TRL"):
            ratios[name] = {
                part: ours[part].median / facts[part].median for part in ("tokens_per_second", "growth", "cpu_seconds")
            }
            print(
                f"ours against {name}: {ratios[name]['tokens_per_second']:.2f}x the tokens,"
                f" {ratios[name]['growth']:.2f}x the memory growth"
            )
    exact = set(kinds.values()) == {"fp32"}
    problems = training.disagreements(ground, found, training.TOLERANCE["fp32" if exact else "bf16"])
    for problem in problems:
        print(f"no fair comparison: {problem}")
    facts = {"method": ground.method, "size": given.size, "precision": given.precision, "texts": texts.source()}
    facts |= {"measured": _measured(ours, ratios, sides)}
    facts |= {
        "batch": ground.rows.batch,
        "steps": given.steps,
        "repeats": given.repeats,
        "gemm": dict(peaks),
        "sides": sides,
        "ratios": ratios,
    }
    keep(_name(given), {**facts, "tried": tried, "problems": problems}, given.json)
    return int(bool(problems))


def _measured(
    ours: Mapping[str, Any], ratios: Mapping[str, Mapping[str, float]], sides: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """The numbers that goals are about: against the fastest of TRL's settings that were run, and the share of GEMM."""
    fastest = min(ratios, key=lambda name: ratios[name]["tokens_per_second"])
    found = {"times": ratios[fastest]["tokens_per_second"], "growth": ratios[fastest]["growth"]}
    found["gemm"] = ours["share_of_gemm"].median
    if "posttrain, reference reused" in sides:
        reused = sides["posttrain, reference reused"]["tokens_per_second"].median
        found["times_reused"] = reused / sides[fastest]["tokens_per_second"].median
    return found
