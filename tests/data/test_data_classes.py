"""What labels mean together, and labelled sequences as batches."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.data.classes import Tally, Task, target_batch, target_step, task_of, unknown_labels
from posttrain.data.examples import TargetItem
from posttrain.data.views import Chosen, Joined
from posttrain.errors import DataError
from posttrain.types import PrefixGroup, Span, TargetBatch


def items(*labels: str, number: bool | None = None) -> list[TargetItem]:
    return [
        TargetItem(
            group=PrefixGroup(id=f"row:{place}", root=Span.all((5, 6, 7)[: 1 + place % 3], trained=False)),
            label=label,
            number=label.replace(".", "").isdigit() if number is None else number,
        )
        for place, label in enumerate(labels, start=1)
    ]


def decided(setting: str, *labels: str) -> tuple[Task, str]:
    return task_of(setting, Tally.of(items(*labels)))  # type: ignore[arg-type]


def test_texts_are_classes_in_the_order_of_the_alphabet() -> None:
    task, reason = decided("auto", "no", "yes", "no", "maybe")
    assert (task.kind, task.names, task.outputs) == ("classification", ("maybe", "no", "yes"), 3)
    assert reason == "task classification: 3 classes, maybe (1), no (2), yes (1)"


def test_few_whole_numbers_are_classes_in_their_own_order() -> None:
    assert decided("auto", "10", "2", "2", "10", "1")[0].names == ("1", "2", "10")


def test_fractions_and_many_numbers_are_a_regression() -> None:
    task, reason = decided("auto", "0.5", "1", "1")
    assert (task.kind, task.names, task.outputs) == ("regression", (), 1)
    assert reason == "task regression: 2 distinct numbers; labels of mean 0.8333, deviation 0.2357"
    assert decided("auto", *map(str, range(21)))[0].kind == "regression"
    assert decided("auto", *map(str, range(20)))[0].kind == "classification"


def test_the_setting_decides_where_both_are_possible() -> None:
    assert decided("regression", "1", "2", "2")[0].kind == "regression"
    assert decided("classification", "0.5", "1", "1")[0].names == ("0.5", "1")
    assert decided("classification", "1", "one", "1")[0].names == ("1", "one")


@pytest.mark.parametrize(
    ("setting", "labels", "place", "what"),
    [
        (
            "auto",
            ("1", "0", "yes", "1", "yes"),
            "row:3",
            "label 'yes' is text, and most are numbers   (1 more row has it)",
        ),
        ("auto", ("a", "b", "7", "a"), "row:3", "label '7' is a number, and most are text"),
        ("regression", ("1", "2", "high"), "row:3", "label 'high' is text, and the task is regression"),
        ("regression", ("a", "b"), "row:1", "label 'a' is text, and the task is regression"),
        ("auto", ("a", "a"), "row:1", "every label is 'a': there is nothing to tell apart"),
        ("regression", ("2", "2"), "row:1", "every label is '2': there is nothing to tell apart"),
    ],
)
def test_labels_that_make_no_task_are_refused_at_their_place(
    setting: str, labels: tuple[str, ...], place: str, what: str
) -> None:
    with pytest.raises(DataError) as refused:
        decided(setting, *labels)
    problem = refused.value.problems[0]
    assert (problem.place, problem.what) == (place, what)
    assert problem.fix


def test_labels_that_mostly_stand_once_are_no_classes() -> None:
    with pytest.raises(DataError, match=r"25 different labels in 26 rows are no classes"):
        decided("auto", *(f"name {n}" for n in range(25)), "name 0")


def test_a_label_that_training_did_not_have_is_told_with_its_row() -> None:
    [problem] = unknown_labels(Task(names=("no", "yes")), items("yes", "perhaps"))
    assert (problem.place, problem.what) == ("row:2", "label 'perhaps' is no class of the training data: no, yes")
    [problem] = unknown_labels(Task(), items("1", "one"))
    assert problem.what == "label 'one' is no number, and the task is regression"


def test_targets_are_places_of_classes_or_the_numbers() -> None:
    assert [item.target for item in Task(names=("no", "yes")).targets(items("yes", "no"))] == [1.0, 0.0]
    assert [item.target for item in Task().targets(items("0.5", "3"))] == [0.5, 3.0]


def test_labels_are_counted_through_views() -> None:
    rows = items("a", "b", "a", "c")
    tally = Tally.of(Joined([Chosen(rows, np.array([3, 0])), rows[1:2]]))
    assert (tally.names, tally.first["c", False]) == ({"c": 1, "a": 1, "b": 1}, "row:4")


def test_a_batch_holds_each_sequence_with_its_target() -> None:
    batch = target_batch(Task(names=("a", "b")).targets(items("b", "a", "b")))
    assert batch.targets.tolist() == [1.0, 0.0, 1.0]
    assert batch.tokens.segment.bincount().tolist() == [2, 3, 1]
    assert not batch.tokens.trained.any()


def test_a_step_is_cut_by_tokens_and_counted_in_rows() -> None:
    step = target_step(Task().targets(items("1", "2", "3", "4")), budget=5)
    batches = [batch for batch in step.micro_batches if isinstance(batch, TargetBatch)]
    assert [batch.targets.tolist() for batch in batches] == [[1.0, 2.0], [3.0, 4.0]]
    assert (step.counts, step.rows) == ({"rows": 4.0}, ["row:1", "row:2", "row:3", "row:4"])
