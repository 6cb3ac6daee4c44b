"""What labels mean together: classes or numbers; and labelled sequences as batches and steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import torch

from posttrain.data.examples import TargetItem
from posttrain.data.pack import pack, split_by_tokens
from posttrain.data.store import Store
from posttrain.data.views import Changed, Chosen, Joined
from posttrain.errors import DataError, Problem
from posttrain.types import Step, TargetBatch

Kind: TypeAlias = Literal["classification", "regression"]
Label: TypeAlias = tuple[str, bool]
"""A label as text, and whether it is a number."""
MOST_WHOLE = 20
"""More distinct whole numbers than these are taken for a scale, not for classes."""
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a head is trained to say: one of `names`, in the order of its outputs, or a number where there are none."""

    names: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """`classification` or `regression`."""
        return "classification" if self.names else "regression"

    @property
    def outputs(self) -> int:
        """The numbers that the head gives of a sequence."""
        return len(self.names) or 1

    def targets(self, items: Sequence[TargetItem]) -> Sequence[TargetItem]:
        """The items with the target that each label is. Raises KeyError or ValueError for a label of no target."""
        place = {name: float(number) for number, name in enumerate(self.names)}

        def change(_: int, item: TargetItem) -> TargetItem:
            return replace(item, target=place[item.label] if place else float(item.label))

        return Changed(items, change)


def labels_of(items: Sequence[TargetItem]) -> list[Label]:
    """The label of each item; no tokens are decoded where the items stand in stores."""
    match items:
        case Store():
            return list(zip(items.texts("label"), items.flags("number"), strict=True))
        case Chosen():
            inner = labels_of(items.items)
            return [inner[int(place)] for place in items.places]
        case Joined():
            return [label for part in items.parts for label in labels_of(part)]
        case _:
            return [(item.label, item.number) for item in items]


@dataclass(slots=True, kw_only=True)
class Tally:
    """Labels with how many rows have each, and the place of the first of them."""

    counts: Counter[Label] = field(default_factory=Counter[Label])
    first: dict[Label, str] = field(default_factory=dict[Label, str])

    def see(self, name: str, place: Callable[[], str], *, number: bool) -> None:
        """Counts the label of one more row."""
        self.counts[name, number] += 1
        if (name, number) not in self.first:
            self.first[name, number] = place()

    @staticmethod
    def of(items: Sequence[TargetItem]) -> Tally:
        """That of all items."""
        tally = Tally()
        for place, (name, number) in enumerate(labels_of(items)):
            tally.see(name, lambda place=place: items[place].group.id, number=number)
        return tally

    @property
    def names(self) -> Counter[str]:
        """How many rows have each label, whatever it is written as."""
        names: Counter[str] = Counter()
        for (name, _), count in self.counts.items():
            names[name] += count
        return names


def task_of(setting: Literal["auto", "classification", "regression"], tally: Tally) -> tuple[Task, str]:
    """The task that the labels of all rows make, and the reason in one line.

    Automatically: classes where labels are texts, or at most 20 distinct whole numbers; else a regression. Raises
    DataError, with places, for labels that are partly text and partly numbers, for one class or value alone, and for
    labels most of which stand once.
    """
    counts, rows = tally.names, tally.counts.total()
    numbers = sum(count for (_, number), count in tally.counts.items() if number)
    if setting != "classification":
        _refuse_mixed(setting, tally, numbers)
    if len(counts) < 2:
        what = f"every label is {next(iter(counts))!r}: there is nothing to tell apart"
        place = next(iter(tally.first.values()))
        raise DataError([Problem(place=place, what=what, fix="give rows of at least two labels")])
    numeric = numbers == rows
    whole = numeric and all(float(name).is_integer() for name in counts)
    if setting == "regression" or (setting == "auto" and numeric and not (whole and len(counts) <= MOST_WHOLE)):
        why = "as asked" if setting == "regression" else f"{len(counts):,} distinct numbers"
        return Task(), f"task regression: {why}; labels of {_spread(counts)}"
    if 2 * len(counts) > rows > MOST_WHOLE:
        what = f"{len(counts):,} different labels in {rows:,} rows are no classes"
        numbered = ", or set task to regression" if numeric else ""
        fix = f"name the column of labels, such as columns: {{label: NAME}}{numbered}"
        raise DataError([Problem(place=next(iter(tally.first.values())), what=what, fix=fix)])
    names = sorted(counts, key=float) if numeric else sorted(counts)
    return Task(names=tuple(names)), f"task classification: {len(names)} classes, {counted_labels(names, counts)}"


