"""The sections of health on made-up runs: rounds, pairs, cards, evaluations and the verdict."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from read_at_hand import a_run, an_evaluation, answers, charts, flat, said, tables

from posttrain.report.parts import Answers, Code, Section, Warned
from posttrain.report.reading import Read
from posttrain.report.sections.dpo import dpo
from posttrain.report.sections.evaluation import evaluation
from posttrain.report.sections.ppo import ppo
from posttrain.report.sections.reward import reward
from posttrain.report.sections.verdict import verdict

Facts = dict[str, Any]


def rounds(count: int = 12, **ends: tuple[float, float]) -> list[Facts]:
    """Rounds of two updates; each metric goes from one number to another in a straight line."""
    return [
        {"step": 2 * number + update, "seconds": 1.0, "round": number + 1.0}
        | {name: start + (end - start) * number / max(1, count - 1) for name, (start, end) in ends.items()}
        for number in range(count)
        for update in (1, 2)
    ]


HEALTHY = {
    "score": (0.0, 2.0), "reward": (0.0, 2.0), "objective": (0.0, 1.5), "kl": (0.0, 5.0), "kl_k3": (0.0, 5.0),
    "length": (20.0, 22.0), "stopped": (1.0, 1.0), "sampled_entropy": (1.0, 0.9), "distinct_bigrams": (1.0, 1.0),
    "score_length_correlation": (0.0, 0.1), "explained_variance": (0.0, 0.5), "clip_fraction": (0.0, 0.05),
}  # fmt: skip


# --- rounds -----------------------------------------------------------------------------------------------------------


def test_each_quantity_of_the_rounds_has_a_chart_with_what_it_says() -> None:
    section = ppo(a_run(metrics=rounds(**HEALTHY)))
    found = charts(section)
    without = {name for name, chart in found.items() if chart.finding is None}
    assert without == {"ppo-reward", "ppo-frontier"}
    assert {name.removeprefix("ppo-") for name in found} - {"reward", "frontier"} == {
        "kl", "kl-speed", "length", "reward-length", "entropy", "explained-variance", "clip-fraction", "repetition",
        "endings",
    }  # fmt: skip
    assert {chart.finding.state for chart in found.values() if chart.finding} == {"fine"}
    assert "9 rules checked; all is fine." in said(section)
    assert all(chart.about and chart.link.startswith("docs/methods.md#") for chart in found.values())
    [kl, k3] = found["ppo-kl"].series
    assert (kl.name, k3.name, kl.x[:2], kl.y[-1]) == ("kl", "kl_k3", [1.0, 2.0], 5.0)  # a point a round, as it is


def test_the_frontier_has_a_point_a_round_in_the_order_of_time() -> None:
    frontier = charts(ppo(a_run(metrics=rounds(8, **HEALTHY))))["ppo-frontier"]
    assert [series.name for series in frontier.series] == [
        "rounds 1 to 2", "rounds 3 to 4", "rounds 5 to 6", "rounds 7 to 8"
    ]  # fmt: skip
    assert frontier.kind == "points"
    assert (frontier.series[-1].x[-1], frontier.series[-1].y[-1]) == (5.0, 2.0)


def test_a_part_of_the_reward_that_falls_is_told_beside_the_score_that_rises() -> None:
    held_out = {"eval_score_sampled": (0.0, 1.0)}
    metrics = rounds(**{**HEALTHY, "score/rm": (0.0, 3.0), "score/short": (1.0, -1.0), **held_out})
    section = ppo(a_run(metrics=metrics))
    short, own = (charts(section)[f"ppo-gold-{name}"] for name in ("score-short", "eval_score_sampled"))
    assert (short.title, own.title) == (
        "A part of the reward: score/short and score",
        "Held-out prompts: eval_score_sampled and score",
    )
    finding = short.finding
    assert finding is not None
    assert finding.state == "watch"
    assert "to watch: score/short against score" in said(section)


def test_a_judge_that_the_run_was_not_trained_on_is_asked_whether_it_agrees() -> None:
    lost = {"win_rate": {"value": 0.3, "interval": [0.2, 0.4], "count": 4}}

    def judged(**changed: Any) -> list[str]:
        run = a_run(metrics=rounds(**HEALTHY), evaluations=[an_evaluation(**changed)])
        section = ppo(run)
        assert section is not None
        return [part.finding.state for part in flat(section.parts) if isinstance(part, Warned)]

    assert judged() == ["fine"]
    assert judged(estimates=lost) == ["act"]
    assert judged(estimates={"win_rate": {"value": 0.45, "interval": [0.3, 0.6], "count": 4}}) == ["watch"]
    assert judged(estimates=lost, judges=["runs/rm"]) == []  # the reward itself is no other judge
    assert judged(estimates=lost, judges=["./runs/rm/"]) == []
    assert judged(estimates=lost, against="./runs/sft") == ["act"]
    assert judged(estimates=lost, prompts=[{"prompt": 5}]) == judged(estimates=lost, judges=None) == []  # damaged
    assert judged(estimates=lost, against="runs/other") == []
    assert judged(estimates=lost, run="another run that was here before") == []
    assert judged(estimates=lost, format=99) == []


def test_a_run_that_began_badly_or_has_no_rounds_makes_no_health_of_them() -> None:
    assert ppo(a_run("sft", metrics=[{"step": 1, "loss": 1.0}])) is None
    assert ppo(a_run(metrics=[])) is None
    section = ppo(a_run(metrics=rounds(1, **HEALTHY)))
    states = {chart.finding.state for chart in charts(section).values() if chart.finding}
    assert states == {"unknown"}
    holes = [{**row, **dict.fromkeys(HEALTHY)} for row in rounds(5, **HEALTHY)]
    assert ppo(a_run(metrics=holes)) is None


# --- pairs ------------------------------------------------------------------------------------------------------------


def pairs(chosen: float, count: int = 20) -> list[Facts]:
    share = [number / (count - 1) for number in range(count)]
    return [
        {
            "step": number + 1, "loss": 0.69 - 0.3 * at, "accuracy": 0.5 + 0.4 * at, "margin": 5.0 * at,
            "chosen_logratio": chosen * at, "rejected_logratio": (chosen - 5.0) * at,
        }
        for number, at in enumerate(share)
    ]  # fmt: skip


def test_both_sides_that_fall_are_warned_of_and_accuracy_comes_with_what_it_means() -> None:
    section = dpo(a_run("dpo", metrics=pairs(-30.0)))
    finding = charts(section)["dpo-sides"].finding
    assert finding is not None
    assert finding.state == "act"
    assert "Health: 1 rule checked; to act on: both log-probs fall." in said(section)
    assert "judge the policy by fresh answers" in said(section)
    assert "The KL to the start is not known" in said(section)


@pytest.mark.parametrize("settings", [{"length_normalize": True, "loss": "sigmoid"}, {"loss": "simpo"}])
def test_means_over_tokens_are_told_and_judged_per_token(settings: Facts) -> None:
    run = a_run("dpo", metrics=pairs(-0.05), settings=settings)
    chart = charts(dpo(run))["dpo-sides"]
    assert chart.y == "nats per token"
    assert chart.finding is not None
    assert (chart.finding.state, "per token" in chart.finding.sentence) == ("watch", True)
    assert charts(dpo(a_run("dpo", metrics=pairs(-0.05))))["dpo-sides"].finding != chart.finding
    assert "both log-probs fall" in said(verdict(run))


def test_the_charts_of_pairs_speak_of_the_loss_that_was_trained() -> None:
    sigmoid, alone = (dpo(a_run("dpo", metrics=pairs(1.0), settings={"loss": loss})) for loss in ("sigmoid", "simpo"))
    assert "log 2" in charts(sigmoid)["dpo-loss"].about
    assert "one half" in charts(sigmoid)["dpo-accuracy"].about
    assert "log 2" not in charts(alone)["dpo-loss"].about
    assert "one half" not in charts(alone)["dpo-accuracy"].about
    rows = [{"step": 1, "loss": 0.5, "accuracy": 0.5, "desirable_logratio": 0.1, "undesirable_logratio": -0.1}]
    labelled = dpo(a_run("dpo", metrics=rows, settings={"loss": "kto"}))
    assert labelled is not None
    assert "pair" not in labelled.title + said(labelled) + "".join(
        chart.title + chart.y + chart.about for chart in charts(labelled).values()
    )


def test_the_kl_of_a_run_of_pairs_comes_from_an_evaluation_against_its_start() -> None:
    run = a_run("dpo", metrics=pairs(1.0), evaluations=[an_evaluation()])
    assert "On 4 prompts of held_out.jsonl: a KL of 6.25 nats per answer to runs/sft" in said(dpo(run))
    assert dpo(a_run("sft", metrics=[{"step": 1, "loss": 1.0}])) is None


# --- the card of a reward model ---------------------------------------------------------------------------------------


def share(value: float, count: int = 40) -> Facts:
    low, high = value - 0.05, value + 0.05
    return {
        "value": value, "interval": [0.0, 1.0], "interval_over_prompts": [low, high], "count": count, "prompts": 20
    }  # fmt: skip


def card(**changed: Any) -> Facts:
    plain: Facts = {
        "rankings": 20,
        "accuracy": share(0.75),
        "by_gap": {"0.00 to 1.00 apart": share(0.6), "1.00 to 5.00 apart": share(0.9)},
        "by_length": {"as long": share(0.7), "longer by up to 3": {**share(1.0, 3), "prompts": 1}},
        "by_annotator": {"anna": share(0.8), "nobody named": share(0.0, 0)},
        "calibration": {"error": 0.03, "bins": [{"probability": 0.6, "accuracy": 0.65, "count": 20}]},
        "length": {
            "correlation": 0.1, "rank_correlation": 0.1, "within_prompts": 0.0, "longer_wins": share(0.5),
            "scores_longer_higher": share(0.5),
        },
        "agreement": {"people": share(0.77), "model": share(0.74)},
        "disagreements": [
            {
                "gap": 9.0 - number, "id": f"f:{number}", "annotator": "anna", "prompt": f"which {number}?",
                "answers": [
                    {"text": "the better", "rank": 1, "score": -4.0}, {"text": "the worse", "rank": 2, "score": 5.0}
                ],
            }
            for number in range(8)
        ],
    }  # fmt: skip
    return plain | changed


def test_the_card_shows_accuracy_beside_people_and_by_gap_length_and_annotator() -> None:
    section = reward(a_run("reward", card={"training": card(accuracy=share(0.9)), "held_out": card()}))
    rows = {row[0]: row[1:] for table in tables(section) for row in table.rows}
    assert rows["accuracy, held-out rankings"] == [0.75, pytest.approx(0.7), pytest.approx(0.8), 40]
    assert rows["accuracy, training rankings"][0] == 0.9
    assert rows["two people agree, held-out rankings"][0] == 0.77
    assert rows["1.00 to 5.00 apart"][0] == 0.9
    assert rows["longer by up to 3"] == [1.0, None, None, 3]  # one prompt has no interval
    assert rows["anna"][0] == 0.8
    assert "nobody named" not in rows
    assert said(section).startswith("On 20 rankings that were held out.")
    calibration = charts(section)["reward-calibration"]
    assert [(series.x, series.y) for series in calibration.series] == [([0.6], [0.65]), ([0.5, 1.0], [0.5, 1.0])]


def test_the_largest_disagreements_are_shown_with_texts_ranks_and_scores() -> None:
    section = reward(a_run("reward", card={"held_out": card()}))
    found = answers(section)
    assert len(found) == 8
    assert found[0].prompt == "which 0? (ranked by anna)"
    assert [(each.label, each.text, each.note) for each in found[0].answers] == [
        ("rank 2", "the worse", "score 5"), ("rank 1", "the better", "score -4")
    ]  # fmt: skip
    assert section is not None
    assert len([part for part in section.parts if isinstance(part, Answers)]) == 6  # the others are folded


def test_a_card_of_an_older_version_and_a_run_without_one() -> None:
    old = {"rankings": 3, "accuracy": share(0.6), "calibration": {"error": 0.0, "bins": []}}
    section = reward(a_run("reward", card={"training": old}))
    assert "as none were held out" in said(section)
    assert reward(a_run("reward", card=None)) is None
    assert reward(a_run("reward", card={})) is None


# --- evaluations ------------------------------------------------------------------------------------------------------


def test_an_evaluation_has_its_measures_with_intervals_and_its_worst_answers_first() -> None:
    twice = {"kl_per_answer": 6.25, "answers": 4, "judge_score": 0.5, "against_score": 0.1}
    estimates = an_evaluation()["estimates"] | {"score": {"value": 0.5, "interval": [0.0, 1.0], "count": 4}}
    section = evaluation(a_run(evaluations=[an_evaluation(measures=twice, estimates=estimates)]))
    [table] = tables(section)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["share of prompts won (ties half)"] == [0.625, 0.55, 0.7, 4]
    assert rows["KL, nats per answer"] == [6.25, None, None, None]
    assert set(rows) == {
        "share of prompts won (ties half)", "score, less that of the other model", "score", "KL, nats per answer"
    }  # fmt: skip
    assert said(section).startswith(
        "runs/it against runs/sft on 4 prompts of held_out.jsonl, judged by gold.py:score (2026-02-03)."
    )
    found = answers(section)
    assert [each.prompt for each in found] == ["prompt 1", "prompt 2", "prompt 0"]  # lost 3, 0, and won 1
    assert [(each.label, each.text, each.note) for each in found[0].answers] == [
        ("runs/it", "ours 1", "score -2"), ("runs/sft", "theirs 1", "score 1")
    ]  # fmt: skip


def test_without_a_judge_the_worst_answers_go_by_a_measure_beside_their_references() -> None:
    compared = an_evaluation(
        against=None, judges=[], measures={},
        estimates={"token_f1": {"value": 0.5, "interval": [0.0, 1.0], "count": 2}},
        per_prompt={"tokens": [1, 1], "stopped": [True, False], "token_f1": [1.0, 0.0]}, count=2,
        prompts=[
            {"place": 0, "prompt": "a", "answer": "right", "stopped": True, "reference": "right"},
            {"place": 1, "prompt": "b", "answer": "wrong", "stopped": False, "reference": "right"},
        ],
    )  # fmt: skip
    section = evaluation(a_run(evaluations=[compared]))
    found = answers(section)
    assert [each.prompt for each in found] == ["b", "a"]
    assert [(each.label, each.stopped) for each in found[0].answers] == [("runs/it", False), ("reference", True)]
    assert "by token f1" in said(section)


def test_older_evaluations_are_folded_and_those_of_another_run_left_out() -> None:
    made = "2026-03-01T00:00:00"
    stored = [an_evaluation(run="before"), an_evaluation(), an_evaluation(made=made, data=["new.jsonl"])]
    section = evaluation(a_run(evaluations=stored))
    assert section is not None
    assert [facts["made"][:7] for facts in _list(section.facts["evaluations"])] == ["2026-02", "2026-03"]
    assert said(section).startswith("runs/it against runs/sft on 4 prompts of new.jsonl")
    assert evaluation(a_run(evaluations=[an_evaluation(run="before")])) is None
    assert evaluation(a_run()) is None


def _list(value: object) -> Sequence[Facts]:
    assert isinstance(value, list)
    return value


# --- the verdict ------------------------------------------------------------------------------------------------------


def test_the_verdict_of_an_evaluated_run_is_a_sentence_with_intervals() -> None:
    section = verdict(a_run(metrics=rounds(**HEALTHY), evaluations=[an_evaluation()]))
    assert (
        "Against runs/sft it wins 62.5% (95 % 55.0% to 70.0%) of 4 prompts of held_out.jsonl, judged by gold.py:score; "
        "the score gains 0.5 (95 % 0.25 to 0.75) on the mean, at a KL of 6.25 nats per answer."
    ) in said(section)
    assert "Health: 10 rules checked; all is fine." in said(section)
    assert not any(isinstance(part, Code) for part in section.parts)


def test_a_score_that_fell_is_not_said_to_gain() -> None:
    worse = an_evaluation()
    worse["estimates"] |= {"gain": {"value": -0.5, "interval": [-0.75, -0.25], "count": 4}}
    assert "the score changes by -0.5 (95 % -0.75 to -0.25) on the mean" in said(verdict(a_run(evaluations=[worse])))


def test_a_judge_that_it_was_not_trained_on_is_told_first_and_its_own_is_called_so() -> None:
    own = an_evaluation(judges=["runs/rm"], made="2026-05-01T00:00:00")
    lines = said(verdict(a_run(evaluations=[an_evaluation(), own]))).split("\n")
    assert ", judged by gold.py:score; the score" in lines[0]
    assert ", judged by runs/rm, which it was trained on; the score" in lines[1]


def test_what_asks_for_action_stands_with_the_verdict_the_worst_first() -> None:
    section = verdict(a_run(metrics=rounds(**{**HEALTHY, "kl": (0.0, 25.0), "stopped": (1.0, 0.7)})))
    states = [part.finding.state for part in section.parts if isinstance(part, Warned)]
    assert states == ["act", "watch", "watch"]
    assert "to act on: KL level; to watch: KL speed and endings." in said(section)


def test_the_verdict_of_a_run_that_nobody_evaluated_says_what_it_is_worth_and_how_to_know_more() -> None:
    section = verdict(a_run(metrics=rounds(**HEALTHY)))
    assert "On its own training prompts, by the reward that it was trained on: score from 0 to 2, kl" in said(section)
    assert "posttrain eval runs/it --against runs/sft --judge runs/rm --data HELD_OUT.jsonl" in said(section)


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (a_run("sft", metrics=[{"step": 1, "loss": 3.0}]), "Nothing was held out; on its training rows: loss from 3"),
        (a_run("sft", metrics=[{"step": 1, "eval_loss": 3.0}, {"step": 2, "eval_loss": 2.0}]), "loss from 3 to 2"),
        (a_run("reward", card={"held_out": card()}), "It orders 75.0% (95 % 70.0% to 80.0%) of the held-out pairs"),
        (a_run("reward", card={"held_out": card()}), "two people agree on 77.0%"),
        (a_run("reward", card={"held_out": card()}), "posttrain eval runs/it --data RANKED.jsonl"),
        (a_run("sft", settings={"model": "$(x)"}, parents={"reward": {"name": "a b"}}), "'$(x)' --judge 'a b'"),
        (a_run("dpo", metrics=[{"step": 1, "eval_loss": 0.6, "eval_accuracy": 0.8}]), "accuracy is of its own margin"),
        (a_run("dpo", metrics=pairs(1.0), parents={}), "--against runs/sft --judge REWARD_MODEL --data HELD_OUT.jsonl"),
        (a_run(status="failed", error="loss is not a number\n  rows: f:1"), "failed at step 0: loss is not a number."),
        (a_run(status="running", metrics=rounds(3, **HEALTHY)), "The run is at step 6, as far as it has written."),
        (a_run(status="interrupted"), "the same command goes on"),
    ],
)  # fmt: skip
def test_the_verdict_of_each_kind_of_run(run: Read, says: str) -> None:
    section = verdict(run)
    assert says in said(section)
    if run.record["status"] != "done":
        assert "posttrain eval" not in said(section)  # there is no model yet


def test_facts_are_plain_json() -> None:
    run = a_run(metrics=rounds(**HEALTHY), evaluations=[an_evaluation()], card={"held_out": card()})
    makers: Sequence[Callable[[Read], Section | None]] = (verdict, ppo, reward, evaluation)
    for make in makers:
        section = make(run)
        assert section is not None
        json.dumps(section.facts, allow_nan=False)
