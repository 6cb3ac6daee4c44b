"""Rules on runs of DPO, on held-out losses and on reward cards, with made-up numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from posttrain.measures.finding import Finding, Rule
from posttrain.measures.preference_health import (
    Card,
    beside_people,
    better_than_chance,
    both_fall,
    calibration,
    length_bias,
    of_card,
    of_preferences,
    overfitting,
)
from posttrain.measures.quantities import Row

STEPS = 20


def run(**ends: tuple[float, float]) -> list[Row]:
    """A run of 20 steps in which each metric goes from one number to another in a straight line."""
    return [
        {"step": number + 1.0}
        | {name: start + (end - start) * number / (STEPS - 1) for name, (start, end) in ends.items()}
        for number in range(STEPS)
    ]


def told(rule: Rule, rows: Sequence[Row]) -> Finding:
    finding = rule(rows)
    assert finding is not None
    return finding


@pytest.mark.parametrize(
    ("chosen", "rejected", "state", "says"),
    [
        (2.0, -5.0, "fine", "The chosen answers' log-prob rose by 1.84 nats, the rejected ones' fell by 4.61 nats"),
        (-0.5, -5.0, "fine", "stay as likely"),
        (-5.0, -9.0, "watch", "both fall; what becomes likelier is in neither"),
        (-30.0, -50.0, "act", "both fall far"),
        (-1.5, -9.0, "watch", "by 1.38 nats"),
        (-12.0, -19.0, "act", "by 11.1 nats"),
        (-5.0, 5.0, "fine", "rose by"),  # the margin is wrong, which another chart shows; both do not fall
    ],
)
def test_both_sides_of_a_pair_may_fall_while_the_margin_rises(
    chosen: float, rejected: float, state: str, says: str
) -> None:
    finding = told(both_fall, run(chosen_logratio=(0, chosen), rejected_logratio=(0, rejected)))
    assert (finding.state, says in finding.sentence) == (state, True), finding.sentence


def test_without_a_reference_a_side_falls_from_where_it_was_at_first() -> None:
    finding = told(both_fall, run(chosen_logprob=(-1.0, -21.0), rejected_logprob=(-1.0, -41.0)))
    assert finding.state == "act"
    assert "fell by 16.8 nats" in finding.sentence  # 20 * 16 / 19: the middles of the first and the last fifth


@pytest.mark.parametrize(
    ("held", "state", "says"),
    [
        ([0.7, 0.5, 0.4], "fine", "ends at 0.4; its lowest was 0.4 at step 3: it has not turned."),
        ([0.7, 0.40, 0.402], "fine", "has not turned"),
        ([0.7, 0.40, 0.42], "watch", "its lowest was 0.4 at step 2"),
        ([0.7, 0.40, 0.45], "act", "held-out loss ends at 0.45"),
        ([0.5, -0.4, -0.4], "fine", "has not turned"),  # a loss below nothing, as of likelihoods
        ([0.5, -0.4, 0.1], "act", "its lowest was -0.4"),
        ([0.7, 0.40, 0.60], "act", "take the weights of step 2, or fewer epochs"),
    ],
)
def test_a_held_out_loss_that_turned_is_told(held: Sequence[float], state: str, says: str) -> None:
    rows: list[Row] = [{"step": number, "eval_loss": loss} for number, loss in enumerate(held, 1)]
    finding = told(overfitting, rows)
    assert (finding.state, says in finding.sentence) == (state, True), finding.sentence


def test_short_runs_and_missing_numbers() -> None:
    assert both_fall([]) is None
    assert both_fall(run(loss=(1, 0))) is None
    assert both_fall([{"step": 1, "chosen_logratio": None, "rejected_logratio": None}]) is None
    short = told(both_fall, run(chosen_logratio=(0, -99), rejected_logratio=(0, -99))[:4])
    assert (short.state, short.sentence[:23]) == ("unknown", "4 steps are too few to ")
    assert overfitting([{"step": 1, "eval_loss": 0.5}]) is None
    assert overfitting([{"step": 1, "eval_loss": None}, {"step": 2}]) is None
    assert of_preferences([]) == []


def test_the_worst_finding_stands_first() -> None:
    rows = run(chosen_logratio=(0, 1), rejected_logratio=(0, -9), eval_loss=(0.4, 0.9))
    assert [finding.name for finding in of_preferences(rows)] == ["held-out loss", "both log-probs fall"]


# --- cards ------------------------------------------------------------------------------------------------------------


def share(value: float, low: float = 0.0, high: float = 1.0, count: int = 100) -> dict[str, Any]:
    return {
        "value": value, "interval": [0.0, 1.0], "interval_over_prompts": [low, high], "count": count, "prompts": 50
    }  # fmt: skip


def card(**changed: Any) -> dict[str, Any]:
    """A card on which nothing is wrong, but for what is changed."""
    plain: dict[str, Any] = {
        "rankings": 50,
        "accuracy": share(0.75, 0.7, 0.8),
        "agreement": {"people": share(0.76), "model": share(0.74, 0.68, 0.8)},
        "length": {"longer_wins": share(0.5), "scores_longer_higher": share(0.52)},
        "calibration": {"error": 0.02, "bins": []},
    }
    return plain | changed


def leaning(scores_longer_higher: float) -> dict[str, Any]:
    return {"length": {"longer_wins": share(0.5), "scores_longer_higher": share(scores_longer_higher)}}


NOBODY = {"people": share(0.0, count=0), "model": share(0.0, count=0)}
SURE = [{"probability": 0.9, "accuracy": 0.7, "count": 30}, {"probability": 0.6, "accuracy": 0.8, "count": 10}]
UNSURE = [{"probability": 0.9, "accuracy": 0.7, "count": 10}, {"probability": 0.6, "accuracy": 0.8, "count": 30}]
FAR = {"people": share(0.8), "model": share(0.6, 0.5, 0.7)}


@pytest.mark.parametrize(
    ("rule", "changed", "state", "says"),
    [
        (better_than_chance, {}, "fine", "75.0% of the pairs as people did (95 % 70.0% to 80.0%): better than chance"),
        (better_than_chance, {"accuracy": share(0.58, 0.52, 0.64)}, "watch", "little better"),
        (better_than_chance, {"accuracy": share(0.55, 0.48, 0.62)}, "act", "not told from chance"),
        (better_than_chance, {"accuracy": share(0.2, 0.1, 0.3)}, "act", "not told from chance"),
        (beside_people, {}, "fine", "they agree on 76.0% of the pairs, and the model with them on 74.0%: as far as"),
        (beside_people, {"agreement": FAR}, "watch", "people tell more than it has learnt"),
        (length_bias, {}, "fine", "in 52.0% of the pairs; people preferred it in 50.0%: no more than people"),
        (length_bias, leaning(0.65), "watch", "longer"),
        (length_bias, leaning(0.9), "act", "write longer"),
        (length_bias, leaning(0.2), "act", "write shorter"),
        (calibration, {}, "fine", "2.0% off on the mean"),
        (calibration, {"calibration": {"error": 0.1}}, "watch", "surer, or less sure"),
        (calibration, {"calibration": {"error": 0.1, "bins": SURE}}, "watch", "it is surer than it is right"),
        (calibration, {"calibration": {"error": 0.1, "bins": UNSURE}}, "watch", "it is less sure than it is right"),
        (calibration, {"calibration": {"error": 0.16}}, "act", "says little"),
    ],
)  # fmt: skip
def test_a_card_is_judged_beside_chance_people_and_itself(
    rule: Callable[[Card], Finding | None], changed: Mapping[str, Any], state: str, says: str
) -> None:
    finding = rule(card(**changed))
    assert finding is not None
    assert (finding.state, says in finding.sentence) == (state, True), finding.sentence
    assert finding.rule


def test_what_a_card_does_not_have_is_not_judged() -> None:
    assert beside_people(card(agreement=NOBODY)) is None
    assert beside_people(card(agreement={**FAR, "model": NOBODY["model"]})) is None
    assert beside_people(card(agreement={**FAR, "people": NOBODY["people"]})) is None
    assert beside_people(card(agreement={"people": share(0.8)})) is None
    assert beside_people(card(agreement={"model": share(0.8)})) is None
    assert length_bias(card(length={"longer_wins": share(0.5)})) is None
    assert length_bias(card(length={"longer_wins": share(0.5), "scores_longer_higher": share(0.0, count=0)})) is None
    bare = {"rankings": 1, "accuracy": {"value": 1.0, "interval": [0.3, 1.0], "count": 3}}
    assert [finding.name for finding in of_card(bare)] == ["accuracy"]
    assert [finding.state for finding in of_card(card())] == ["fine"] * 4
