"""Files of the token inspector: Parquet, one row an answer, one list column for every quantity of its tokens.

`docs/architecture.md`, "Files of the token inspector", has the columns of each method. They are read with
`pq.ParquetFile(path).read()`: `pq.read_table` takes a folder named `lr=0.1` above a file for a column of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from posttrain.engine.sealed import flush
from posttrain.errors import DataError, Problem
from posttrain.records import JSON

Column: TypeAlias = Any
"""A `pa.Array`: pyarrow ships no types."""
Table: TypeAlias = Any
"""A `pa.Table`."""
FORMAT = 1
KEY = b"posttrain"
"""Where the heading stands in the metadata of a file's schema, as JSON."""
TOP = 5
"""Alternatives of a token."""
_TOGETHER = 256  # rows of a group: who wants one of ten thousand answers reads no more than so many


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """What a file says of all its rows. `step`: the round of PPO and online DPO, of others the updates before it.

    `method`: `ppo`, `dpo`, `online-dpo` or `reward`. `pieces`: the text of every token id that occurs in the file, a
    prompt's, an answer's or an alternative's. `settings`: the numbers that the arithmetic of its columns takes.
    """

    method: str
    step: int
    pieces: Mapping[int, str]
    settings: Mapping[str, JSON]


def file_name(step: int) -> str:
    """`step-000010.parquet`."""
    return f"step-{step:06d}.parquet"


# --- reading --------------------------------------------------------------------------------------------------------


def heading_of(path: Path) -> Heading | None:
    """The heading of a file; None for one of a version that wrote none. Raises DataError for a damaged one."""
    try:
        written = (pq.read_schema(path).metadata or {}).get(KEY)
        if written is None:
            return None
        facts = cast("dict[str, Any]", json.loads(written))
        if facts["format"] != FORMAT:
            raise ValueError(f"its format is {str(facts['format'])[:40]}, known is {FORMAT}")
        return Heading(
            method=facts["method"],
            step=facts["step"],
            pieces={int(token): text for token, text in facts["pieces"].items()},
            settings=facts["settings"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, pa.ArrowException) as error:
        raise DataError([Problem(place=str(path), what=f"damaged: {error}", fix="remove it")]) from error


# --- writing --------------------------------------------------------------------------------------------------------


def lists(values: NDArray[Any], lengths: Sequence[int | None]) -> Column:
    """A list for each answer, of `values` laid end to end; None among the `lengths` is an answer without one.

    `values`: [M], or [M, K] for lists of lists.
    """
    if values.ndim == 2:
        count, width = values.shape
        inner = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32) * width, values.reshape(-1))
    else:
        inner = pa.array(values)
    ends = np.cumsum([0, *(length or 0 for length in lengths)]).tolist()
    starts = [None if length is None else ends[place] for place, length in enumerate(lengths)]
    return pa.ListArray.from_arrays(pa.array([*starts, ends[-1]], pa.int32()), inner)


def table_of(heading: Heading, columns: Mapping[str, Column]) -> Table:
    """The columns under their heading."""
    facts = {
        "format": FORMAT,
        "method": heading.method,
        "step": heading.step,
        "pieces": {str(token): heading.pieces[token] for token in sorted(heading.pieces)},
        "settings": heading.settings,
    }
    return pa.table(dict(columns)).replace_schema_metadata({KEY: json.dumps(facts).encode()})


def write(path: Path, table: Table) -> None:
    """Writes a file so that a reader, or a run that goes on after a kill, finds it whole or as it was before.

    Raises OSError, and leaves no part of it.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(exist_ok=True)
        _put(part, table)
        flush(part)
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def add(path: Path, columns: Mapping[str, Column]) -> None:
    """Adds columns to a file, in place of those of that name. Twice the same gives the same bytes as once.

    Raises OSError, also where the file is damaged, and leaves it as it was.
    """
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except pa.ArrowException as error:
        raise OSError(f"{path} is damaged: {error}") from error
    table = table.drop_columns([name for name in columns if name in table.column_names])
    for name, column in columns.items():
        table = table.append_column(name, column)
    write(path, table)


def _put(path: Path, table: Table) -> None:
    pq.write_table(table, path, row_group_size=_TOGETHER)
