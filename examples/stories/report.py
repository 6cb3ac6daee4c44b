"""The results as a table for people and as JSON, with what was to be shown and whether it was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from examples.stories.measures import Measures
from examples.stories.stages import Plan
from posttrain.ops.statistics import Interval
from posttrain.workflows.world.annotator import Agreement

LEAST_ENDED, LENGTH_BAND, LARGEST_KL = 0.9, 0.3, 25.0
COLUMNS = (
    "model", "gold (95 %)", "gain over SFT (95 %)", "wins over SFT (95 %)", "KL to SFT, nats an answer",
    "ended by itself", "median tokens", "sentiment", "repetition", "distinct bigrams", "reward score",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything that a run of the pipeline found. `reward`: the accuracy on held-out rankings as plain facts."""

    model: str
    data: str
    plan: Plan
    measures: Sequence[Measures]
    labels: Agreement
    reward: Mapping[str, Any]
    seconds: Mapping[str, float]

    def of(self, name: str) -> Measures:
        """The measures of one model."""
        return next(row for row in self.measures if row.name == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One thing that was to be shown, what was found, and whether it was reached."""

    goal: str
    found: str
    reached: bool


def verdicts(results: Results) -> list[Verdict]:
    """What the pipeline is to show, judged by its numbers."""
    base, sft, references = results.of("base"), results.of("SFT"), results.of("references")
    ratio = sft.median_tokens / references.median_tokens
    found = [
        Verdict(
            goal=f"stories ended by themselves: from 0 to at least {LEAST_ENDED:.0%} after SFT",
            found=f"{base.ended.value:.1%} → {sft.ended.value:.1%}",
            reached=sft.ended.value >= LEAST_ENDED,
        ),
        Verdict(
            goal=f"median length after SFT within {LENGTH_BAND:.0%} of the references'",
            found=f"{sft.median_tokens:.0f} of {references.median_tokens:.0f} tokens",
            reached=abs(ratio - 1) <= LENGTH_BAND,
        ),
    ]
    for name in ("PPO", "DPO"):
        against = results.of(name).against
        if against is not None:
            low, high = against.win_rate.interval
            found += [
                Verdict(
                    goal=f"{name} beats SFT in gold on the same prompts, interval above 0.5",
                    found=f"{against.win_rate.value:.3f} ({low:.3f} to {high:.3f})",
                    reached=low > 0.5,
                ),
                Verdict(
                    goal=f"{name} stays within {LARGEST_KL:.0f} nats an answer of SFT",
                    found=f"{against.kl:.1f}",
                    reached=against.kl <= LARGEST_KL,
                ),
            ]
    return found


def markdown(results: Results) -> str:
    """The tables of results.md."""
    rows = [_cells(row) for row in results.measures]
    goals = [[verdict.goal, verdict.found, "yes" if verdict.reached else "**no**"] for verdict in verdicts(results)]
    labels, (low, high) = results.labels, results.reward["interval"]
    seconds = ", ".join(f"{stage} {value:.0f}" for stage, value in results.seconds.items())
    return "\n\n".join(
        [
            f"`{results.model}` on `{results.data}`; fresh answers to {results.plan.held_out_prompts} held-out "
            f"prompts, one each, seed {results.plan.seed}.",
            _table(COLUMNS, rows),
            _table(("to be shown", "found", "reached"), goals),
            f"The annotator is **simulated**. The hidden gold score agrees with {labels.gold:.3f} of its "
            f"{labels.pairs:,} strict pairs, the ceiling for any reward model; two such annotators would agree on "
            f"{labels.between:.3f}. "
            f"The reward model agrees with {results.reward['value']:.3f} ({low:.3f} to {high:.3f}) of the "
            f"{results.reward['count']:,} pairs of held-out prompts.",
            f"Seconds: {seconds}; together {sum(results.seconds.values()):.0f}.",
            "The first held-out prompt, answered:",
            _table(("model", "story"), [[row.name, " ".join(row.quality.first.split())] for row in results.measures]),
        ]
    )


def write_results(results: Results, out: Path) -> None:
    """Writes results.md and results.json."""
    facts = {**asdict(results), "verdicts": [asdict(verdict) for verdict in verdicts(results)]}
    (out / "results.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "results.md").write_text("# Stories\n\n" + markdown(results) + "\n", encoding="utf-8")


def _cells(row: Measures) -> list[str]:
    quality, against = row.quality, row.against
    return [
        row.name,
        f"{quality.gold:.3f} {_interval(quality.gold_interval)}",
        f"{against.gain:+.3f} {_interval(against.gain_interval, '+.3f')}" if against else "",
        f"{against.win_rate.value:.3f} {_interval(against.win_rate.interval)}" if against else "",
        f"{against.kl:.1f}" if against else "",
        f"{row.ended.value:.1%}",
        f"{row.median_tokens:.0f}",
        f"{quality.sentiment:.3f}",
        f"{quality.repetition:.3f}",
        f"{quality.distinct_bigrams:.3f}",
        "" if row.reward is None else f"{row.reward:.2f}",
    ]


def _interval(interval: Interval, form: str = ".3f") -> str:
    return f"({interval[0]:{form}} to {interval[1]:{form}})"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
