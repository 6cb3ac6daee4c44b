"""Files to records: read the rows, recognise their layout, check each of them, and say what was lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from posttrain.data.formats import Format, recognise
from posttrain.data.messages import BadRow
from posttrain.data.rows import Placed, read_rows
from posttrain.errors import DataError, Problem
from posttrain.types import ChatRecord, Kind, PromptRecord, RankedRecord, Record, TextRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """What a file holds: `rows` = rows of `records` + `duplicates` + bad rows, each of which is in `problems`.

    `format` names the layout and the kind. Of rows with the same content the first is kept. A row may become several
    records (self-instruct), so there can be more records than rows.
    """

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
    """The records of a file or folder, for the first of the kinds that its layout fits.

    `columns` maps our names to the file's, for columns that would not be recognised. `max_bad` is the share of rows,
    in [0, 1], that may be bad; they are left out and listed. Raises DataError with all problems when more are, or none
    is good, and for what no row survives: a missing or empty file, broken JSON, bytes that are not UTF-8, columns of
    another kind of data, and rankings that rank nothing.
    """
    path = Path(path).expanduser()
    kinds: Sequence[Kind] = (kind,) if isinstance(kind, str) else kind
    rows = _renamed(path, read_rows(path), columns or {})
    layout = recognise(path, rows, kinds)
    names = _names(rows)
    records: list[Record] = []
    problems: list[Problem] = []
    seen: set[Hashable] = set()
    duplicates = 0
    for placed, name in zip(rows, names, strict=True):
        try:
            made = layout.convert(placed.row, name)
        except BadRow as bad:
            problems.append(Problem(place=placed.place, what=bad.what, fix=bad.fix))
            continue
        fresh = [record for record in made if (content := _content(record)) not in seen and not seen.add(content)]
        duplicates += not fresh
        records.extend(fresh)
    _refuse_bad(path, problems, rows=len(rows), max_bad=max_bad)
    _refuse_unranked(path, layout, records)
    return Dataset(
        path=path,
        format=str(layout),
        records=tuple(records),
        problems=tuple(problems),
        duplicates=duplicates,
        rows=len(rows),
    )


def _renamed(path: Path, rows: Sequence[Placed], columns: Mapping[str, str]) -> Sequence[Placed]:
    """The rows with the file's columns under our names. Raises DataError for a column that no row has."""
    if not columns:
        return rows
    known = {name for placed in rows for name in placed.row}
    missing = [theirs for theirs in columns.values() if theirs not in known]
    if missing:
        have = ", ".join(sorted(known))
        raise DataError(
            [
                Problem(place=str(path), what=f"columns names {name!r}, which no row has", fix=f"there are {have}")
                for name in missing
            ]
        )
    ours = {theirs: name for name, theirs in columns.items()}
    return [placed._replace(row={ours.get(name, name): value for name, value in placed.row.items()}) for placed in rows]


def _names(rows: Sequence[Placed]) -> list[str]:
    """The rows' own ids where all of them are text and no two are the same, else `file:line`."""
    own = [placed.row.get("id") for placed in rows]
    if all(isinstance(name, str) and name for name in own) and len(set(map(str, own))) == len(own):
        return [str(name) for name in own]
    return [f"{placed.file.name}:{placed.line}" for placed in rows]


def _content(record: Record) -> Hashable:
    """What makes two records the same: all but the id."""
    match record:
        case ChatRecord():
            return record.messages
        case TextRecord():
            return record.text
        case PromptRecord():
            return record.messages, record.text, repr(sorted(record.columns.items()))
        case RankedRecord():
            return record.prompt, record.responses, record.ranks, record.weight, record.margin, record.annotator


def _refuse_bad(path: Path, problems: Sequence[Problem], *, rows: int, max_bad: float) -> None:
    if not problems or (len(problems) <= max_bad * rows and len(problems) < rows):
        return
    folded = _folded(problems)
    if len(folded) == 1:
        raise DataError(folded)
    what = f"{len(problems)} of {rows} rows cannot be used ({len(problems) / rows:.0%}, at most {max_bad:.0%} may be)"
    raise DataError([Problem(place=str(path), what=what), *folded])


def _folded(problems: Sequence[Problem]) -> list[Problem]:
    """One problem for each kind, at its first place, with how many more rows have it."""
    counts = Counter((problem.what, problem.fix) for problem in problems)
    first: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        first.setdefault((problem.what, problem.fix), problem)
    return [_with_more(problem, counts[key] - 1) for key, problem in first.items()]


def _with_more(problem: Problem, more: int) -> Problem:
    if not more:
        return problem
    rows = "row has" if more == 1 else "rows have"
    return Problem(place=problem.place, what=f"{problem.what}   ({more} more {rows} this)", fix=problem.fix)


def _refuse_unranked(path: Path, layout: Format, records: Sequence[Record]) -> None:
    """Raises DataError when no two answers of any prompt are ranked differently."""
    rankings = [record for record in records if isinstance(record, RankedRecord)]
    if layout.kind != "ranked" or any(len(set(record.ranks) - {None}) > 1 for record in rankings):
        return
    what = f"no two answers are ranked differently in any of {len(rankings)} prompts"
    raise DataError([Problem(place=str(path), what=what, fix="a ranking needs at least one answer above another")])
