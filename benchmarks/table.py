"""The goals of speed beside what was measured, as a table in markdown, from the findings in `benchmarks/results`.

    python -m benchmarks table [--results FOLDER] [--write]

Nothing is measured here. Every benchmark writes its finding as JSON, with `measured`: the numbers that goals are about.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.frame.report import RESULTS

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A number of a finding and where it shall lie: at least `least`, or at most `most`; neither: it is published."""

    work: str
    what: str
    finding: str
    key: str
    least: float | None = None
    most: float | None = None
    unit: str = "x"

    @property
    def asked(self) -> str:
        """`≥ 5x`."""
        if self.least is not None:
            return f"≥ {_number(self.least, self.unit)}"
        return "published" if self.most is None else f"≤ {_number(self.most, self.unit)}"

    def met(self, value: float) -> str:
        """Yes or no; nothing where a number is only published."""
        if self.least is None and self.most is None:
            return ""
        good = value >= self.least if self.least is not None else value <= (self.most or 0.0)
        return "yes" if good else "**no**"


def _training(work: str, method: str, least: tuple[float, float], most: float, gemm: bool) -> list[Goal]:
    """The goals of a training method at 15m: times the tokens of TRL in fp32 and at its best, memory, share of GEMM."""
    goals: list[Goal] = []
    for precision, times in zip(("fp32", "best"), least, strict=True):
        against = "TRL, fp32" if precision == "fp32" else "TRL at its fastest, ours bf16"
        name = f"{method}-15m-{precision}"
        goals.append(Goal(work=work, what=f"tokens/s against {against}", finding=name, key="times", least=times))
        goals.append(Goal(work=work, what=f"memory growth against {against}", finding=name, key="growth", most=most))
    shares = (("fp32", 0.6), ("best", 0.5 if method == "sft" else 0.6)) if gemm else ()
    for precision, share in shares:
        shown = "fp32" if precision == "fp32" else "bf16"
        name = f"{method}-15m-{precision}"
        goals.append(
            Goal(work=work, what=f"share of GEMM peak, {shown}", finding=name, key="gemm", least=share, unit="%")
        )
    return goals


def _larger() -> list[Goal]:
    """The goals at 60m and 135m."""
    goals: list[Goal] = []
    for size, of in {
        "60m": {"sft": 3.0, "dpo": 2.5, "reward": 2.0, "ppo": 1.6},
        "135m": {"sft": 1.0, "dpo": 1.0, "reward": 1.0},
    }.items():
        for method, times in of.items():
            name = {"sft": "SFT", "dpo": "DPO", "ppo": "PPO"}.get(method, method)
            unit = "rounds/s" if method == "ppo" else "tokens/s"
            what = f"{unit} against TRL, fp32"
            goals.append(
                Goal(work=f"{name}, {size}", what=what, finding=f"{method}-{size}-fp32", key="times", least=times)
            )
    return goals


def _rollouts() -> list[Goal]:
    """The goals of PPO and of generation at 15m."""
    ours = "rounds/s against TRL 1.11"
    ppo = [
        ("separate, ", "ppo-15m-fp32", "", 2.5, 0.5),
        ("adapters, ", "ppo-15m-fp32", "adapters ", None, 0.3),
        ("trunk, ", "ppo-15m-fp32", "trunk ", None, 0.5),
        ("trunk in bf16, answers end, ", "ppo-15m-bf16-ends", "trunk ", 5.0, 0.5),
    ]
    goals: list[Goal] = []
    for layout, name, key, least, most in ppo:
        goals.append(Goal(work="PPO", what=f"{layout}{ours}", finding=name, key=f"{key}times", least=least))
        goals.append(Goal(work="PPO", what=f"{layout}memory growth", finding=name, key=f"{key}growth", most=most))
    for layout, key, share in (("separate", "", 0.6), ("adapters", "adapters ", None), ("trunk", "trunk ", None)):
        what = f"{layout}, share of GEMM peak of the update"
        goals.append(Goal(work="PPO", what=what, finding="ppo-15m-fp32", key=f"{key}gemm", least=share, unit="%"))
    for case, least in (("uniform", 2.5), ("ragged", 5.0), ("group", None)):
        for precision in ("fp32", "bf16"):
            name = f"generate-15m-{precision}"
            for side, times in (("HF", least), ("vLLM", 1 / 1.3)):
                key = f"{case} against {side}, times"
                what = f"{case}, {precision}, tokens/s against {side}"
                goals.append(Goal(work="generation", what=what, finding=name, key=key, least=times))
            key = f"{case} against HF, growth"
            goals.append(
                Goal(work="generation", what=f"{case}, {precision}, memory growth", finding=name, key=key, most=0.3)
            )
    return goals


