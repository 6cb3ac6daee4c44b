"""The card of a reward model: how often it is right, how sure it is, what it leans on, and where it is most wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.counted import counted
from posttrain.measures import preference_health
from posttrain.measures.quantities import course, of
from posttrain.report.findings import facts_of
from posttrain.report.parts import Answer, Answers, Chart, Folded, Part, Prose, Section, Series, Table, Warned
from posttrain.report.reading import Read
from posttrain.report.terms import term
from posttrain.report.words import MEASURE_COLUMNS, cells_of, short

Card = Mapping[str, Any]
_SHOWN = 6


def reward(run: Read) -> Section | None:
    """The card on held-out rankings, or on those it learnt from where none were held out; None without a card."""
    cards = run.card or {}
    which = next((name for name in ("held_out", "training") if name in cards), None)
    if which is None:
        return None
    card: Card = cards[which]
    findings = preference_health.of_card(card)
    parts: list[Part] = [Prose(text=_what(which, card)), _accuracy(cards)]
    parts += [Warned(finding=finding) for finding in findings if finding.name != "calibration"]
    parts += [_calibration(card), *_tables(card), *_training(run), *disagreements(card)]
    return Section(
        id="reward",
        title="Reward card",
        parts=parts,
        facts={"on": which, "card": dict(card), "findings": facts_of(findings)},
    )


def _what(which: str, card: Card) -> str:
    rankings = counted(card["rankings"], "ranking")
    if which == "held_out":
        return f"On {rankings} that were held out."
    return f"On the {rankings} that it learnt from, as none were held out: on others it will do worse."


def _accuracy(cards: Mapping[str, Card]) -> Table:
    """Accuracy on each kind of rankings, and beside it what people reach with each other."""
    rows: list[Sequence[Any]] = []
    for name, card in cards.items():
        kind = name.replace("_", "-")
        rows.append(cells_of(f"accuracy, {kind} rankings", card["accuracy"]))
        for who, words in (("people", "two people agree"), ("model", "accuracy on their rankings")):
            measure = card.get("agreement", {}).get(who)
            if measure and measure["count"]:
                rows.append(cells_of(f"{words}, {kind} rankings", measure))
    caption = "Of pairs of answers that people ranked one above the other; intervals are over prompts."
    if len(rows) == len(cards):
        caption += (
            " No prompt was ranked by two people, so how far people agree, the most that it can reach, is not known."
        )
    return Table(columns=MEASURE_COLUMNS, rows=rows, caption=caption)


def _calibration(card: Card) -> Chart:
    """How often the model is right where it is so sure, beside the line on which both are the same."""
    bins: Sequence[Card] = card["calibration"]["bins"]
    said = [bin_["probability"] for bin_ in bins]
    return Chart(
        id="reward-calibration",
        title="Calibration",
        series=[
            Series(name="measured", x=said, y=[bin_["accuracy"] for bin_ in bins]),
            Series(name="as sure as it is right", x=[0.5, 1.0], y=[0.5, 1.0]),
        ],
        x="probability that it gives",
        y="share right",
        finding=preference_health.calibration(card),
        about="The difference of two scores, through a sigmoid, is the probability that the first answer is preferred.",
        link=term("accuracy").link,
    )


def _tables(card: Card) -> list[Part]:
    """Accuracy by the distance of the scores, by length and by annotator."""
    parts: list[Part] = []
    titles = (
        ("by_gap", "Accuracy by how far the two scores are apart"),
        ("by_length", "Accuracy by how much longer the better answer is, in tokens"),
        ("by_annotator", "Accuracy by who ranked"),
    )
    for name, title in titles:
        rows = [cells_of(str(part), measure) for part, measure in card.get(name, {}).items() if measure["count"]]
        if rows:
            parts.append(Table(columns=MEASURE_COLUMNS, rows=rows, caption=title))
    length = card.get("length", {})
    correlations = ("correlation", "rank_correlation", "within_prompts")
    rows = [[name.replace("_", " "), length[name]] for name in correlations if name in length]
    if rows:
        parts.append(Table(columns=("of score and length", "value"), rows=rows, caption="Correlation with length"))
    return parts


def _training(run: Read) -> list[Part]:
    """Accuracy and loss while it learnt, on its own rankings and on held-out ones."""
    charts: list[Part] = []
    for name in ("accuracy", "loss"):
        lines = ((metric, course(run.metrics, of(metric))) for metric in (name, f"eval_{name}"))
        series = [Series(name=metric, x=found.at, y=found.values) for metric, found in lines if found]
        if series:
            finding = preference_health.overfitting(run.metrics) if name == "loss" else None
            title = f"{name.capitalize()} while it learnt"
            charts.append(
                Chart(id=f"reward-{name}", title=title, series=series, finding=finding, link=term("accuracy").link)
            )
    return charts


def disagreements(card: Card, most: int = _SHOWN) -> list[Part]:
    """The rankings in which the model is surest of the wrong answer, the rest of them folded."""
    found: Sequence[Card] = card.get("disagreements", [])
    if not found:
        return []
    texts: list[Part] = [_disagreement(each) for each in found]
    what = "Where it disagrees most with the people who ranked; the answers stand by its score, raw."
    rest = len(texts) - most
    return [
        Prose(text=what),
        *texts[:most],
        *([Folded(title=f"{rest} more", parts=texts[most:])] if rest > 0 else []),
    ]


def _disagreement(each: Card) -> Answers:
    given = sorted(each["answers"], key=lambda answer: -answer["score"])
    who = f" (ranked by {each['annotator']})" if each.get("annotator") else ""
    return Answers(
        prompt=each["prompt"] + who,
        answers=[
            Answer(
                label=f"rank {answer['rank'] if answer['rank'] is not None else 'none'}",
                text=answer["text"],
                note=f"score {short(answer['score'])}",
            )
            for answer in given
        ],
    )