def counted_labels(names: Sequence[str], counts: Mapping[str, int]) -> str:
    """`no (503), yes (497)`; of many labels the first."""
    shown = ", ".join(f"{name} ({counts[name]:,})" for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _spread(counts: Mapping[str, int]) -> str:
    values = torch.tensor([float(name) for name in counts], dtype=torch.float64)
    weights = torch.tensor(list(counts.values()), dtype=torch.float64)
    mean = (values * weights).sum() / weights.sum()
    deviation = ((values - mean).square() * weights).sum().div(weights.sum()).sqrt()
    return f"mean {mean:.4g}, deviation {deviation:.4g}"


def _refuse_mixed(setting: str, tally: Tally, numbers: int) -> None:
    """Raises DataError with the first row of each label that is not as most are, or no number where one must be."""
    rows = tally.counts.total()
    odd = setting == "auto" and 2 * numbers < rows  # what is told: the rarer kind, True for numbers
    if numbers in ((0, rows) if setting == "auto" else (rows,)):
        return
    most = f"most are {'text' if odd else 'numbers'}" if setting == "auto" else "the task is regression"
    fix = "write a number, or set task to classification"
    if setting == "auto":
        fix = "write all labels as text, or all as numbers; or set task to classification, which takes each as a name"
    problems = [
        Problem(
            place=tally.first[name, number],
            what=f"label {name!r} is {'a number' if number else 'text'}, and {most}" + _more(count),
            fix=fix,
        )
        for (name, number), count in tally.counts.items()
        if number == odd
    ]
    raise DataError(problems[:_SHOWN])


def _more(count: int) -> str:
    rows = "row has" if count == 2 else "rows have"
    return f"   ({count - 1:,} more {rows} it)" if count > 1 else ""


def unknown_labels(task: Task, items: Sequence[TargetItem]) -> list[Problem]:
    """A problem for each row whose label the task does not know: another class, or no number."""
    known, problems = frozenset(task.names), list[Problem]()
    for place, (name, number) in enumerate(labels_of(items)):
        if task.names and name not in known:
            what = f"label {name!r} is no class of the training data: {', '.join(task.names[:_SHOWN])}"
            fix = "correct it, or have rows of this class in data"
        elif not task.names and not number:
            what, fix = f"label {name!r} is no number, and the task is regression", "give a number"
        else:
            continue
        problems.append(Problem(place=items[place].group.id, what=what, fix=fix))
    return problems


# --- batches --------------------------------------------------------------------------------------------------------


def target_batch(items: Sequence[TargetItem]) -> TargetBatch:
    """One micro-batch of items that have targets."""
    return TargetBatch(
        tokens=pack([item.group for item in items]),
        targets=torch.tensor([item.target or 0.0 for item in items], dtype=torch.float32),
    )


def target_batches(items: Iterable[TargetItem], budget: int) -> Iterator[TargetBatch]:
    """Micro-batches of at most `budget` tokens."""
    return (target_batch(run) for run in split_by_tokens(items, budget, size=len))


def target_step(items: Sequence[TargetItem], budget: int) -> Step:
    """A step of a head: the count is its rows."""
    return Step(
        micro_batches=list(target_batches(items, budget)),
        counts={"rows": float(len(items))},
        rows=[item.group.id for item in items],
        metrics={"tokens": float(sum(map(len, items)))},
    )
