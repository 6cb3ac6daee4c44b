"""The card of a run of DPO: margins, what became of both sides of a pair, the KL, and what accuracy does not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from posttrain.config.preferences import WITHOUT_REFERENCE
from posttrain.measures import preference_health
from posttrain.measures.finding import Finding
from posttrain.measures.quantities import Row, course, of
from posttrain.report.findings import facts_of, summary, takes_means
from posttrain.report.parts import Chart, Part, Prose, Section, Series
from posttrain.report.reading import Read
from posttrain.report.stored import stored
from posttrain.report.terms import term
from posttrain.report.words import short

_REMINDER = (
    "Accuracy is the share of {what} that the loss itself calls right. It rises in every run that trains at all, also "
    "where no answer got better: judge the policy by fresh answers."
)
_TURNS = "A held-out loss that turns is the sign of too many passes."
_ALONE = {
    "margin": "How much likelier the policy finds the chosen answer than the rejected one, a token on average.",
    "sides": "The log-prob of each side, a token on average: no reference takes part.",
    "accuracy": "Pairs whose margin is above 0, those at 0 half.",
}
_LABELLED = {
    "sides": "A log-ratio is the log-prob of the policy less the reference's, 0 at the start; undesirable ones fall.",
    "accuracy": "Good answers whose log-ratio is above the step's guess of the KL, and bad ones below it; at it, half.",
}
_TITLES_OF_LABELLED = {
    "sides": "Desirable and undesirable answers",
    "accuracy": "Accuracy of the answers",
    "loss": "Loss on training answers and held-out ones",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """A chart of some metrics, each of the training pairs and, as `eval_`, of the held-out ones.

    `finding`: the name of the one that belongs to it.
    """

    id: str
    title: str
    metrics: tuple[str, ...]
    y: str
    about: str
    finding: str = ""


_CHARTS = (
    _Drawn(
        id="margin",
        title="Margin",
        metrics=("margin",),
        y="nats per answer",
        about="How much more the policy turned to the chosen answer than to the rejected one; times beta in the loss.",
    ),
    _Drawn(
        id="sides",
        title="Chosen and rejected answers",
        metrics=(
            "chosen_logratio", "rejected_logratio", "chosen_logprob", "rejected_logprob",
            "desirable_logratio", "undesirable_logratio",
        ),
        y="nats per answer",
        about="The log-prob of each side; a log-ratio is that of the policy less the reference's, 0 at the start.",
        finding="both log-probs fall",
    ),
    _Drawn(
        id="accuracy",
        title="Accuracy of the pairs",
        metrics=("accuracy",),
        y="share of the pairs",
        about="Pairs whose margin is above 0, those at 0 half: so it begins at one half.",
    ),
    _Drawn(
        id="loss",
        title="Loss on training pairs and held-out ones",
        metrics=("loss",),
        y="loss",
        about=f"At the start log 2. {_TURNS}",
        finding="held-out loss",
    ),
)  # fmt: skip


def dpo(run: Read) -> Section | None:
    """Each quantity of the pairs with its finding, and how far the policy went; None for runs without pairs."""
    rows = run.metrics
    if not any("chosen_logratio" in row or "chosen_logprob" in row or "desirable_logratio" in row for row in rows):
        return None
    labelled, means = run.settings.get("loss") == "kto", takes_means(run)
    findings = preference_health.of_preferences(rows, means=means)
    parts: list[Part] = [Prose(text=f"Health: {summary(findings)}")] if findings else []
    for drawn in _CHARTS:
        told = _told(drawn, str(run.settings.get("loss", "sigmoid")))
        parts += _chart(told, rows, {finding.name: finding for finding in findings}, means=means)
    parts.append(Prose(text=_distance(run)))
    parts.append(Prose(text=_REMINDER.format(what="answers" if labelled else "pairs")))
    return Section(
        id="dpo",
        title="Answers by their labels" if labelled else "Pairs of answers",
        parts=parts,
        facts={"findings": facts_of(findings)},
    )


def _told(drawn: _Drawn, loss: str) -> _Drawn:
    """A chart in the words of a loss: that of single answers, of pairs alone, or of pairs against a reference."""
    if drawn.id == "loss" and loss != "sigmoid":
        drawn = replace(drawn, about=_TURNS)
    if loss == "kto":
        title, y = _TITLES_OF_LABELLED.get(drawn.id, drawn.title), drawn.y.replace("the pairs", "the answers")
        return replace(drawn, title=title, y=y, about=_LABELLED.get(drawn.id, drawn.about))
    return replace(drawn, about=_ALONE.get(drawn.id, drawn.about)) if loss in WITHOUT_REFERENCE else drawn


def _chart(drawn: _Drawn, rows: Sequence[Row], findings: Mapping[str, Finding], *, means: bool) -> list[Part]:
    names = [name for metric in drawn.metrics for name in (metric, f"eval_{metric}")]
    series = [Series(name=name, x=found.at, y=found.values) for name in names if (found := course(rows, of(name)))]
    if not series:
        return []
    chart = Chart(
        id=f"dpo-{drawn.id}",
        title=drawn.title,
        series=series,
        x=course(rows, of(series[0].name)).unit,
        y=drawn.y.replace("per answer", "per token") if means else drawn.y,
        finding=findings.get(drawn.finding),
        about=drawn.about,
        link=term("implicit reward").link,
    )
    return [chart]


def _distance(run: Read) -> str:
    """The KL to the model it began from, as far as an evaluation or the run itself measured it."""
    start = str(run.settings.get("model", ""))
    for evaluation in reversed(stored(run)):
        nats = evaluation.measures.get("kl_per_answer")
        if evaluation.is_against(start) and isinstance(nats, int | float):
            return f"On {evaluation.where}: a KL of {short(nats)} nats per answer to {start}, where it began."
    own = course(run.metrics, of("kl"))
    if own:
        return f"Its KL to the start was {short(own.recent)} nats per answer lately, on its own answers."
    return (
        "The KL to the start is not known: it is taken on the policy's own answers, and these answers are the data's. "
        "An evaluation against the start measures it (above: how to measure it)."
    )
