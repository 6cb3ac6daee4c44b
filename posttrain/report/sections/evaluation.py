"""Everything that was measured of the model afterwards, with intervals, and its worst answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.report.parts import Answer, Answers, Folded, Part, Prose, Section, Table
from posttrain.report.reading import Read
from posttrain.report.sections.reward import disagreements
from posttrain.report.stored import Stored, stored
from posttrain.report.words import MEASURE_COLUMNS, cells_of, is_measure, short

_WORST, _BEST = 6, 3
# What the estimates say too, with an interval.
_TOLD = ("answers", "judge_score", "against_score")
_MADE_TO_DAY = 10


def evaluation(run: Read) -> Section | None:
    """Each stored evaluation, the newest first: its measures, and answers from the worst on; None without any."""
    found = stored(run)
    if not found:
        return None
    parts: list[Part] = []
    for number, each in enumerate(reversed(found)):
        own = [Prose(text=_heading(each)), _measures(each), *_answers(each), *disagreements(_card(each))]
        parts += own if number == 0 else [Folded(title=_heading(each), parts=own[1:])]
    return Section(
        id="evaluation",
        title="Evaluation",
        parts=parts,
        facts={"evaluations": [_facts(each) for each in found]},
    )


def _heading(each: Stored) -> str:
    against = f" against {each.against}" if each.against else ""
    judge = f", judged by {each.judge}" if each.judges else ""
    return f"{each.model}{against} on {each.where}{judge} ({each.made[:_MADE_TO_DAY]})."


def _card(each: Stored) -> Mapping[str, Any]:
    return each.measures.get("reward_card") or {}


def _facts(each: Stored) -> dict[str, Any]:
    return {
        "made": each.made,
        "data": list(each.data),
        "against": each.against,
        "judges": list(each.judges),
        "prompts": each.count,
        "measures": {name: value for name, value in each.measures.items() if name != "reward_card"},
        "estimates": dict(each.estimates),
    }


def _measures(each: Stored) -> Table:
    """The estimates over prompts, then what else was measured."""
    rows = [cells_of(_words(name), measure) for name, measure in each.estimates.items() if is_measure(measure)]
    for name, value in each.measures.items():
        if name in _TOLD and "score" in each.estimates:
            continue
        if is_measure(value) and name not in each.estimates:
            rows.append(cells_of(_words(name), value))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            rows.append([_words(name), value, None, None, None])
    return Table(columns=MEASURE_COLUMNS, rows=rows, caption="Intervals are of 95 %.")


def _words(name: str) -> str:
    known = {
        "win_rate": "share of prompts won (ties half)",
        "gain": "score, less that of the other model",
        "against_score": "score of the other model",
        "ended_by_itself": "ended by itself",
        "kl_per_answer": "KL, nats per answer",
        "nll": "loss, nats per token",
    }
    return known.get(name, name.replace("_", " "))


# --- answers ----------------------------------------------------------------------------------------------------------


def _answers(each: Stored) -> list[Part]:
    """The worst answers, by what they lost against the other model, by score or by a measure; then some of the best."""
    by, merits = merits_of(each)
    known = [(merit, text) for text in each.prompts if (merit := _at(merits, text)) is not None]
    known.sort(key=lambda item: item[0])
    if not known:
        texts = [_shown(each, text) for text in each.prompts[:_WORST]]
        return [Folded(title="Answers", parts=texts)] if texts else []
    worst, best = known[:_WORST], known[_WORST:][-_BEST:]
    parts: list[Part] = [Prose(text=f"The worst answers, by {by}:"), *(_shown(each, text) for _, text in worst)]
    if best:
        parts.append(Folded(title="The best answers", parts=[_shown(each, text) for _, text in reversed(best)]))
    return parts


def merits_of(each: Stored) -> tuple[str, Sequence[float | None]]:
    """By what the answers of an evaluation are put in order, in words, and the number of each prompt."""
    scores, others = each.per_prompt.get("score"), each.per_prompt.get("against_score")
    if scores and others:
        pairs = zip(scores, others, strict=True)
        return "the score less the other model's", [None if None in pair else pair[0] - pair[1] for pair in pairs]
    for name, values in each.per_prompt.items():
        if name not in ("tokens", "stopped", "against_score", "win"):
            return name.replace("_", " "), values
    return "", []


def _at(values: Sequence[Any], text: Mapping[str, Any]) -> float | None:
    place = text.get("place", -1)
    return values[place] if 0 <= place < len(values) else None


def _shown(each: Stored, row: Mapping[str, Any]) -> Answers:
    answers = [_answer(each.model, row, "")]
    if "against_answer" in row:
        answers.append(_answer(str(each.against), row, "against_"))
    if "reference" in row:
        answers.append(Answer(label="reference", text=row["reference"]))
    return Answers(prompt=row["prompt"], answers=answers)


def _answer(label: str, row: Mapping[str, Any], whose: str) -> Answer:
    score = row.get(f"{whose}score")
    return Answer(
        label=label,
        text=row[f"{whose}answer"],
        stopped=bool(row.get(f"{whose}stopped", True)),
        note="" if score is None else f"score {short(score)}",
    )
