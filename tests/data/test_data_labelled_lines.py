"""Sentences with a label after a tab, without names of columns: when they are recognised, and when not."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.data.labelled_lines import has_labelled_lines
from posttrain.data.readers import read
from posttrain.errors import DataError
from posttrain.types import TargetRecord


@pytest.mark.parametrize("name", ["imdb", "yelp", "amazon_cells"])
def test_the_sentiment_sets_are_read_as_they_stand(shared: Path, name: str) -> None:
    data = read(shared / "data" / "sentiment" / f"{name}_labelled.txt", "target")
    assert (data.format, data.rows) == ("sentence with label → target", 1000)
    labels = [record.label for record in data.records if isinstance(record, TargetRecord)]
    assert {label: labels.count(label) for label in labels}.keys() == {"0", "1"}


@pytest.mark.parametrize(
    ("text", "labelled"),
    [
        ("Good.\t1\nBad.\t0\n", True),
        ('"Quoted\t1\nBad."\t0\n', True),
        ("Good.\t1\n", False),  # one line says nothing
        ("sentence\tlabel\nGood.\t1\nBad.\t0\n", False),
        ("Good.\tgut\nBad.\tschlecht\n", False),  # a translation
        ("a\tb\t1\nc\td\t0\n", False),
        ("".join(f"line\t{n}\n" for n in range(30)), False),  # numbers of lines
        ("Good.\n\nBad.\n", False),
        ("Good.\t1\n" * 9 + "no label\n", True),  # one broken line in ten
        ("Good.\t1\n" * 9 + "no label\n" * 2, False),
        ("no label\n" + "Good.\t1\n" * 30, False),  # perhaps names of columns
    ],
)
def test_only_one_tab_and_a_few_whole_numbers_make_labels(text: str, labelled: bool, tmp_path: Path) -> None:
    file = tmp_path / "rows.txt"
    file.write_text(text)
    assert has_labelled_lines(file) is labelled


@pytest.mark.parametrize("suffix", ["txt", "tsv"])
def test_a_line_that_is_otherwise_is_a_bad_row(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"rows.{suffix}"
    file.write_text("".join(f'say "{n}\t{n % 2}\n' for n in range(250)) + "no label\n\nlast\t1\n")
    data = read(file, "target")
    assert len(data.records) == 251
    [problem] = data.problems
    assert (problem.place, problem.what) == (
        f"{file}:251",
        "the line has 0 tabs, expected a sentence, one tab and a label",
    )


def test_finetuning_asks_whether_the_label_is_the_answer(shared: Path) -> None:
    with pytest.raises(DataError, match=r"is it prompt/response, with .* as 'prompt', 'label' \"0\" as 'response'\?"):
        read(shared / "data" / "sentiment" / "imdb_labelled.txt", ("chat", "text"))
