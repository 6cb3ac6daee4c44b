"""Where rows come from: files and folders, rankings in a database, data sets of the hub."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Protocol

from posttrain.data import feedback_db
from posttrain.data.hub import HubRows, is_hub_id
from posttrain.data.json_rows import Found, Placed
from posttrain.data.rows import Stamps, files_of, fingerprint, rows_of, size_of, stamps
from posttrain.errors import DataError, Problem

AUDIT = "audit"
"""The split of a ranking store that is never trained on."""


class Origin(Protocol):
    """A source of rows that can be read again and again."""

    @property
    def path(self) -> str: ...

    @property
    def identity(self) -> str:
        """What changes when the content does."""
        ...

    @property
    def size(self) -> int | None:
        """Bytes on disk; None for the hub."""
        ...

    def rows(self) -> Iterator[Found]: ...


class FileRows:
    """The rows of a file, or of the data files in a folder.

    Files that change between the first look at their content and the end of a reading are refused: the rows would be
    those of no content at all.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._path = Path(path)
        self._stamps: Stamps | None = None
        files_of(self._path)

    @property
    def identity(self) -> str:
        """The sha256 of the content, read when it is first asked for."""
        return self._identity

    @cached_property
    def _identity(self) -> str:
        self._stamps = stamps(self._path)
        return fingerprint(self._path)

    @property
    def size(self) -> int | None:
        return size_of(self._path)

    def rows(self) -> Iterator[Found]:
        before = self._stamps or stamps(self._path)
        yield from rows_of(self._path)
        self._refuse_changes(before)

    def refuse_changes(self) -> None:
        """Raises DataError when a file is not as it was when its content was first looked at."""
        if self._stamps is not None:
            self._refuse_changes(self._stamps)

    def _refuse_changes(self, before: Stamps) -> None:
        now = stamps(self._path)
        changed = next((name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)), None)
        if changed is not None:
            was, found = (f"{each[changed][0]:,} bytes" if changed in each else "absent" for each in (before, now))
            what = "the file changed while it was read" + (f": it was {was}, and is {found}" if was != found else "")
            raise DataError([Problem(place=changed, what=what, fix="start again when nothing writes to it")])


class RankingRows:
    """The rankings that people gave in a ranking store, as rows of prompt, responses and ranks.

    Those of the items to train on, or with `audit` those of the items that check people and models.
    """

    def __init__(self, path: str, *, audit: bool = False) -> None:
        self.path = path
        self.audit = audit
        self._path = Path(path)

    @property
    def identity(self) -> str:
        """The sha256 of all items and events, and which of the two sets of items is meant."""
        return f"{self._identity}-audit" if self.audit else self._identity

    @cached_property
    def _identity(self) -> str:
        return feedback_db.fingerprint(self._path)

    @property
    def size(self) -> int | None:
        return self._path.stat().st_size

    def rows(self) -> Iterator[Found]:
        for number, ranking in feedback_db.rankings(self._path, audit=self.audit):
            yield ranking if isinstance(ranking, Problem) else Placed(self.path, number, ranking)


def origin_of(path: str, *, subset: str | None = None, split: str | None = None) -> Origin:
    """The rows of a path, of a ranking store, or of `owner/name` on the hub.

    A store has the splits train, which is its own, and audit. Raises DataError for a path that does not exist and is no
    name of a data set, and for a subset of a file.
    """
    if is_hub_id(path):
        return HubRows(path, subset=subset, split=split)
    file = Path(path)
    if file.is_file() and feedback_db.is_database(file) and subset is None and split in (None, "train", AUDIT):
        return RankingRows(path, audit=split == AUDIT)
    if subset is not None or split is not None:
        name = "subset" if subset is not None else "split"
        what = f"a file has no {name}; only data sets of the hub, named owner/name, have one"
        if file.is_file() and feedback_db.is_database(file):
            what = f"a ranking store has no such {name}; it has the splits train and {AUDIT}"
        raise DataError([Problem(place=path, what=what, fix=f"take {name} out, or check the name")])
    return FileRows(path)
