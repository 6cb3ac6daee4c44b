"""Whether the reward that is trained on still stands for what people want: rules on a second measure beside it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, stdev

from posttrain.measures.finding import Finding, Health, judged
from posttrain.measures.quantities import Course, Row, course, of

PART = "score/"
"""How the metric of a part of the reward begins, where it is made of several; the part is told before its weight."""
HELD_OUT = "eval_score_sampled"
"""The score on held-out prompts: by the reward that is trained on, so no gold, but none of it was learnt by heart."""


def gold_against_proxy(rows: Sequence[Row], gold: str, proxy: str = "score") -> Finding | None:
    """Whether a second measure fell while the reward that is trained on rose: the mark of over-optimisation.

    Of the score on held-out prompts it is that of learning by heart. A part of the reward is trained on too: it may be
    outweighed by the others, or have a negative weight, so that its fall is to be looked at and no more.

    Source: Gao 2022, "Scaling Laws for Reward Model Overoptimization".
    """
    both = course(rows, lambda row, first: None if row.get(proxy) is None else row.get(gold))
    there = set(both.at)
    paid = course(rows, lambda row, first: row.get(proxy) if row.get("round") in there else None)
    rule = f"{gold} since its best fifth, while {proxy} rose: watch where it fell by over three standard errors"
    if not gold.startswith(PART):
        rule += ", act where that is over half of what it had gained"

    def say() -> tuple[Health, str]:
        golds, proxies = _smooth(both), _smooth(paid)
        best = max(range(len(golds)), key=golds.__getitem__)
        fell, gained = golds[best] - golds[-1], golds[best] - golds[0]
        rose = proxies[-1] - proxies[best]
        numbers = f"{gold} is at {golds[-1]:.3g} ({golds[0]:.3g} at first, {golds[best]:.3g} at best)"
        if fell <= 3 * _error(both) or rose <= 0:
            return "fine", f"{numbers}: it did not fall while {proxy} rose."
        if gold.startswith(PART):
            why = "as a negative weight asks for, or outweighed by the other parts"
            return "watch", f"{numbers}, while {proxy} rose by {rose:.3g} from there on: {why}."
        state: Health = "act" if fell > gained / 2 else "watch"
        why = "what is learnt holds on no other prompts" if gold == HELD_OUT else "the reward is being gamed"
        means = {"watch": "take a step near the best", "act": f"{why}; take an earlier step"}
        return state, f"{numbers}, while {proxy} rose by {rose:.3g} from there on: {means[state]}."

    return judged(f"{gold} against {proxy}", both, rule, say)


def _smooth(found: Course) -> list[float]:
    return [fmean(found.values[end - found.window : end]) for end in range(found.window, len(found) + 1)]


def _error(found: Course) -> float:
    """The standard error of the difference of two means of a fifth each, from how neighbours differ."""
    differences = [second - first for first, second in pairwise(found.values)]
    return stdev(differences) / found.window**0.5


def proxy_and_judge(rows: Sequence[Row], judge: str, wins: tuple[float, float, float]) -> Finding | None:
    """Whether a judge that the run did not train on agrees that the policy got better, as its own reward says.

    `wins`: the share of comparisons with the start that it won by that judge, and its interval.
    """
    found = course(rows, of("score"))
    value, low, high = wins
    rule = (
        "wins against the start by another judge, where the score rose: act where all of the interval is below half, "
        "watch where half is in it"
    )

    def say() -> tuple[Health, str]:
        rose = found.recent - found.early
        numbers = (
            f"The score that it was trained on rose by {rose:.3g}, and by {judge} it wins {value:.1%} "
            f"(95 % {low:.1%} to {high:.1%}) of the comparisons with its start"
        )
        if rose <= 0:
            return "fine", "The score that it was trained on did not rise, so nothing of it was gamed."
        state: Health = "act" if high < 0.5 else "fine" if low > 0.5 else "watch"
        means = {
            "fine": "both say that it got better",
            "watch": "whether it got better is not told; more prompts, or a better judge",
            "act": "the reward is being gamed; take an earlier step",
        }
        return state, f"{numbers}: {means[state]}."

    return judged(f"{judge} against the reward", found, rule, say)


def golds(rows: Sequence[Row]) -> list[str]:
    """The metrics that a run has besides the score it is trained on: each of several rewards, and held-out prompts."""
    names = dict.fromkeys(name for row in rows for name in row)
    parts = [name for name in names if name.startswith(PART)]
    return [*(parts if len(parts) > 1 else []), *([HELD_OUT] if HELD_OUT in names else [])]
