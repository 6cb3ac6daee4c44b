"""The health of a policy that learns from its own answers: a chart for each quantity, with what it says in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from posttrain.measures import gold, health
from posttrain.measures.finding import Rule, worst_first
from posttrain.measures.quantities import Course, Row, course, of, rounds
from posttrain.report.findings import against_judges, facts_of, summary
from posttrain.report.parts import Chart, Part, Prose, Section, Series, Warned
from posttrain.report.reading import Read
from posttrain.report.terms import term

_PARTS_OF_TIME = 4
# What a second measure is beside the score: in a word, in a line, and by the name of its term.
_PART = (
    "A part of the reward",
    "One of the rewards that are added up, before its weight; the score is their sum.",
    "score",
)
_HELD_OUT = (
    "Held-out prompts",
    "The same reward on prompts that are not trained on: it falls where those are learnt by heart.",
    "score",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quantity:
    """A chart of one quantity: the metrics that it draws, the term that explains it, and the rule that judges it."""

    id: str
    title: str
    metrics: tuple[str, ...]
    rule: Rule
    y: str
    term: str


_QUANTITIES = (
    _Quantity(
        id="kl",
        title="KL to the start policy",
        metrics=("kl", "kl_k3", "kl_k2", "kl_exact", "eval_kl_exact"),
        rule=health.kl_level,
        y="nats per answer",
        term="kl per answer",
    ),
    _Quantity(
        id="length",
        title="Length of the answers",
        metrics=("length", "eval_length"),
        rule=health.length_growth,
        y="tokens",
        term="length",
    ),
    _Quantity(
        id="reward-length",
        title="Reward and length",
        metrics=("score_length_correlation",),
        rule=health.reward_and_length,
        y="correlation",
        term="score-length correlation",
    ),
    _Quantity(
        id="entropy",
        title="Entropy",
        metrics=("sampled_entropy", "entropy"),
        rule=health.entropy,
        y="nats per token",
        term="entropy",
    ),
    _Quantity(
        id="explained-variance",
        title="What the critic explains",
        metrics=("explained_variance",),
        rule=health.critic_fit,
        y="share of the variance",
        term="explained variance",
    ),
    _Quantity(
        id="clip-fraction",
        title="Clipped tokens",
        metrics=("clip_fraction",),
        rule=health.clipping,
        y="share of the tokens",
        term="clip fraction",
    ),
    _Quantity(
        id="repetition",
        title="Repetition",
        metrics=("distinct_bigrams",),
        rule=health.repetition,
        y="share that is distinct",
        term="distinct bigrams",
    ),
    _Quantity(
        id="endings",
        title="Endings",
        metrics=("stopped", "eval_stopped"),
        rule=health.endings,
        y="share of the answers",
        term="stopped",
    ),
)


def ppo(run: Read) -> Section | None:
    """Each quantity of the rounds with its finding, and the reward beside what it costs and what it stands for.

    None for runs without rounds.
    """
    rows = rounds([row for row in run.metrics if row.get("round") is not None or "eval_score_sampled" in row])
    if not any("score" in row for row in rows):
        return None
    judged = against_judges(run)
    found = worst_first([*health.of_rounds(rows), *judged])
    parts: list[Part] = [Prose(text=f"Health: {summary(found)}"), *_reward(rows)]
    parts += [Warned(finding=finding) for finding in judged]
    for quantity in _QUANTITIES:
        parts += _drawn(quantity, rows)
    return Section(
        id="ppo",
        title="Health of the policy, round by round",
        parts=parts,
        facts={"findings": facts_of(found)},
    )


def _drawn(quantity: _Quantity, rows: Sequence[Row]) -> list[Part]:
    """The chart of a quantity with its finding, and for the KL another of its speed; nothing without numbers."""
    series = [_series(name, found) for name in quantity.metrics if (found := course(rows, of(name)))]
    if not series:
        return []
    chart = Chart(
        id=f"ppo-{quantity.id}",
        title=quantity.title,
        series=series,
        x="round",
        y=quantity.y,
        finding=quantity.rule(rows),
        about=term(quantity.term).about,
        link=term(quantity.term).link,
    )
    return [chart, *(_speed(rows) if quantity.id == "kl" else [])]


def _speed(rows: Sequence[Row]) -> list[Part]:
    """What each round added to the KL."""
    found = course(rows, of("kl"))
    if len(found) < 2:
        return []
    added = Series(name="kl added", x=found.at[1:], y=[after - before for before, after in pairwise(found.values)])
    return [
        Chart(
            id="ppo-kl-speed",
            title="KL that each round adds",
            series=[added],
            x="round",
            y="nats per answer",
            finding=health.kl_speed(rows),
            about=term("kl per answer").about,
            link=term("kl per answer").link,
        )
    ]


def _reward(rows: Sequence[Row]) -> list[Part]:
    """The reward by rounds, each other measure beside it, and the reward against the KL."""
    names = ("score", "reward", "objective", "eval_score_sampled", "eval_score_greedy")
    series = [_series(name, found) for name in names if (found := course(rows, of(name)))]
    chart = Chart(
        id="ppo-reward",
        title="Reward",
        series=series,
        x="round",
        y="score",
        about="score: what the reward says; reward: after scale, clip and penalty; objective: less the KL.",
        link=term("objective").link,
    )
    return [chart, *_frontier(rows), *(_gold(rows, name) for name in gold.golds(rows))]


def _gold(rows: Sequence[Row], name: str) -> Chart:
    """A second measure beside the score, with the finding of whether they part."""
    what, about, explained = _HELD_OUT if name == gold.HELD_OUT else _PART
    return Chart(
        id=f"ppo-gold-{name.replace('/', '-')}",
        title=f"{what}: {name} and score",
        series=[_series("score", course(rows, of("score"))), _series(name, course(rows, of(name)))],
        x="round",
        y="score",
        finding=gold.gold_against_proxy(rows, name),
        about=about,
        link=term(explained).link,
    )


def _frontier(rows: Sequence[Row]) -> list[Part]:
    """The score against the KL that it cost, a point a round, the rounds in four parts of time."""
    known = [row for row in rows if row.get("kl") is not None and row.get("score") is not None]
    if not known:
        return []
    cuts = [round(len(known) * part / _PARTS_OF_TIME) for part in range(_PARTS_OF_TIME + 1)]
    series = [
        Series(
            name=_span(known[start:end]),
            x=[row["kl"] or 0.0 for row in known[start:end]],
            y=[row["score"] for row in known[start:end]],
        )
        for start, end in pairwise(cuts)
        if end > start
    ]
    held = [row for row in rows if row.get("eval_kl_exact") is not None and row.get("eval_score_sampled") is not None]
    if held:
        series.append(
            Series(
                name="held-out prompts",
                x=[row["eval_kl_exact"] or 0.0 for row in held],
                y=[row["eval_score_sampled"] for row in held],
            )
        )
    return [
        Chart(
            id="ppo-frontier",
            title="Reward against KL",
            series=series,
            x="KL to the start policy, nats per answer",
            y="score",
            kind="points",
            about="A point a round: what was gained, and how far the policy went for it. Up and to the left is better.",
            link=term("objective").link,
        )
    ]


def _span(rows: Sequence[Row]) -> str:
    first, last = (f"{row['round'] or 0:g}" for row in (rows[0], rows[-1]))
    return f"round {first}" if first == last else f"rounds {first} to {last}"


def _series(name: str, found: Course) -> Series:
    return Series(name=name, x=found.at, y=found.values)
