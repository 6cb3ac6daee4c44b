"""What scores are divided by: of the step, or of all so far, whatever they were cut into."""

from __future__ import annotations

import json

import pytest
import torch

from posttrain.rollout.scaling import ScoreScale

SCORES = torch.tensor([3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, 6.0])


def test_a_running_scale_is_the_deviation_of_everything_so_far() -> None:
    scale = ScoreScale("running")
    for end in (1, 3, 8):
        found = scale(SCORES[{1: 0, 3: 1, 8: 3}[end] : end])
        assert found == pytest.approx(float(SCORES[:end].double().std(correction=0)), rel=1e-12)


def test_the_scale_of_a_step_forgets_the_others() -> None:
    scale = ScoreScale("batch")
    scale(SCORES[:4])
    assert scale(SCORES[4:]) == pytest.approx(float(SCORES[4:].std(correction=0)))
    assert ScoreScale(None)(SCORES) == 1.0


def test_a_far_mean_costs_no_digits() -> None:
    scale = ScoreScale("running")
    far = SCORES.double() + 1e8
    scale(far[:5])
    assert scale(far[5:]) == pytest.approx(float(SCORES.double().std(correction=0)), rel=1e-6)


def test_a_running_scale_goes_on_from_its_state_to_the_bit() -> None:
    whole, first, second = ScoreScale("running"), ScoreScale("running"), ScoreScale("running")
    whole(SCORES[:3])
    first(SCORES[:3])
    second.load_state(json.loads(json.dumps(first.state())))
    assert second(SCORES[3:]) == whole(SCORES[3:])
