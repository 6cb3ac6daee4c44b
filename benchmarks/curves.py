"""Cost curves: time and memory of a step against what it is made of, ours, and TRL's where it is cheap.

    python -m benchmarks curves [length batch vocabulary answers adapters group response] [--peer] [--figures]

    length      tokens of a row, 8,192 tokens a step (sft)
    batch       tokens of a micro-batch, 32 rows a step (sft)
    vocabulary  words of the model, 32 rows a step (sft)
    answers     ranked answers K of a prompt, 8 prompts a step (reward and dpo)
    adapters    rank of the adapters, none first, 32 rows a step (sft)
    group       answers G to a prompt, 32 answers a round (ppo, layout separate)
    response    longest answer in tokens, which all answers have, 32 answers a round (ppo, layout separate)

All at 15m and fp32, each point a process of its own: the faster of two steps after one that is not counted, for others
may share the machine, and of PPO one round. What is counted stands in `benchmarks.frame.training`,
`benchmarks.frame.rounds` and `benchmarks.frame.flops`; where two sides disagree the command ends. The number of rows
stands in `starts`. A step of PPO is a round, and its tokens are those that were sampled.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.frame import rounds, texts, training
from benchmarks.frame.report import keep, print_table
from benchmarks.frame.sizes import SIZES, Size

FIGURES = Path(__file__).parent / "figures"
STEPS, ROUNDS_EACH = 3, 2
TOKENS = 8_192
RANKED = 8
LARGE = {"micro_batch_tokens": 8192}


@dataclass(frozen=True, kw_only=True)
class Point:
    """A place on a curve: what is trained there, and whether TRL can do the same."""

    at: int
    method: str = "sft"
    size: Size = SIZES["15m"]
    batch: int = training.BATCH
    rows: Sequence[dict[str, Any]] = ()
    settings: Mapping[str, Any]
    peer: bool = False


def length() -> Iterator[Point]:
    """Rows of so many tokens, a third of them the prompt."""
    for tokens in (128, 256, 512, 1024, 2048):
        batch = TOKENS // tokens
        rows = list(_long_rows(tokens, STEPS * batch))
        yield Point(at=tokens, batch=batch, rows=rows, settings=LARGE, peer=tokens in (128, 512, 2048))


def batch() -> Iterator[Point]:
    """Micro-batches of so many tokens."""
    for tokens in (512, 1024, 2048, 4096, 8192):
        yield Point(at=tokens, settings={"micro_batch_tokens": tokens})


def vocabulary() -> Iterator[Point]:
    """Models of so many words, of which the texts use what their tokenizer has."""
    for words in (8_000, 32_000, 128_000):
        size = replace(SIZES["15m"], vocabulary=words)
        yield Point(at=words, size=size, settings=LARGE, peer=words != 32_000)


def answers() -> Iterator[Point]:
    """Prompts with so many ranked answers, for a reward model and for DPO."""
    for method in ("reward", "dpo"):
        for count in (2, 4, 8):
            yield Point(at=count, method=method, batch=RANKED, rows=_ranked(count), settings=LARGE)


def adapters() -> Iterator[Point]:
    """Adapters of so high a rank on all linear layers; 0: all weights are trained."""
    for rank in (0, 8, 64):
        yield Point(at=rank, settings={**LARGE, "lora": {"rank": rank} if rank else None})


CURVES: dict[str, Callable[[], Iterator[Point]]] = {
    "length": length, "batch": batch, "vocabulary": vocabulary, "answers": answers, "adapters": adapters
}  # fmt: skip

# Places on the curves of PPO: settings of `rounds.make_ground`, and whether TRL is asked as well.
ROUNDS: dict[str, dict[int, bool]] = {
    "group": {1: True, 2: False, 4: False, 8: True},
    "response": {16: False, 32: True, 64: False, 128: True},
}


# --- rows -------------------------------------------------------------------------------------------------------------


def _long_rows(tokens: int, count: int) -> Iterator[dict[str, Any]]:
    """Rows of nearly so many tokens, cut out of the answers one after another."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - where rows are made

    with tempfile.TemporaryDirectory() as folder:
        texts.write_tokenizer(Path(folder), vocabulary=SIZES["15m"].vocabulary)
        words = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    stream: list[int] = []
    for asked, answer in texts.answers():
        stream += words.encode(f"{asked} {answer} ").ids
    frame = 32  # what the template and the number add
    for number in range(count):
        first = number * tokens % (len(stream) - tokens)
        cut = first + tokens // 3
        asked, answer = words.decode(stream[first:cut]), words.decode(stream[cut : first + tokens - frame])
        yield training.row(f"{number} {asked}", completion=answer)


