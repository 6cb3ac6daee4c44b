"""What the rules of health find of a run, whichever command wrote it, and how a report tells of them."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.config.preferences import WITHOUT_REFERENCE
from posttrain.counted import counted
from posttrain.measures import gold, health, preference_health
from posttrain.measures.finding import Finding, worst_first
from posttrain.records import JSON
from posttrain.report.reading import Read
from posttrain.report.stored import is_own_judge, stored
from posttrain.report.words import interval_of, is_measure, listed

_WORDS = {"act": "to act on", "watch": "to watch", "unknown": "too little measured for"}


def findings_of(run: Read) -> list[Finding]:
    """What the rules find of a run of any command, the worst first."""
    found = preference_health.of_preferences(run.metrics, means=takes_means(run))
    if any(row.get("round") is not None for row in run.metrics):
        found += health.of_rounds(run.metrics) + against_judges(run)
    card = run.card and (run.card.get("held_out") or run.card.get("training"))
    return worst_first([*found, *(preference_health.of_card(card) if card else [])])


def takes_means(run: Read) -> bool:
    """Whether the log-probs of a run of pairs are means over an answer's tokens, and not their sums."""
    return bool(run.settings.get("length_normalize")) or run.settings.get("loss") in WITHOUT_REFERENCE


def against_judges(run: Read) -> list[Finding]:
    """What evaluations against the start say beside the reward that was trained on, by each judge that is not it."""
    start = run.settings.get("model")
    found: dict[str, Finding] = {}
    for each in stored(run):
        wins = each.estimates.get("win_rate")
        if not each.is_against(start) or not is_measure(wins) or not each.judges or is_own_judge(run, each):
            continue
        low, high = interval_of(wins) or (0.0, 1.0)
        finding = gold.proxy_and_judge(run.metrics, each.judge, (float(wins["value"]), low, high))
        if finding is not None:
            found[each.judge] = finding
    return [*found.values()]


def summary(found: Sequence[Finding]) -> str:
    """How many rules were checked, and the names of those that found something."""
    if not found:
        return "no rule of health applies."
    told: list[str] = []
    for state, words in _WORDS.items():
        # A name may have a comma of its own: "KL, level".
        names = [finding.name.replace(", ", " ") for finding in found if finding.state == state]
        told += [f"{words}: {listed(names)}"] if names else []
    return f"{counted(len(found), 'rule')} checked; {'; '.join(told) if told else 'all is fine'}."


def facts_of(found: Sequence[Finding]) -> list[JSON]:
    """Findings as plain values."""
    return [{"name": one.name, "state": one.state, "sentence": one.sentence, "rule": one.rule} for one in found]
