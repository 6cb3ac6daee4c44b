"""Calls of people's own functions: order, how many at once, time, and errors as outcomes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial

import pytest

from posttrain.recipes.calls import Failure, call_async, call_plain


class Gauge:
    """Counts how many calls are under way at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


def raising() -> float:
    raise KeyError("word")


def leaving() -> float:
    raise SystemExit(3)


@pytest.mark.parametrize(("at_once", "timeout"), [(1, None), (1, 5.0), (3, None), (3, 5.0)])
def test_outcomes_come_in_order_and_errors_are_outcomes(at_once: int, timeout: float | None) -> None:
    calls: list[Callable[[], float]] = [partial(float, number) for number in range(8)]
    calls[2], calls[5] = raising, leaving
    found = call_plain(calls, at_once=at_once, timeout=timeout)
    assert found == [0, 1, Failure("KeyError: 'word'"), 3, 4, Failure("SystemExit: 3"), 6, 7]


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_no_more_plain_calls_are_under_way_than_may_be(at_once: int) -> None:
    gauge, met = Gauge(), threading.Barrier(at_once)

    def call() -> float:
        with gauge:
            met.wait(5)  # passes only when `at_once` of them are here together
            return 1.0

    assert call_plain([call] * (2 * at_once), at_once=at_once, timeout=10.0) == [1.0] * (2 * at_once)
    assert gauge.most == at_once


def test_a_plain_call_that_is_late_is_left_behind_and_the_others_are_not() -> None:
    never = threading.Event()
    calls: list[Callable[[], object]] = [lambda: 1, never.wait, lambda: 3, never.wait]
    late = Failure("no answer within 0.05 s")
    try:
        assert call_plain(calls, at_once=2, timeout=0.05) == [1, late, 3, late]
        assert call_plain(calls[:3], at_once=1, timeout=0.05) == [1, late, 3]
    finally:
        never.set()


@pytest.mark.parametrize("at_once", [1, 3])
def test_async_calls_run_together_up_to_the_limit(at_once: int) -> None:
    gauge = Gauge()

    async def call(number: int) -> int:
        with gauge:
            await asyncio.sleep(0.01)
            return number

    found = call_async([partial(call, number) for number in range(6)], at_once=at_once, timeout=None)
    assert found == list(range(6))
    assert gauge.most == at_once


def test_an_async_call_that_is_late_or_raises_has_no_result_and_a_time_out_of_its_own_is_an_error() -> None:
    async def late() -> float:
        await asyncio.sleep(5)
        return 0.0

    async def own() -> float:
        raise TimeoutError("the service")

    async def fine() -> float:
        return 1.0

    found = call_async([late, own, fine], at_once=3, timeout=0.05)
    assert found == [Failure("no answer within 0.05 s"), Failure("TimeoutError: the service"), 1.0]


def test_async_calls_run_where_a_loop_is_running_already() -> None:
    async def one() -> int:
        return 1

    async def notebook() -> list[int | Failure]:
        return call_async([one], at_once=1, timeout=None)

    assert asyncio.run(notebook()) == [1]
