"""The card of a reward model: all that `reward_measures` finds, as facts for JSON and as a table for reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from posttrain.measures.disagreements import Disagreement, Reader, disagreements
from posttrain.measures.rewards import (
    Agreement,
    LengthBias,
    Part,
    Scores,
    by_annotator,
    by_gap,
    by_length,
    comparisons,
    human_agreement,
    length_bias,
    part_of,
    right,
)
from posttrain.ops.statistics import calibration_curve, calibration_error

_BINS = 20
"""Of probabilities in [0, 1], of which the likelier half is used: ten bins from one half to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardFindings:
    """The whole card of a reward model on some rankings.

    `by_gap` goes by the distance of the two scores, `by_length` by which answer is the longer and how much,
    `by_annotator` by who ranked. `curve`: mean probability, mean outcome and count of each bin. `disagreements` are the
    largest, with their texts; none where no texts were asked for.
    """

    rankings: int
    accuracy: Part
    by_gap: Mapping[str, Part]
    by_length: Mapping[str, Part]
    by_annotator: Mapping[str, Part]
    calibration_error: float
    curve: Sequence[tuple[float, float, int]]
    length: LengthBias
    agreement: Agreement
    disagreements: Sequence[Disagreement] = ()

    def facts(self) -> dict[str, object]:
        """All of it as plain values, for JSON."""
        bias = {name: value for name, value in asdict(self.length).items() if isinstance(value, float)}
        return {
            "rankings": self.rankings,
            "accuracy": self.accuracy.facts(),
            "by_gap": _facts(self.by_gap),
            "by_length": _facts(self.by_length),
            "by_annotator": _facts(self.by_annotator),
            "calibration": {
                "error": self.calibration_error,
                "bins": [{"probability": said, "accuracy": was, "count": count} for said, was, count in self.curve],
            },
            "length": {
                **bias,
                "longer_wins": self.length.longer_wins.facts(),
                "scores_longer_higher": self.length.scores_longer_higher.facts(),
            },
            "agreement": {"people": self.agreement.people.facts(), "model": self.agreement.model.facts()},
            "disagreements": [each.facts() for each in self.disagreements],
        }

    def table(self) -> list[dict[str, object]]:
        """Rows for reading."""
        rows = [_of(self.accuracy, "accuracy")]
        rows += [_of(part, f"  scores {name}") for name, part in self.by_gap.items()]
        rows += [_of(part, f"  better is {name}") for name, part in self.by_length.items()]
        rows += [_of(part, f"  by {name}") for name, part in self.by_annotator.items()]
        rows.append(_of(self.length.longer_wins, "the longer is better"))
        rows.append(_of(self.length.scores_longer_higher, "the longer scores higher"))
        rows.append(_row("score-length correlation", f"{self.length.correlation:.3f}"))
        rows.append(_row("  within prompts", f"{self.length.within_prompts:.3f}"))
        rows.append(_row("calibration error", f"{self.calibration_error:.3f}"))
        rows.append(_of(self.agreement.people, "two people agree"))
        if self.agreement.people.share.count:
            rows.append(_of(self.agreement.model, "  accuracy on their rankings"))
        return rows


def findings_of(rankings: Sequence[Scores], read: Reader | None = None) -> RewardFindings:
    """What the raw scores of a reward model say of rankings, with the texts of the largest disagreements by `read`."""
    pairs = comparisons(rankings)
    # How sure the model is of the answer that it prefers, and whether that is the better one.
    sure, hits = pairs.gap.abs().sigmoid(), right(pairs.gap)
    return RewardFindings(
        rankings=len(rankings),
        accuracy=part_of(hits, pairs),
        by_gap=by_gap(pairs),
        by_length=by_length(pairs),
        by_annotator=by_annotator(pairs),
        calibration_error=calibration_error(sure, hits, bins=_BINS),
        curve=calibration_curve(sure, hits, bins=_BINS),
        length=length_bias(rankings, pairs),
        agreement=human_agreement(rankings),
        disagreements=[] if read is None else disagreements(rankings, read),
    )


def _facts(parts: Mapping[str, Part]) -> dict[str, object]:
    return {name: part.facts() for name, part in parts.items()}


def _of(part: Part, measure: str) -> dict[str, object]:
    if part.share.count == 0:
        return _row(measure, "none")
    low, high = part.over_prompts
    interval = f"{low:.3f} to {high:.3f}" if part.prompts > 1 else ""
    return _row(measure, f"{part.share.value:.3f}", interval, f"{part.share.count:,} of {part.prompts:,}")


def _row(measure: str, value: str, interval: str = "", pairs: str = "") -> dict[str, object]:
    return {"measure": measure, "value": value, "95 % over prompts": interval, "pairs of prompts": pairs}
