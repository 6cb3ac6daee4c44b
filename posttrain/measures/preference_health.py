"""Health in words of what learns from rankings: rules on the metrics of DPO, on held-out loss, and on a reward card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from posttrain.measures.finding import Finding, Health, above, judged, worst_first
from posttrain.measures.quantities import Course, Row, course, of

Card = Mapping[str, Any]
"""A reward card as `run/reward_card.json` holds it, of one kind of rankings."""


# --- the course of training -------------------------------------------------------------------------------------------


def both_fall(rows: Sequence[Row], *, watch: float = 1.0, act: float = 10.0, per: str = "answer") -> Finding | None:
    """Whether DPO makes the chosen answers less likely too, as long as the rejected ones fall faster.

    The margin sees the difference alone: it rises all the same. Source: Pal 2024, "Smaug" (DPO-Positive). `per`: what
    the log-probs are of, an answer or, as means, a token of it.
    """
    what = "logratio" if any("chosen_logratio" in row for row in rows) else "logprob"
    chosen, rejected = (course(rows, of(f"{side}_{what}")) for side in ("chosen", "rejected"))
    rule = (
        f"nats per {per} by which the chosen log-prob fell, where the rejected fell too: watch above {watch:g}, "
        f"act above {act:g}"
    )

    def say() -> tuple[Health, str]:
        fell, other = (_start(course, what) - course.recent for course in (chosen, rejected))
        numbers = f"The chosen answers' log-prob {_moved(fell)}, the rejected ones' {_moved(other)}"
        numbers += " per token" * (per == "token")
        if other <= 0:
            return "fine", f"{numbers}."
        state = above(fell, watch, act)
        means = {
            "fine": "the chosen answers stay as likely as they were",
            "watch": "both fall; what becomes likelier is in neither, so read fresh answers",
            "act": "both fall far; the policy leaves its data, so read fresh answers, add nll, or raise beta",
        }
        return state, f"{numbers}: {means[state]}."

    return judged("both log-probs fall", chosen, rule, say) if rejected else None


def _start(found: Course, what: str) -> float:
    """What a side began with: a log-ratio with 0, where the policy is the reference."""
    return 0.0 if what == "logratio" else found.early


def _moved(fell: float) -> str:
    return f"{'fell' if fell > 0 else 'rose'} by {abs(fell):.3g} nats"


def overfitting(rows: Sequence[Row], *, watch: float = 0.02, act: float = 0.1) -> Finding | None:
    """Whether the held-out loss has turned and rises again."""
    held = course(rows, of("eval_loss"))
    rule = f"the last eval_loss over the lowest: watch above {1 + watch:g}, act above {1 + act:g}"
    if len(held) < 2:
        return None
    lowest, last = min(held.values), held.values[-1]
    at = held.at[held.values.index(lowest)]
    state = above(last / lowest - 1 if lowest > 0 else last - lowest, watch, act)
    means = {
        "fine": "it has not turned",
        "watch": "the last passes over the rows taught nothing that holds elsewhere",
        "act": f"take the weights of {held.unit} {at:g}, or fewer epochs",
    }
    sentence = (
        f"The held-out loss ends at {last:.3g}; its lowest was {lowest:.3g} at {held.unit} {at:g}: {means[state]}."
    )
    return Finding(name="held-out loss", state=state, sentence=sentence, rule=rule)


def both_fall_per_token(rows: Sequence[Row]) -> Finding | None:
    """The same where the loss takes the mean of an answer's log-probs: limits as of an answer of 100 tokens."""
    return both_fall(rows, watch=0.01, act=0.1, per="token")


def of_preferences(rows: Sequence[Row], *, means: bool = False) -> list[Finding]:
    """What the rules find of a run of DPO, the worst first. `means`: its loss takes means over an answer's tokens."""
    rules = (both_fall_per_token if means else both_fall, overfitting)
    return worst_first([finding for rule in rules if (finding := rule(rows)) is not None])


# --- the card of a reward model ---------------------------------------------------------------------------------------


