"""Work in a thread of its own: what it gives and what it raises arrive where its end is asked for."""

from __future__ import annotations

import os
import signal
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


def ended_while_interrupted(beside: Beside[int]) -> int:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin without it
    interrupt = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    try:
        return beside.end()
    finally:
        interrupt.join()
        signal.signal(signal.SIGINT, before)


def test_an_interrupted_wait_is_no_end_of_the_work() -> None:
    go = threading.Event()

    def work() -> int:
        assert go.wait(30)
        return 7

    beside = Beside(work)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ended_while_interrupted(beside)
        assert not beside.over
    go.set()
    assert beside.end() == 7
