"""Trip wires on made-up numbers: each rule on its own side, in a row, once a round."""

from __future__ import annotations

import json

import pytest

from posttrain.config.ppo import StopIf
from posttrain.errors import Diverged, Tripped
from posttrain.run.wires import RULES, Wires, broken

FIRST = {"length": 20.0}
HEALTHY = {
    "kl": 5.0, "length": 30.0, "stopped": 0.9, "sampled_entropy": 1.2, "distinct_bigrams": 0.95, "round": 1.0
}  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "limit", "metric", "wrong", "right", "words"),
    [
        ("kl", 20.0, "kl", 20.5, 20.0, "the KL to the start policy is 20.5 nats per answer (k1), above 20"),
        ("length_ratio", 2.5, "length", 51.0, 50.0, "answers are 2.55 times as long as those of the first step, above"),
        ("no_eos", 0.5, "stopped", 0.4, 0.5, "60% of the answers did not end by themselves, above 0.5"),
        ("entropy", 0.3, "sampled_entropy", 0.25, 0.3, "the entropy is 0.25 nats per token, below 0.3"),
        ("distinct", 0.4, "distinct_bigrams", 0.31, 0.4, "31% of an answer's pairs of tokens are distinct, below 0.4"),
    ],
)
def test_each_rule_has_its_number_and_its_side(
    rule: str, limit: float, metric: str, wrong: float, right: float, words: str
) -> None:
    assert broken({rule: limit}, {**HEALTHY, metric: right}, FIRST) == {}
    assert broken({rule: limit}, {**HEALTHY, metric: wrong}, FIRST)[rule].startswith(words)
    assert broken({rule: limit}, {}, FIRST) == {}  # a row that does not have the number breaks nothing


def test_every_rule_is_a_setting_and_every_setting_a_rule() -> None:
    assert set(RULES) == set(StopIf.model_fields) - {"patience"}


def test_a_wire_ends_the_run_with_every_rule_and_the_numbers() -> None:
    wires = Wires({"kl": 20.0, "no_eos": 0.5, "entropy": 0.1})
    wires.look(1, HEALTHY)
    with pytest.raises(Tripped, match="stopped at step 9 by a trip wire") as caught:
        wires.look(9, {**HEALTHY, "round": 2.0, "kl": 31.0, "stopped": 0.1})
    assert "\n  stop_if.kl: the KL to the start policy is 31 nats" in str(caught.value)
    assert "\n  stop_if.no_eos: 90% of the answers" in str(caught.value)
    assert "entropy" not in str(caught.value)
    assert isinstance(caught.value, Diverged)
    assert caught.value.exit_code == 4


def test_patience_counts_rounds_one_after_another_and_a_good_one_between_starts_anew() -> None:
    wires = Wires({"kl": 20.0}, patience=2)
    step = 0
    for number, nats in enumerate([25.0, 5.0, 25.0], 1):
        for _ in range(4):  # the updates of a round repeat its numbers
            step += 1
            wires.look(step, {**HEALTHY, "round": float(number), "kl": nats})
    with pytest.raises(Tripped, match="2 times one after another"):
        wires.look(13, {**HEALTHY, "round": 4.0, "kl": 22.0})


def test_the_length_is_compared_with_the_first_step_also_after_the_run_went_on() -> None:
    before, after = Wires({"length_ratio": 2.0}), Wires({"length_ratio": 2.0})
    before.look(1, {**HEALTHY, "length": 10.0})
    after.load_state(json.loads(json.dumps(before.state())))
    after.look(1, {**HEALTHY, "length": 99.0})  # the round that was looked at already
    with pytest.raises(Tripped, match=r"2\.1 times"):
        after.look(2, {**HEALTHY, "round": 2.0, "length": 21.0})


def test_no_limits_never_end_a_run_and_find_everything_healthy() -> None:
    wires = Wires({})
    wires.look(1, {**HEALTHY, "kl": 1e9})
    assert wires.healthy({"kl": 1e9})
    assert not Wires({"kl": 20.0}).healthy({"kl": 21.0})
