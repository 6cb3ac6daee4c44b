"""Files to records: read the rows, recognise their layout, check each of them, and say what was lost."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import orjson

from posttrain.counted import counted
from posttrain.data.json_rows import Found, Placed
from posttrain.data.messages import BadRow, Messages
from posttrain.data.origins import FileRows, Origin, RankingRows, origin_of
from posttrain.data.recognise import SNIFFED, misfit, recognise, unknown_columns, unread_label
from posttrain.errors import DataError, Problem
from posttrain.records import (
    JSON,
    ChatRecord,
    Kind,
    LabelledRecord,
    PromptRecord,
    RankedRecord,
    Record,
    TargetRecord,
    TextRecord,
)

# What is wrong with more rows than anyone reads need not be kept; they are still counted.
_KEPT_PROBLEMS = 10_000


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a pass over the rows found, complete when the pass is over.

    `rows` = rows that became records + `duplicates` + `bad`. A row may become several records. `problems` holds the
    first 10,000 of the bad rows.
    """

    rows: int = 0
    records: int = 0
    duplicates: int = 0
    bad: int = 0
    problems: list[Problem] = field(default_factory=list[Problem])


class Reading(Iterable[Record]):
    """The records of a source, one at a time; each pass reads it from the beginning.

    Of rows with the same content the first is kept, which costs some hundred bytes a row; nothing else grows with the
    source. A pass ends with DataError when more than `max_bad` of the rows are bad, none is good, or nothing is ranked
    where rankings are asked for. `tally` is that of the latest pass. `format` names the layout and the kind.
    """

    def __init__(
        self, origin: Origin, kinds: Sequence[Kind], *, max_bad: float, columns: Mapping[str, str] | None
    ) -> None:
        self.tally = Tally()
        self.path = origin.path
        self._origin = origin
        self._max_bad = max_bad
        self._columns = columns or {}
        sample = self._sample()
        self._layout = recognise(self.path, sample, kinds, self._columns)
        self.unread_label = unread_label([placed.row for placed in sample], self._layout)
        """A column that says which answers are bad, where all of them are read as answers to imitate."""
        names = [placed.row.get("id") for placed in sample]
        self._own_ids = all(isinstance(name, str) and name for name in names) and len(set(map(str, names))) == len(
            names
        )

    @property
    def format(self) -> str:
        return str(self._layout)

    @property
    def kind(self) -> Kind:
        return self._layout.kind

    @property
    def identity(self) -> str:
        """What changes with the content: the sha256 of a file, folder or ranking store; a data set's name and commit.

        The file is read for it when it is first asked for.
        """
        return self._origin.identity

    @property
    def audit(self) -> bool:
        """Whether these are the rankings of a store that serve to check people and models."""
        return isinstance(self._origin, RankingRows) and self._origin.audit

    @property
    def size(self) -> int | None:
        """Bytes on disk; None for a data set of the hub."""
        return self._origin.size

    def refuse_changes(self) -> None:
        """Raises DataError when a file is not as it was when its content was first looked at."""
        if isinstance(self._origin, FileRows):
            self._origin.refuse_changes()

    def __iter__(self) -> Iterator[Record]:
        tally = self.tally = Tally()
        seen: set[int] = set()
        convert = self._layout.convert
        name_of = self._name if self._own_ids else _place_name
        ids: set[int] = set()
        ranked = self.kind != "ranked"
        for found in self._rows():
            tally.rows += 1
            if isinstance(found, Problem):
                _count_bad(tally, found)
                continue
            try:
                made = convert(found.row, name_of(found, ids))
            except BadRow as bad:
                reason = misfit(found.row, self._layout) or bad
                _count_bad(tally, Problem(place=found.place, what=reason.what, fix=reason.fix))
                continue
            fresh = False
            for record in made:
                content = _content(record)
                if content not in seen:
                    seen.add(content)
                    fresh = True
                    tally.records += 1
                    ranked = ranked or _is_ranked(record)
                    yield record
            tally.duplicates += not fresh
        _refuse_bad(self.path, tally, self._max_bad)
        if not ranked:
            raise DataError([_unranked(self.path, tally.records)])

    def _rows(self) -> Iterator[Found]:
        if not self._columns:
            return self._origin.rows()
        return (found if isinstance(found, Problem) else self._renamed(found) for found in self._origin.rows())

    def _renamed(self, placed: Placed) -> Placed:
        """A row with its columns under our names; one of our name that another takes the place of is left out."""
        columns, row = self._columns, placed.row
        mapped = {ours: row[theirs] for ours, theirs in columns.items() if theirs in row}
        taken = set(columns.values())
        rest = {name: value for name, value in row.items() if name not in taken and name not in mapped}
        return placed._replace(row={**mapped, **rest})

    def _sample(self) -> list[Placed]:
        """The first rows that can be read. Raises DataError when there are none, and for columns that none has."""
        rows = self._origin.rows()
        first = list(islice(rows, SNIFFED))
        sample = [found for found in first if isinstance(found, Placed)]
        if not sample:
            raise DataError(folded([found for found in first if isinstance(found, Problem)]))
        unknown = unknown_columns(self.path, self._columns, list({name for placed in sample for name in placed.row}))
        if unknown:
            raise DataError(unknown)
        return [self._renamed(placed) for placed in sample] if self._columns else sample

    def _name(self, placed: Placed, ids: set[int]) -> str:
        """The row's own id, unless it has none or an earlier row had the same."""
        own = placed.row.get("id")
        if not isinstance(own, str) or not own or hash(own) in ids:
            return _place_name(placed, ids)
        ids.add(hash(own))
        return own


