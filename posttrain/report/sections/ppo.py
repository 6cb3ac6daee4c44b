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

_METHODS = "docs/methods.md"
_PARTS_OF_TIME = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quantity:
    """A chart of one quantity: the metrics that it draws, and the rules whose findings stand with it."""

    id: str
    title: str
    metrics: tuple[str, ...]
    rules: tuple[Rule, ...]
    y: str
    about: str
    link: str


_QUANTITIES = (
    _Quantity(
        id="kl",
        title="KL to the start policy",
        metrics=("kl", "kl_k3", "kl_k2", "kl_exact", "eval_kl_exact"),
        rules=(health.kl_level, health.kl_speed),
        y="nats per answer",
        about="How far the policy has moved from where it began, summed over an answer's tokens.",
        link=f"{_METHODS}#kl-to-the-reference",
    ),
    _Quantity(
        id="length",
        title="Length of the answers",
        metrics=("length", "eval_length"),
        rules=(health.length_growth,),
        y="tokens",
        about="The mean number of tokens of an answer, its end included.",
        link=f"{_METHODS}#from-a-score-to-rewards",
    ),
    _Quantity(
        id="reward-length",
        title="Reward and length",
        metrics=("score_length_correlation",),
        rules=(health.reward_and_length,),
        y="correlation",
        about="The linear correlation of score and length among the answers of a round; 0 where there is none.",
        link=f"{_METHODS}#kl-to-the-reference",
    ),
    _Quantity(
        id="entropy",
        title="Entropy",
        metrics=("sampled_entropy", "entropy"),
        rules=(health.entropy,),
        y="nats per token",
        about="How undecided the policy is: minus the mean log-prob of the tokens that it sampled.",
        link=f"{_METHODS}#entropy",
    ),
    _Quantity(
        id="explained-variance",
        title="What the critic explains",
        metrics=("explained_variance",),
        rules=(health.critic_fit,),
        y="share of the variance",
        about="1 less the variance of what the critic missed over that of the returns; 0 for a constant guess.",
        link=f"{_METHODS}#return-value-advantage",
    ),
    _Quantity(
        id="clip-fraction",
        title="Clipped tokens",
        metrics=("clip_fraction",),
        rules=(health.clipping,),
        y="share of the tokens",
        about="Tokens that had moved beyond the clip range in the direction of their advantage; they have no gradient.",
        link=f"{_METHODS}#clip",
    ),
    _Quantity(
        id="repetition",
        title="Repetition",
        metrics=("distinct_bigrams",),
        rules=(health.repetition,),
        y="share that is distinct",
        about="Of an answer's neighbouring pairs of tokens, the share that differ from one another; 1 for none twice.",
        link=f"{_METHODS}#kl-to-the-reference",
    ),
    _Quantity(
        id="endings",
        title="Endings",
        metrics=("stopped", "eval_stopped"),
        rules=(health.endings,),
        y="share of the answers",
        about="Answers that ended by themselves; the others were cut by max_new_tokens.",
        link=f"{_METHODS}#from-a-score-to-rewards",
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
        facts={"findings": [facts_of(finding) for finding in found]},
    )


def _drawn(quantity: _Quantity, rows: Sequence[Row]) -> list[Part]:
    """The chart of a quantity with the first of its findings, and the others below it; nothing without numbers."""
    lines = [(name, course(rows, of(name))) for name in quantity.metrics]
    series = [_series(name, found) for name, found in lines if found]
    if not series:
        return []
    first, *others = [rule(rows) for rule in quantity.rules]
    chart = Chart(
        id=f"ppo-{quantity.id}",
        title=quantity.title,
        series=series,
        x="round",
        y=quantity.y,
        finding=first,
        about=quantity.about,
        link=quantity.link,
    )
    return [chart, *(Warned(finding=finding) for finding in others if finding is not None)]


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
        link=f"{_METHODS}#what-both-aim-at",
    )
    return [chart, *_frontier(rows), *(_gold(rows, name) for name in gold.golds(rows))]


def _gold(rows: Sequence[Row], name: str) -> Chart:
    """A second measure beside the score, with the finding of whether they part."""
    return Chart(
        id=f"ppo-gold-{name.replace('/', '-')}",
        title=f"Gold against proxy: {name} and score",
        series=[_series("score", course(rows, of("score"))), _series(name, course(rows, of(name)))],
        x="round",
        y="score",
        finding=gold.gold_against_proxy(rows, name),
        about="The score that is trained on is a proxy; where it rises while another measure falls, it is being gamed.",
        link=f"{_METHODS}#kl-to-the-reference",
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
            link=f"{_METHODS}#what-both-aim-at",
        )
    ]


def _span(rows: Sequence[Row]) -> str:
    first, last = (f"{row['round'] or 0:g}" for row in (rows[0], rows[-1]))
    return f"round {first}" if first == last else f"rounds {first} to {last}"


def _series(name: str, found: Course) -> Series:
    return Series(name=name, x=found.at, y=found.values)
