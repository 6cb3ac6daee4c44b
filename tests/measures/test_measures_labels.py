"""Accuracy, macro F1, correlations and errors of labels, against numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from posttrain.measures.labels import HeadOutputs
from posttrain.ops.statistics import wilson


def logits(*said: int, classes: int = 3) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(said), classes).float() * 2


def test_accuracy_and_macro_f1_by_hand() -> None:
    # wanted 0 0 0 1 1, said 0 0 1 1 2: F1 of the classes 4/5, 2/4, 0
    found = HeadOutputs(outputs=logits(0, 0, 1, 1, 2), targets=torch.tensor([0.0, 0, 0, 1, 1])).values()
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 4 + 0) / 3)
    right, wrong = math.log(1 + 2 * math.exp(-2)), math.log(2 + math.exp(2))
    assert found["loss"] == pytest.approx((3 * right + 2 * wrong) / 5)


def test_macro_f1_shows_what_accuracy_hides() -> None:
    found = HeadOutputs(outputs=logits(*[0] * 10, classes=2), targets=torch.tensor([0.0] * 9 + [1.0])).values()
    assert found["accuracy"] == pytest.approx(0.9)
    assert found["macro_f1"] == pytest.approx((18 / 19 + 0) / 2)


def test_numbers_have_squared_error_and_two_correlations() -> None:
    said, wanted = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = HeadOutputs(outputs=said, targets=wanted).values()
    assert found["loss"] == pytest.approx((0 + 0 + 1 + 16) / 4)
    assert found["spearman"] == pytest.approx(1.0)  # the order is right, the distances are not
    assert found["pearson"] == pytest.approx(11.5 / math.sqrt(28.75 * 5))


def test_intervals_hold_their_value_and_accuracy_has_wilsons() -> None:
    outputs = torch.randn(80, 3, generator=torch.Generator().manual_seed(1))
    targets = outputs.argmax(dim=1).float()
    targets[:20] = (targets[:20] + 1) % 3
    found = HeadOutputs(outputs=outputs, targets=targets).estimates()
    assert found["accuracy"].interval == wilson(60, 80)
    for estimate in found.values():
        assert estimate.interval[0] < estimate.value < estimate.interval[1]
        assert estimate.count == 80


def test_a_model_that_says_one_number_correlates_with_nothing() -> None:
    found = HeadOutputs(outputs=torch.ones(5), targets=torch.arange(5.0)).estimates()
    assert (found["spearman"].value, found["pearson"].value) == (0.0, 0.0)


def test_no_rows_have_no_measures() -> None:
    assert HeadOutputs(outputs=torch.zeros(0, 2), targets=torch.zeros(0)).values() == {}
