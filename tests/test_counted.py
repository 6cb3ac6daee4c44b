"""Numbers with their nouns."""

from __future__ import annotations

from posttrain.counted import counted


def test_one_is_one_and_all_else_is_many() -> None:
    assert [counted(n, "row") for n in (0, 1, 2, 2000)] == ["0 rows", "1 row", "2 rows", "2,000 rows"]
    assert [counted(n, "answer not ranked") for n in (1, 3)] == ["1 answer not ranked", "3 answers not ranked"]
    assert [counted(n, "row", "ask") for n in (1, 2)] == ["1 row asks", "2 rows ask"]
