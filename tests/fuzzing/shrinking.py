"""An input that breaks something, made smaller for as long as it breaks the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from .mutators import Files

_TRIES = 300


def shrunk(files: Files, breaks: Callable[[Files], bool]) -> Files:
    """The files without those, and without the pieces, that the break does not need; `breaks` is asked 300 times."""
    small, tries = dict(files), 0
    again = True
    while again:
        again = False
        for fewer in _smaller(small):
            tries += 1
            if tries > _TRIES:
                return small
            if breaks(fewer):
                small, again = dict(fewer), True
                break
    return small


def _smaller(files: Mapping[str, bytes]) -> Iterator[Files]:
    """The files without one of them, then without a piece of one, the largest pieces first."""
    for name in sorted(files, key=lambda name: -len(files[name])):
        if len(files) > 1:
            yield {other: data for other, data in files.items() if other != name}
    for name, data in sorted(files.items(), key=lambda pair: -len(pair[1])):
        size = len(data) // 2
        while size:
            for start in range(0, len(data), size):
                yield {**files, name: data[:start] + data[start + size :]}
            size = size // 2 if size > 16 else 0