def open_data(
    path: str | Path,
    kinds: Kind | Sequence[Kind],
    *,
    max_bad: float = 0.05,
    columns: Mapping[str, str] | None = None,
    subset: str | None = None,
    split: str | None = None,
) -> Reading:
    """A file, folder, ranking store or data set of the hub, recognised from its first 200 rows and ready to be read.

    `kinds` are tried in order. `columns` maps our names to the file's. `max_bad` is the share of rows, in [0, 1], that
    may be bad; they are left out and listed. `subset` and `split` are those of a data set of the hub. Raises DataError
    for what no row survives: a missing or empty file, columns of another kind of data, or of more than one layout.
    """
    origin = origin_of(str(Path(path).expanduser()), subset=subset, split=split)
    return Reading(origin, (kinds,) if isinstance(kinds, str) else kinds, max_bad=max_bad, columns=columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """What a file holds: `rows` = rows of `records` + `duplicates` + bad rows, each of which is in `problems`."""

    path: Path
    format: str
    records: tuple[Record, ...]
    problems: tuple[Problem, ...]
    duplicates: int
    rows: int


def read(
    path: str | Path,
    kind: Kind | Sequence[Kind],
    *,
    max_bad: float = 0.05,
    columns: Mapping[str, str] | None = None,
) -> Dataset:
    """All records of a source at once, as `open_data` reads them. Raises DataError with all problems."""
    reading = open_data(path, kind, max_bad=max_bad, columns=columns)
    records = tuple(reading)
    return Dataset(
        path=Path(reading.path),
        format=reading.format,
        records=records,
        problems=tuple(reading.tally.problems),
        duplicates=reading.tally.duplicates,
        rows=reading.tally.rows,
    )


# --- inside -----------------------------------------------------------------------------------------------------


def _place_name(placed: Placed, _ids: set[int]) -> str:
    return f"{placed.file[placed.file.rfind('/') + 1 :]}:{placed.line}"


def _content(record: Record) -> int:
    """A 64-bit hash of all but the id: equal for equal records, and among ten million others by chance in 1 of 10^5."""
    match record:
        case ChatRecord():
            return _hash_of(record.messages)
        case TextRecord():
            return hash(record.text)
        case PromptRecord():
            asked = record.text if record.messages is None else _hash_of(record.messages)
            return hash((asked, _canonical(record.columns)))
        case TargetRecord():
            asked = record.asked.text if record.asked.messages is None else _hash_of(record.asked.messages)
            return hash((asked, record.label))
        case RankedRecord():
            prompt = _hash_of(record.prompt)
            return hash((prompt, record.responses, record.ranks, record.weight, record.margin, record.annotator))
        case LabelledRecord():
            prompt = _hash_of(record.prompt)
            return hash((prompt, record.responses, record.labels, record.weight, record.annotator))


def _hash_of(messages: Messages) -> int:
    parts: list[str | bool | None] = []
    for message in messages:
        parts += (message.role, message.content, message.train)
    return hash(tuple(parts))


def _canonical(columns: Mapping[str, JSON]) -> bytes:
    try:
        return orjson.dumps(columns, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # a number beyond 64 bits
        return json.dumps(columns, sort_keys=True).encode()


def _is_ranked(record: Record) -> bool:
    return isinstance(record, RankedRecord) and len(set(record.ranks) - {None}) > 1


def _count_bad(tally: Tally, problem: Problem) -> None:
    tally.bad += 1
    if len(tally.problems) < _KEPT_PROBLEMS:
        tally.problems.append(problem)


def _unranked(path: str, records: int) -> Problem:
    what = f"no two answers are ranked differently in any of {counted(records, 'prompt')}"
    return Problem(place=path, what=what, fix="a ranking needs at least one answer above another")


def _refuse_bad(path: str, tally: Tally, max_bad: float) -> None:
    if not tally.bad or (tally.bad <= max_bad * tally.rows and tally.bad < tally.rows):
        return
    kinds = folded(tally.problems)
    if len(kinds) == 1:
        raise DataError(kinds)
    share = f"{tally.bad / tally.rows:.0%}, at most {max_bad:.0%} may be"
    what = f"{tally.bad:,} of {counted(tally.rows, 'row')} cannot be used ({share})"
    raise DataError([Problem(place=path, what=what), *kinds])


def folded(problems: Sequence[Problem]) -> list[Problem]:
    """One problem for each kind, at its first place, with how many more rows have it, most frequent first."""
    counts = Counter(map(_kind_of_problem, problems))
    first: dict[str, Problem] = {}
    for problem in problems:
        first.setdefault(_kind_of_problem(problem), problem)
    return [_with_more(first[key], count - 1) for key, count in counts.most_common()]


def _kind_of_problem(problem: Problem) -> str:
    """What a problem says but for its numbers: `messages[3].content is empty` is the same as `messages[5]…`."""
    return re.sub(r"0x[0-9a-f]+|\d+", "0", f"{problem.what}\n{problem.fix}")


def _with_more(problem: Problem, more: int) -> Problem:
    if not more:
        return problem
    rows = "row has" if more == 1 else "rows have"
    return Problem(place=problem.place, what=f"{problem.what}   ({more:,} more {rows} this)", fix=problem.fix)
