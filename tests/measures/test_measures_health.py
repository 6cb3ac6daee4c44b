"""Rules of health on made-up runs: fine, to watch, to act on, too short to tell, and with numbers missing."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from posttrain.measures import health
from posttrain.measures.finding import ENOUGH, Finding, Rule
from posttrain.measures.gold import gold_against_proxy, golds, proxy_and_judge
from posttrain.measures.quantities import Row, course, length_ratio, of, rounds

ROUNDS = 20


def run(**series: Sequence[float | None] | Callable[[int], float | None]) -> list[Row]:
    """A run of 20 rounds of two updates each: a metric is a list of values, or a function of the round (0 to 19)."""
    rows: list[Row] = []
    for number in range(ROUNDS):
        values = {name: given(number) if callable(given) else given[number] for name, given in series.items()}
        rows += [{"step": 2.0 * number + update, "round": number + 1.0, **values} for update in (1, 2)]
    return rows


def found(rule: Rule, rows: Sequence[Row]) -> Finding:
    finding = rule(rows)
    assert finding is not None
    return finding


def flat(value: float) -> Callable[[int], float]:
    return lambda number: value


def line(start: float, end: float) -> Callable[[int], float]:
    """A straight line over the run; the mean of its last fifth (four rounds of 20) lies 1.5 rounds before the end."""
    return lambda number: start + (end - start) * number / (ROUNDS - 1)


def bend(start: float, best: float, end: float) -> Callable[[int], float]:
    """Up to the middle, then another way."""
    return lambda number: line(start, 2 * best - start)(number) if number < 10 else line(2 * best - end, end)(number)


def gold(rows: Sequence[Row]) -> Finding | None:
    return gold_against_proxy(rows, "gold")


CASES: list[tuple[Rule, str, dict[str, Callable[[int], float]], str]] = [
    (health.kl_level, "fine", {"kl": line(0, 8)}, "7.37 nats"),
    (health.kl_level, "watch", {"kl": line(0, 15)}, "13.8 nats"),
    (health.kl_level, "act", {"kl": line(0, 40)}, "36.8 nats"),
    (health.kl_level, "act", {"kl": flat(-2.5)}, "never negative"),
    (health.kl_speed, "fine", {"kl": line(0, 9.5)}, "adds 0.5 nats"),
    (health.kl_speed, "watch", {"kl": line(0, 38)}, "adds 2 nats"),
    (health.kl_speed, "act", {"kl": line(0, 95)}, "adds 5 nats"),
    (health.kl_speed, "fine", {"kl": lambda n: min(5.0 * n, 30.0)}, "adds 0 nats"),  # fast at first, settled since
    (health.clipping, "fine", {"clip_fraction": flat(0.05)}, "5.0% of the tokens"),
    (health.clipping, "watch", {"clip_fraction": flat(0.2)}, "20.0%"),
    (health.clipping, "act", {"clip_fraction": flat(0.4)}, "40.0%"),
    (health.clipping, "fine", {"clip_fraction": line(0.9, 0.0)}, "7.1%"),  # what counts is lately
    (health.length_growth, "fine", {"length": line(20, 24)}, "1.18 times"),
    (health.length_growth, "watch", {"length": line(20, 40)}, "1.92 times"),
    (health.length_growth, "act", {"length": line(20, 100)}, "4.68 times as long as at first: the reward pays for lon"),
    (health.length_growth, "watch", {"length": line(20, 10)}, "shorter"),
    (health.length_growth, "act", {"length": line(20, 1)}, "shorter"),
    (health.length_growth, "act", {"length": lambda n: 20.0 if n < 10 else 0.0}, "0.00 times"),
    (health.reward_and_length, "fine", {"score_length_correlation": flat(0.1)}, "at 0.10"),
    (health.reward_and_length, "watch", {"score_length_correlation": line(0.0, 0.6)}, "at 0.55"),
    (
        health.reward_and_length,
        "watch",
        {"score_length_correlation": flat(0.5), "length": line(10, 14)},
        "may learn that alone",
    ),
    (health.reward_and_length, "watch", {"score_length_correlation": flat(0.5)}, "longer answers score higher"),
    (health.reward_and_length, "watch", {"score_length_correlation": flat(-0.5)}, "shorter answers score higher"),
    (health.reward_and_length, "act", {"score_length_correlation": flat(0.8)}, "pays for longer answers."),
    (
        health.reward_and_length,
        "act",
        {"score_length_correlation": flat(0.5), "length": line(10, 30)},
        "pays for longer answers, and they grow",
    ),
    (health.entropy, "fine", {"sampled_entropy": flat(0.0)}, "from 0 to 0 nats"),
    (health.entropy, "fine", {"sampled_entropy": line(3.0, 2.9)}, "from 2.99 to 2.91 nats"),
    (health.entropy, "fine", {"sampled_entropy": line(1.0, 0.8)}, "from 0.984 to 0.816 nats"),
    (health.entropy, "watch", {"sampled_entropy": line(1.0, 0.2)}, "become alike"),
    (health.entropy, "act", {"sampled_entropy": line(1.0, 0.0)}, "collapsed"),
    (health.entropy, "watch", {"sampled_entropy": line(1.0, 3.5)}, "become random"),
    (health.entropy, "act", {"sampled_entropy": line(1.0, 9.0)}, "falls apart"),
    (health.repetition, "fine", {"distinct_bigrams": line(0.95, 0.93)}, "93% of an answer's pairs"),
    (health.repetition, "watch", {"distinct_bigrams": line(1.0, 0.8)}, "begin to repeat"),
    (health.repetition, "fine", {"distinct_bigrams": flat(0.0)}, "0% of an answer's pairs"),
    (health.repetition, "act", {"distinct_bigrams": line(1.0, 0.3)}, "in circles"),
    (health.endings, "fine", {"stopped": flat(0.95)}, "5% of the answers did not end"),
    (health.endings, "watch", {"stopped": flat(0.7)}, "30%"),
    (health.endings, "watch", {"stopped": line(1.0, 0.7)}, "28%"),
    (health.endings, "act", {"stopped": flat(0.3)}, "70% of the answers did not end by themselves: the reward sees"),
    (health.critic_fit, "fine", {"explained_variance": line(-1.0, 0.6)}, "explains 0.47"),
    (health.critic_fit, "watch", {"explained_variance": flat(0.1)}, "helps little"),
    (health.critic_fit, "act", {"explained_variance": flat(-0.3)}, "a constant would do better"),
    (gold, "fine", {"score": line(0, 2), "gold": line(0, 1)}, "did not fall while score rose"),
    (
        gold,
        "fine",  # both fall: a bad run, and no gamed reward
        {"score": bend(0, 1, 0), "gold": bend(0, 1, 0)},
        "not fall",
    ),
    (
        gold,
        "watch",
        {"score": line(0, 2), "gold": bend(0, 1, 0.65)},
        "a step near the best",
    ),
    (
        gold,
        "act",
        {"score": line(0, 2), "gold": bend(0, 1, -0.5)},
        "gamed",
    ),
    (gold, "watch", {"score": line(0, 2), "gold": bend(5, 6, 5.65)}, "is at 5.71 ("),  # by its gain, not its level
    (gold, "act", {"score": line(0, 2), "gold": bend(5, 6, 5.1)}, "gamed"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "state", "series", "says"), CASES)
def test_a_rule_has_its_states_its_numbers_and_its_limits(
    rule: Rule, state: str, series: dict[str, Callable[[int], float]], says: str
) -> None:
    finding = found(rule, run(**series))
    assert finding.state == state, finding.sentence
    assert says in finding.sentence
    assert finding.rule
    assert finding.sentence.endswith(".")


@pytest.mark.parametrize(("rule", "state", "series", "says"), CASES)
def test_a_run_that_is_too_short_is_said_to_be_so(
    rule: Rule, state: str, series: dict[str, Callable[[int], float]], says: str
) -> None:
    rows = run(**series)
    finding = found(rule, rows[: 2 * (ENOUGH - 1)])
    assert finding.state == "unknown"
    assert finding.sentence.startswith("4 rounds are too few to tell; the last value is ")
    assert found(rule, rows[: 2 * ENOUGH]).state != "unknown"


@pytest.mark.parametrize(("rule", "state", "series", "says"), CASES)
def test_numbers_that_are_missing_or_null_are_passed_over(
    rule: Rule, state: str, series: dict[str, Callable[[int], float]], says: str
) -> None:
    assert rule([]) is None
    assert rule(run(other=flat(1.0))) is None
    assert rule(run(**{name: (lambda number: None) for name in series})) is None
    rows = run(**series)
    holes: list[Row] = [{"step": 0, "eval_other": 1.0}]  # an evaluation before the first step
    for number, row in enumerate(rows):
        holes += [row, {**row, **dict.fromkeys(series)}, {"step": row["step"], "round": row["round"]}]
        holes += [{**row, **dict.fromkeys(series, float("nan"))}] if number % 3 else []
    assert found(rule, holes) == found(rule, rows)


def test_noise_alone_is_no_fall_of_the_gold() -> None:
    # deviation 1 around a level: of 200 such runs at the most one or two are taken for a fall
    taken = 0
    for seed in range(200):
        noise = random.Random(seed)
        finding = gold_against_proxy(run(score=line(0, 2), gold=[noise.gauss(0, 1) for _ in range(ROUNDS)]), "gold")
        taken += finding is not None and finding.state in ("watch", "act")
    assert taken <= 10


def test_the_gold_is_each_of_several_rewards_and_the_score_of_held_out_prompts() -> None:
    one = {"score": flat(0), "score/rm": flat(0)}
    assert golds(run(**one)) == []  # it is the score itself
    assert golds(run(**one, **{"score/length": flat(0)})) == ["score/rm", "score/length"]
    assert golds(run(score=flat(0), eval_score_sampled=flat(0))) == ["eval_score_sampled"]


def test_a_fall_on_held_out_prompts_is_no_gaming_of_the_reward_that_scores_them_too() -> None:
    rows = run(score=line(0, 2), eval_score_sampled=bend(0, 1, -0.5), gold=bend(0, 1, -0.5))
    for name, says in (("eval_score_sampled", "holds on no other prompts"), ("gold", "the reward is being gamed")):
        finding = gold_against_proxy(rows, name)
        assert finding is not None
        assert (finding.state, says in finding.sentence) == ("act", True)


def test_a_part_of_the_reward_that_falls_may_have_been_asked_to() -> None:
    finding = gold_against_proxy(run(score=line(0, 2), **{"score/length": line(40, 10)}), "score/length")
    assert finding is not None
    assert finding.state == "watch"
    assert "as a negative weight asks for, or outweighed by the other parts" in finding.sentence
    assert "act" not in finding.rule


def test_findings_stand_the_worst_first() -> None:
    rows = run(
        kl=line(0, 40),
        stopped=flat(0.7),
        distinct_bigrams=flat(1.0),
        score=line(0, 2),
        eval_score_sampled=bend(0, 1, -0.5),
    )
    states = [finding.state for finding in health.of_rounds(rows)]
    assert states == ["act", "act", "watch", "watch", "fine"]
    assert {finding.name for finding in health.of_rounds(rows)[:2]} == {"KL, level", "eval_score_sampled against score"}


# --- courses ----------------------------------------------------------------------------------------------------------


def test_a_round_is_the_mean_of_its_updates_and_what_they_repeat_stays_as_it_is() -> None:
    rows: list[Row] = [
        {"step": 1, "round": 1.0, "kl": 0.1, "clip_fraction": 0.0},
        {"step": 2, "round": 1.0, "kl": 0.1, "clip_fraction": 0.2},
        {"step": 3, "round": 1.0, "kl": 0.1, "clip_fraction": 0.4},
    ]
    assert rounds(rows) == [{"step": 2.0, "round": 1.0, "kl": 0.1, "clip_fraction": pytest.approx(0.2)}]


def test_rows_without_rounds_go_by_their_step() -> None:
    found = course([{"step": 3, "loss": 1.0}, {"step": 4, "loss": None}, {"step": 5, "loss": 0.5}], of("loss"))
    assert (found.at, found.values, found.unit) == ([3.0, 5.0], [1.0, 0.5], "step")


def test_the_length_is_compared_with_the_first_round_that_has_one() -> None:
    rows: list[Row] = [
        {"step": 0, "eval_score": 1.0},
        *({"step": n, "round": n, "length": 10.0 * n} for n in (1, 2, 3)),
    ]
    assert course(rows, length_ratio).values == [1.0, 2.0, 3.0]


def test_a_ratio_of_lengths_needs_both_and_a_first_that_is_something() -> None:
    assert length_ratio({"length": 3.0}, {"length": 2.0}) == 1.5
    assert length_ratio({"length": 3.0}, {}) is None
    assert length_ratio({"length": 3.0}, {"length": 0.0}) is None
    assert length_ratio({"length": None}, {"length": 2.0}) is None


def test_what_was_measured_before_the_first_step_stands_at_zero() -> None:
    rows: list[Row] = [{"step": 0, "eval_score": 1.0}, {"step": 4, "round": 1.0, "eval_score": 2.0}]
    assert course(rows, of("eval_score")).at == [0.0, 1.0]


def test_a_judge_is_asked_only_where_the_score_rose() -> None:
    def asked(rows: Sequence[Row], low: float, high: float) -> Finding:
        finding = proxy_and_judge(rows, "gold.py", ((low + high) / 2, low, high))
        assert finding is not None
        return finding

    rising, falling = run(score=line(-5, -3)), run(score=line(-3, -5))
    assert (asked(rising, 0.1, 0.3).state, asked(falling, 0.1, 0.3).state) == ("act", "fine")
    assert "rose by 1.68, and by gold.py it wins 20.0% (95 % 10.0% to 30.0%)" in asked(rising, 0.1, 0.3).sentence
    states = [asked(rising, *interval).state for interval in ((0.4, 0.5), (0.4, 0.6), (0.5, 0.6), (0.51, 0.6))]
    assert states == ["watch", "watch", "watch", "fine"]


def test_speed_is_the_slope_of_the_later_half() -> None:
    assert course([{"step": n, "kl": float(max(0, 10 - n))} for n in range(20)], of("kl")).speed == 0.0
    assert course([{"step": n, "kl": 3.0 * n} for n in range(7)], of("kl")).speed == pytest.approx(3.0)
    assert course([{"step": 1, "kl": 3.0}], of("kl")).speed == 0.0
