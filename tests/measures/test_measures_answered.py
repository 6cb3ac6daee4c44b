"""What is kept of an evaluation: intervals equal to those of its own numbers, and a bounded choice of texts."""

from __future__ import annotations

import json

import pytest
import torch

from posttrain.measures.answered import LONGEST, TEXTS, Answered, chosen, cut, estimates, facts_of, finite
from posttrain.ops.statistics import bootstrap_mean, wilson


def row(score: float | None = None, against: float | None = None, **more: object) -> Answered:
    plain = {"prompt": "p", "answer": "a", "stopped": True, "tokens": 3, "score": score, "against_score": against}
    return Answered(**{**plain, **({} if against is None else {"against": "b"}), **more})  # pyright: ignore[reportArgumentType]


def test_wins_count_ties_as_half_and_leave_out_what_has_no_score() -> None:
    rows = [row(2.0, 1.0), row(1.0, 1.0), row(0.0, 1.0), row(None, 1.0), row(1.0, None)]
    assert [each.win for each in rows] == [1.0, 0.5, 0.0, None, None]
    found = estimates(rows)
    assert found["win_rate"].value == 0.5
    assert found["win_rate"].interval == wilson(1.5, 3)
    assert (found["gain"].value, found["gain"].count) == (0.0, 3)
    assert (found["score"].value, found["score"].count) == (1.0, 4)
    assert found["gain"].interval == bootstrap_mean(torch.tensor([1.0, 0.0, -1.0]))


def test_a_share_has_wilsons_interval_and_a_mean_that_of_the_bootstrap() -> None:
    rows = [row(worth={"exact_match": float(n < 3), "token_f1": n / 4}, stopped=n > 0) for n in range(4)]
    found = estimates(rows)
    assert found["exact_match"].interval == wilson(3, 4)
    assert found["ended_by_itself"].interval == wilson(3, 4)
    assert found["token_f1"].interval == bootstrap_mean(torch.tensor([0.0, 0.25, 0.5, 0.75]))
    assert set(found) == {"exact_match", "token_f1", "ended_by_itself"}
    assert estimates([]) == {}


def test_what_is_kept_are_numbers_of_every_prompt_that_give_the_estimates_again() -> None:
    rows = [row(float(n % 5), float(n % 3), tokens=n, worth={"exact_match": float(n % 2)}) for n in range(300)]
    facts = json.loads(json.dumps(facts_of(rows)))
    numbers = facts["per_prompt"]
    assert facts["count"] == len(numbers["score"]) == 300
    wins = sum(numbers["win"])
    assert facts["estimates"]["win_rate"] == {"value": wins / 300, "interval": list(wilson(wins, 300)), "count": 300}
    gains = torch.tensor(numbers["score"]) - torch.tensor(numbers["against_score"])
    assert facts["estimates"]["gain"]["interval"] == pytest.approx(list(bootstrap_mean(gains)))
    assert sum(numbers["exact_match"]) == 150
    assert len(facts["prompts"]) == TEXTS


def test_texts_are_kept_of_the_worst_and_the_best_and_some_in_between() -> None:
    rows = [row(float((n * 37) % 1000)) for n in range(1000)]
    places = chosen(rows)
    assert len(places) == len(set(places)) == TEXTS
    assert places == sorted(places)
    scores = sorted(rows[place].score or 0.0 for place in places)
    assert scores[: TEXTS // 2] == list(range(TEXTS // 2))
    assert scores[-TEXTS // 4 :] == list(range(1000 - TEXTS // 4, 1000))
    unscored = chosen([row() for _ in range(1000)])
    assert unscored[:3] == [0, 5, 10]
    assert chosen([row()] * 3) == [0, 1, 2]


def test_a_kept_prompt_has_what_there_is_and_no_more() -> None:
    [plain] = facts_of([row()])["prompts"]  # pyright: ignore[reportGeneralTypeIssues]
    assert plain == {"place": 0, "prompt": "p", "answer": "a", "stopped": True}
    [both] = facts_of([row(1.0, 2.0, against_stopped=False, reference="r")])["prompts"]  # pyright: ignore
    assert both | {"prompt": ""} == {
        "place": 0, "prompt": "", "answer": "a", "stopped": True, "score": 1.0, "against_answer": "b",
        "against_stopped": False, "against_score": 2.0, "reference": "r",
    }  # fmt: skip


def test_long_texts_are_cut_and_a_score_that_is_none_is_told_as_none() -> None:
    assert cut("x" * LONGEST) == "x" * LONGEST
    assert cut("x" * (LONGEST + 1)) == "x" * (LONGEST - 1) + "…"
    assert finite(float("nan")) is None
    assert finite(1.5) == 1.5
