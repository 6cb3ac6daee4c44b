"""Batches made in the background, so that the device need not wait for them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(items: Iterable[Item], change: Callable[[Item], Made]) -> Generator[Made]:
    """`change(item)` of all items, in order; while one is in use the next is made by a thread of its own.

    What items or `change` raise is raised where that one would have come. The thread ends with the iterator, also with
    one that is closed or forgotten before its end.
    """
    inner = iter(items)

    def make() -> tuple[Made] | None:
        for item in inner:
            return (change(item),)
        return None

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as thread:
        coming: Future[tuple[Made] | None] = thread.submit(make)
        while (made := coming.result()) is not None:
            coming = thread.submit(make)
            yield made[0]
