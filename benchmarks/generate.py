"""Answers to prompts: our sampler beside `generate` of transformers and, where it is installed, vLLM on the CPU.

    python -m benchmarks generate [--size 15m] [--precision fp32] [--cases uniform ragged group] [--quick]

uniform: 32 prompts, 64 new tokens each. ragged: 64 prompts whose answers end by themselves, up to 256 tokens. group: 8
answers to one prompt. First all sides answer greedily, and their tokens must be equal (in fp32).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.frame import alternate, generation, texts
from benchmarks.frame.generation import CASES, SIDES, Case
from benchmarks.frame.report import keep, print_table
from benchmarks.frame.sizes import SIZES


def main() -> int:
    """1 when greedy answers differ between sides in fp32."""
    given = _arguments()
    sides = there(given.sides)
    problems: list[str] = []
    summaries: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generation.prepare(folder, SIZES[given.size])
        print(f"generate {given.size} {given.precision}: prompts of {texts.source()}; {given.repeats} repeats in turns")
        if given.precision == "fp32" and not given.no_greedy:
            problems = disagreements(folder, sides, given.device)
        for case in given.cases:
            run = partial(_run, folder, CASES[case], given)
            found = alternate.in_turns({side: partial(run, side) for side in sides}, given.repeats)
            summaries[case] = {side: generation.summary(runs) for side, runs in found.items()}
            print_table([generation.row_of(case, side, facts) for side, facts in summaries[case].items()])
    measured = ratios(summaries)
    for key, value in measured.items():
        print(f"{key}: {value:.2f}")
    for problem in problems:
        print(f"no fair comparison: {problem}")
    facts = {"size": given.size, "precision": given.precision, "texts": texts.source(), "measured": measured}
    facts |= {"repeats": given.repeats, "sides": summaries, "problems": problems}
    name = f"generate-{given.size}-{given.precision}{alternate.suffix(given.device)}"
    keep(name, facts, given.json)
    return int(bool(problems))


def there(asked: Sequence[str]) -> list[str]:
    """The sides that are asked for, without vLLM where its environment is not made; that is said."""
    python = alternate.peers_folder() / generation.VLLM / "bin" / "python"
    if "vLLM" not in asked or python.exists():
        return [side for side in SIDES if side in asked]
    print(f"vLLM is left out: {python} is not there; python -m benchmarks peers {generation.VLLM} makes it")
    return [side for side in SIDES if side in asked and side != "vLLM"]


def _run(folder: Path, case: Case, given: argparse.Namespace, side: str) -> dict[str, Any]:
    return generation.run(folder, side, case, precision=given.precision, runs=given.runs, device=given.device)


def disagreements(folder: Path, sides: Sequence[str], device: str = "cpu") -> list[str]:
    """The sides whose greedy answers are not those of the first one, with how many tokens agree from the start."""
    case = Case(prompts=16, samples=1, longest=24)
    answers = {
        side: generation.run(folder, side, case, precision="fp32", runs=0, greedy=True, device=device)["tokens"]
        for side in sides
    }
    first, *others = sides
    problems: list[str] = []
    for side in others:
        unequal = sum(mine != theirs for mine, theirs in zip(answers[first], answers[side], strict=True))
        if unequal:
            problems.append(f"{unequal} of {len(answers[side])} greedy answers of {side} differ from those of {first}")
    return problems


def ratios(summaries: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, float]:
    """Tokens a second and memory growth of ours as a multiple of each other side's, by case."""
    found: dict[str, float] = {}
    for case, sides in summaries.items():
        ours = sides.get("posttrain")
        for side, theirs in sides.items():
            if ours is None or side == "posttrain":
                continue
            name = f"{case} against {side}"
            found[f"{name}, times"] = ours["tokens_per_second"].median / theirs["tokens_per_second"].median
            found[f"{name}, growth"] = ours["growth"].median / theirs["growth"].median
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks generate", description=f"{__doc__}\n{generation.__doc__}",
        formatter_class=argparse.RawTextHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--size", default="15m", choices=SIZES)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="of the weights of all sides")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--sides", nargs="+", default=["posttrain", "HF", "vLLM"], choices=SIDES)
    parser.add_argument("--runs", type=int, default=2, help="in a process, after one that is not counted")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each side, in turns")
    alternate.add_device(parser)
    parser.add_argument("--quick", action="store_true", help="one run in one process each")
    parser.add_argument("--no-greedy", action="store_true", help="greedy answers are not compared first")
    parser.add_argument("--json", type=Path, help="where the finding goes, in place of benchmarks/results")
    given = parser.parse_args()
    if given.quick:
        given.runs, given.repeats = 1, 1
    alternate.show_device(given.device)
    if given.device != "cpu":  # vLLM here is built for CPUs
        given.sides = [side for side in given.sides if side != "vLLM"]
    return given