def beside_people(card: Card) -> Finding | None:
    """Whether the model agrees with people as far as they agree with each other; None where no two ranked the same."""
    people, model = (cast("Card", card.get("agreement", {})).get(who) for who in ("people", "model"))
    if not people or not model or not people["count"] or not model["count"]:
        return None
    rule = "accuracy where two people ranked the same: watch where its interval lies below their agreement"
    numbers = (
        f"Where two people ranked the same answers they agree on {people['value']:.1%} of the pairs, "
        f"and the model with them on {model['value']:.1%}"
    )
    less = _interval(model)[1] < people["value"]
    means = "people tell more than it has learnt; more rankings may help" if less else "as far as people do"
    return Finding(
        name="accuracy beside people", state="watch" if less else "fine", sentence=f"{numbers}: {means}.", rule=rule
    )


def better_than_chance(card: Card, *, watch: float = 0.6) -> Finding:
    """Whether the model orders pairs better than a coin does."""
    accuracy = cast("Card", card["accuracy"])
    low, high = _interval(accuracy)
    value = accuracy["value"]
    state: Health = "act" if low <= 0.5 else "watch" if value < watch else "fine"
    means = {
        "fine": "better than chance beyond doubt",
        "watch": "little better than chance; a policy will find what it overrates",
        "act": "not told from chance; train nothing against it",
    }
    rule = f"accuracy on strict pairs: act where its interval over prompts holds 50%, watch below {watch:.0%}"
    sentence = f"It orders {value:.1%} of the pairs as people did (95 % {low:.1%} to {high:.1%}): {means[state]}."
    return Finding(name="accuracy", state=state, sentence=sentence, rule=rule)


def length_bias(card: Card, *, watch: float = 0.1, act: float = 0.2) -> Finding | None:
    """Whether scores go by length more than people do."""
    found = cast("Card", card.get("length", {}))
    people, model = found.get("longer_wins"), found.get("scores_longer_higher")
    if not people or not model or not model["count"]:
        return None
    more = model["value"] - people["value"]
    state = above(abs(more), watch, act)
    means = {
        "fine": "no more than people",
        "watch": f"it leans to {'longer' if more > 0 else 'shorter'} answers",
        "act": f"a policy will learn to write {'longer' if more > 0 else 'shorter'} answers from it",
    }
    sentence = (
        f"It scores the longer of two answers higher in {model['value']:.1%} of the pairs; "
        f"people preferred it in {people['value']:.1%}: {means[state]}."
    )
    rule = (
        "share of pairs in which the longer answer scores higher, less that in which it is better: "
        f"watch beyond {watch:.0%}, act beyond {act:.0%}"
    )
    return Finding(name="length bias", state=state, sentence=sentence, rule=rule)


def _surer(card: Card) -> str:
    """Whether the probabilities of a card are higher than the shares that came, over all its pairs, or lower."""
    bins = cast("Sequence[Card]", card["calibration"].get("bins", ()))
    beyond = sum((bin_["probability"] - bin_["accuracy"]) * bin_["count"] for bin_ in bins)
    return "surer" if beyond > 0 else "less sure" if beyond < 0 else "surer, or less sure,"


def calibration(card: Card, *, watch: float = 0.05, act: float = 0.15) -> Finding | None:
    """Whether the model is right as often as it says."""
    error = cast("Card", card.get("calibration", {})).get("error")
    if error is None:
        return None
    state = above(error, watch, act)
    means = {
        "fine": "it is about as sure as it is right",
        "watch": f"it is {_surer(card)} than it is right",
        "act": "how far its scores are apart says little; compare scores by their order",
    }
    sentence = f"Its probabilities are {error:.1%} off on the mean: {means[state]}."
    rule = f"expected calibration error: watch above {watch:.0%}, act above {act:.0%}"
    return Finding(name="calibration", state=state, sentence=sentence, rule=rule)


def of_card(card: Card) -> list[Finding]:
    """What the rules find of a reward card, the worst first."""
    found = [better_than_chance(card), beside_people(card), length_bias(card), calibration(card)]
    return worst_first([finding for finding in found if finding is not None])


def _interval(measure: Card) -> tuple[float, float]:
    low, high = measure.get("interval_over_prompts", measure["interval"])
    return float(low), float(high)