GOALS: list[Goal] = [
    *_training("SFT", "sft", (5.0, 8.0), 0.2, gemm=True),
    *_training("DPO", "dpo", (5.0, 8.0), 0.2, gemm=True),
    *_training("reward", "reward", (2.5, 4.0), 0.4, gemm=False),
    Goal(
        work="reward", what="growth with checkpointing against TRL's with bf16 and checkpointing",
        finding="reward-15m-lean", key="growth", most=1.0,
    ),
    *_rollouts(),
    *_larger(),
    Goal(work="data", what="rows/s read and checked", finding="data", key="rows_per_second", least=1e5, unit=""),
    Goal(
        work="data", what="seconds of tokenising against the tokenizer library alone, 100,000 rows",
        finding="starts", key="over_tokenizer",
    ),
    Goal(
        work="data", what="memory of a first start on 100,000 rows against one on 1,000", finding="starts",
        key="growth_by_rows",
    ),
    Goal(work="data", what="second start on the same data", finding="starts", key="second_start", most=2.0, unit=" s"),
    Goal(
        work="memory", what="growth over 1,000 updates, the worst method", finding="flat", key="growth_mb", most=8.0,
        unit=" MB",
    ),
    Goal(
        work="checkpoints", what="share of its time that SFT at 15m loses to saves every 10 steps",
        finding="saves-15m", key="beside held", most=0.05, unit="%",
    ),
    Goal(
        work="ranking", what="50 annotators on 2 cores: seconds of 95 % of their actions, a second between two",
        finding="rank", key="paused all p95", most=0.1, unit=" s",
    ),
    Goal(
        work="ranking", what="the same without a pause", finding="rank", key="no pause all p95", most=0.1, unit=" s",
    ),
]  # fmt: skip


def lines(findings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The table: a line a goal, with `not measured` where there is no finding."""
    heads = ("work", "what", "goal", "measured", "met", "command", "date", "commit", "machine")
    found = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    numbers = {machine: place for place, machine in enumerate(_machines(findings), 1)}
    for goal in GOALS:
        finding = findings.get(goal.finding, {})
        value = finding.get("measured", {}).get(goal.key)
        shown = "not measured" if value is None else _number(value, goal.unit)
        met = "" if value is None else goal.met(value)
        if finding.get("problems"):  # its own command says that the sides cannot be compared
            shown, met = "no fair comparison", ""
        about = "| | | | |"
        if finding:
            where = f"{finding.get('commit')} | {numbers[str(finding.get('machine'))]}"
            about = f"| `{finding['command']}` | {finding['date']} | {where} |"
        found.append(f"| {goal.work} | {goal.what} | {goal.asked} | {shown} | {met} {about}")
    return found


def _machines(findings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return sorted({str(finding.get("machine")) for finding in findings.values()})


def _number(value: float, unit: str) -> str:
    if unit == "%":
        return f"{value:.0%}"
    return f"{value:,.0f}{unit}" if value >= 1000 else f"{value:.3g}{unit}"


def main() -> int:
    """Prints the table, and on which machines it was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks table", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--write", action="store_true", help="put it into benchmarks/README.md")
    given = parser.parse_args()
    files = sorted(given.results.glob("*.json"))
    found = text({file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files})
    if given.write:
        page = README.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{found}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    print(found)
    return 0


def text(findings: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, and below it the machines."""
    told = ["\n".join(lines(findings))]
    told += [f"machine {number}: {machine}" for number, machine in enumerate(_machines(findings), 1)]
    return "\n\n".join(told)
