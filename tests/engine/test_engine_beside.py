"""Work in a thread of its own: what it gives and what it raises arrive where its end is asked for."""

from __future__ import annotations

import threading

import pytest

from posttrain.engine.beside import Beside


def test_the_caller_goes_on_while_it_works_and_gets_what_it_gave() -> None:
    go = threading.Event()
    threads: list[threading.Thread] = []

    def work() -> int:
        threads.append(threading.current_thread())
        assert go.wait(30)
        return 7

    beside = Beside(work)
    assert not beside.over
    go.set()
    assert beside.end() == 7
    assert beside.over
    assert beside.end() == 7
    assert threads[0] is not threading.main_thread()
    assert threads[0].daemon


def test_what_it_raises_is_raised_at_the_end() -> None:
    def work() -> None:
        raise OSError(28, "No space left on device")

    beside = Beside(work)
    with pytest.raises(OSError, match="No space left"):
        beside.end()
    assert beside.over
