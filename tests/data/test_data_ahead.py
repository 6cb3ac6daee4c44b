"""Batches made in the background: in order, one ahead and no more, errors in their place, and no thread left."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from posttrain.data.ahead import ahead


def waiting() -> list[str]:
    """The names of the threads that make batches."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_all_come_in_their_order_and_no_thread_stays() -> None:
    assert list(ahead(range(50), str)) == [str(number) for number in range(50)]
    assert list(ahead((), str)) == []
    assert waiting() == []


def test_the_next_one_is_made_while_one_is_in_use_and_no_more() -> None:
    asked = [threading.Event() for _ in range(4)]
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(4):
            yield number
            asked[number].set()

    def change(number: int) -> int:
        made.append(number)
        return number

    with closing(ahead(items(), change)) as batches:
        assert next(batches) == 0
        assert asked[0].wait(5)  # the second is asked for while the first is in use
        assert next(batches) == 1
        assert asked[1].wait(5)
        assert made in ([0, 1], [0, 1, 2])
    assert waiting() == []


def test_what_goes_wrong_is_raised_where_that_one_would_have_come() -> None:
    batches = ahead([2, 1, 0, 3], lambda number: 6 // number)
    assert [next(batches), next(batches)] == [3, 6]
    with pytest.raises(ZeroDivisionError):
        next(batches)
    assert waiting() == []


def test_one_that_is_closed_before_its_end_leaves_no_thread_and_reads_no_further() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    def stopped() -> None:
        with closing(ahead(items(), str)) as batches:
            next(batches)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert waiting() == []
    assert len(read) <= 2


def test_batches_are_made_in_a_thread_of_their_own() -> None:
    names = set(ahead(range(3), lambda _: threading.current_thread().name))
    assert len(names) == 1
    assert threading.current_thread().name not in names