def _ranked(count: int) -> list[dict[str, Any]]:
    """Questions with the answers of `count` questions, their own the best; ranks follow the order."""
    rows = texts.answers()
    return [
        {
            **training.row(asked),
            "responses": [rows[(place + step) % len(rows)][1] for step in range(count)],
            "ranks": list(range(1, count + 1)),
        }
        for place, (asked, _) in enumerate(rows[: STEPS * RANKED])
    ]


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(point: Point, *, peer: bool) -> Iterator[dict[str, Any]]:
    """Ours at a point, then TRL's where it is asked for. Raises SystemExit where the two did not do the same."""
    with tempfile.TemporaryDirectory() as name:
        ground = training.make_ground(Path(name), point.method, point.size, STEPS, batch=point.batch, rows=point.rows)
        found = {"posttrain": training.run_ours(ground, "fp32", point.settings)}
        if peer and point.peer:
            found["TRL fp32"] = training.run_peer(ground, "fp32")
        tolerance = training.TOLERANCE["fp32"]
        _refuse(point.at, training.disagreements(ground, {side: [run] for side, run in found.items()}, tolerance))
        left = [ground.rows.work(step).useful for step in range(STEPS + 1)]
        for side, run in found.items():
            before = (run["before"] or {"seconds": 0.0})["seconds"] / STEPS  # a reference's log-probs
            steps = [(run["seconds"][step] + before, left[step] - left[step + 1]) for step in range(1, STEPS)]
            seconds, tokens = min(steps, key=lambda step: step[0] / step[1])
            yield _place(point.method, point.at, side, seconds, tokens, run["growth"])


def measure_rounds(name: str, at: int, *, peer: bool) -> Iterator[dict[str, Any]]:
    """A round of ours at a place of a curve of PPO, then TRL's where it is asked for. Raises as `measure` does."""
    group, longest = (at, 64) if name == "group" else (1, at)
    with tempfile.TemporaryDirectory() as folder:
        ground = rounds.make_ground(
            Path(folder), SIZES["15m"], rounds=ROUNDS_EACH, longest=longest, ends=False, group=group
        )
        found = {"posttrain": rounds.run_ours(ground, "separate", "fp32")}
        if peer and ROUNDS[name][at]:
            found["TRL fp32"] = rounds.run_peer(ground, "fp32")
        facts = {side: rounds.summary(ground, [run], "separate", math.inf) for side, run in found.items()}
        _refuse(at, rounds.disagreements(ground, facts))
        for side, run in found.items():
            tokens = rounds.ROLLOUTS * facts[side]["length"]
            yield _place("ppo", at, side, min(run["seconds"][1:]), tokens, run["growth"])


def _refuse(at: int, problems: Sequence[str]) -> None:
    if problems:
        raise SystemExit("\n".join(f"no fair comparison at {at}: {problem}" for problem in problems))


def _place(method: str, at: int, side: str, seconds: float, tokens: float, growth: float) -> dict[str, Any]:
    """What is told of a side at a place of a curve."""
    return {
        "method": method, "at": at, "side": side, "seconds": seconds, "tokens_per_second": tokens / seconds,
        "growth_mb": growth / 1e6,
    }  # fmt: skip


def points(name: str, *, peer: bool) -> Iterator[dict[str, Any]]:
    """What is found at the places of a curve, in order."""
    if name in ROUNDS:
        for at in ROUNDS[name]:
            yield from measure_rounds(name, at, peer=peer)
        return
    for point in CURVES[name]():
        yield from measure(point, peer=peer)


def main() -> int:
    """0: curves are published, whatever they are."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks curves", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = [*CURVES, *ROUNDS]
    parser.add_argument("curves", nargs="*", metavar="CURVE", help=", ".join(names))
    parser.add_argument("--peer", action="store_true", help="TRL beside, at a few points")
    parser.add_argument("--figures", action="store_true", help="draw what was found, and measure nothing")
    given = parser.parse_args()
    unknown = [name for name in given.curves if name not in names]
    if unknown:
        parser.error(f"{', '.join(unknown)} is not one of {', '.join(names)}")
    if given.figures:
        from benchmarks.frame.figures import draw  # noqa: PLC0415 - matplotlib is needed for nothing else

        draw(FIGURES)
        return 0
    for name in given.curves or names:
        found: list[dict[str, Any]] = []
        print(f"{name}", flush=True)
        for facts in points(name, peer=given.peer):
            found.append(facts)
            print_table([_row(facts)])
        keep(f"curve-{name}", {"points": found, "texts": texts.source()})
    return 0


def _row(facts: Mapping[str, Any]) -> dict[str, object]:
    return {
        "method": f"{facts['method']:7}",
        "at": f"{facts['at']:>7,}",
        "side": f"{facts['side']:10}",
        "s/step": f"{facts['seconds']:6.2f}",
        "tokens/s": f"{facts['tokens_per_second']:7,.0f}",
        "growth MB": f"{facts['growth_mb']:7,.0f}",
    }
