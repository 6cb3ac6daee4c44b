"""Data sets of the hub, through `datasets`: downloaded once into its cache, read from there some rows at a time."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from posttrain.data.json_rows import Found, Placed
from posttrain.data.tables import plain_rows
from posttrain.errors import DataError, Problem
from posttrain.hub import hub_or_cache, reads_like_an_id

if TYPE_CHECKING:
    from datasets import DatasetBuilder

_DATA_FILE = re.compile(r".*\.(jsonl|ndjson|json|csv|tsv|parquet|txt|db|gz|ya?ml|py|md)", re.IGNORECASE)
_BATCH = 512


def is_hub_id(path: str) -> bool:
    """Whether `path` reads like `owner/name`, is not there, and is not a slip in a path that is."""
    return _DATA_FILE.fullmatch(path) is None and reads_like_an_id(path)


class HubRows:
    """The rows of one split of one subset. Code that comes with a data set is never run.

    Raises DataError when `datasets` is not installed, the hub cannot be reached or has no such data set, and when the
    subset or the split has to be named.
    """

    size: int | None = None

    def __init__(self, path: str, *, subset: str | None, split: str | None) -> None:
        self.path = path
        self._builder = _builder(path, subset)
        self._split = _chosen_split(path, self._builder, split)

    @property
    def identity(self) -> str:
        """`owner/name@commit/subset:split`."""
        return f"{self.path}@{self._builder.hash}/{self._builder.config.name}:{self._split}"

    def rows(self) -> Iterator[Found]:
        number = 0
        for batch in self._dataset.with_format("arrow").iter(batch_size=_BATCH):
            for row in plain_rows(batch):
                number += 1
                yield Placed(f"{self.path}:{self._split}", number, row)

    @cached_property
    def _dataset(self) -> Any:  # `datasets` ships no complete types
        try:
            with hub_or_cache():
                self._builder.download_and_prepare()
            return self._builder.as_dataset(split=self._split)
        except Exception as reason:  # the library lets through whatever its parsers and its network raise
            raise DataError([_failed(self.path, reason.__cause__ or reason)]) from reason


def _builder(path: str, subset: str | None) -> DatasetBuilder:
    try:
        import datasets  # noqa: PLC0415 - an optional extra, and slow to import: only for data sets of the hub
    except ImportError as missing:
        what = "there is no such file or folder, and data sets of the hub need the library `datasets`"
        fix = "pip install 'posttrain[hub]', or give a path"
        raise DataError([Problem(place=path, what=what, fix=fix)]) from missing
    try:
        with hub_or_cache():
            return datasets.load_dataset_builder(path, subset)
    except Exception as reason:  # as in `_dataset`
        raise DataError([_subset_problem(path, subset, str(reason)) or _failed(path, reason)]) from reason


def _subset_problem(path: str, subset: str | None, said: str) -> Problem | None:
    """What `datasets` says of subsets, with their names and the setting that chooses one."""
    listed = re.search(r"\[(.*?)\]", said, re.DOTALL)
    names = re.findall(r"'([^']+)'", listed.group(1)) if listed else []
    if not names or not ("Config name is missing" in said or "BuilderConfig" in said):
        return None
    if subset is None:
        what = f"the data set has {len(names)} subsets: {_listed(names)}"
        return Problem(place=path, what=what, fix=f"choose one: {_setting(path, 'subset', names[0])}")
    return _no_such(path, "subset", subset, names)


def _chosen_split(path: str, builder: DatasetBuilder, split: str | None) -> str:
    """The split that is asked for, which may be cut as `train[:1000]`; `train`, or the only one, when none is."""
    names = [str(name) for name in (builder.info.splits or builder.config.data_files or ())]
    asked = (split or "train").split("[", 1)[0]
    if asked in names or not names:
        return split or "train"
    if split is None and len(names) == 1:
        return names[0]
    if split is None:
        what = f"the data set has no split named train, but {_listed(names)}"
        raise DataError([Problem(place=path, what=what, fix=f"choose one: {_setting(path, 'split', names[0])}")])
    raise DataError([_no_such(path, "split", asked, names)])


def _no_such(path: str, word: str, given: str, names: list[str]) -> Problem:
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5) or names[:1]
    what = f"the data set has no {word} {given!r}; there are {_listed(names)}"
    return Problem(place=path, what=what, fix=f"choose one: {_setting(path, word, near[0])}")


def _setting(path: str, word: str, value: str) -> str:
    return f"give '{{path: {path}, {word}: {value}}}' in its place"


def _failed(path: str, reason: BaseException) -> Problem:
    """A failure of `datasets` in plain words."""
    said = str(reason).strip().split("\n")[0][:200]
    if "gated" in said:
        what, fix = "the data set asks for consent", f"agree on huggingface.co/datasets/{path}, then: hf auth login"
    elif "scripts are no longer supported" in said:
        what = "the data set comes as a program, which is not run"
        fix = "look for the same data as Parquet, or save its rows as .jsonl"
    elif "doesn't exist" in said or "RepositoryNotFound" in type(reason).__name__:
        what = "there is no such file or folder, and the hub has no public data set of this name"
        fix = "check the spelling; for a private one: hf auth login"
    elif (
        isinstance(reason, ConnectionError) or "Connect" in type(reason).__name__ or "Offline" in type(reason).__name__
    ):
        what = "there is no such file or folder, and the hub cannot be reached to look for a data set of this name"
        fix = "check the path or the network; without a network give a file"
    else:
        what, fix = f"the data set cannot be loaded: {said}", "try it with datasets.load_dataset, or give a file"
    return Problem(place=path, what=what, fix=fix)


def _listed(names: list[str], limit: int = 12) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
