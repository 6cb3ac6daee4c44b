"""The rankings of a store as files that train: the very rows, and how many pairs and ties they make.

Prompts that are held out go into a file of their own, and so do items that check people, which are never trained on.
Beside a ranking stand the notes and flags of who gave it; pairs have no room for them.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from posttrain.counted import counted
from posttrain.data import feedback_db
from posttrain.data.comparisons import with_ranks
from posttrain.data.json_rows import Row
from posttrain.data.messages import BadRow
from posttrain.data.split import held_out, prompt_key
from posttrain.errors import DataError, Problem
from posttrain.ops.ranking import pairs_from_ranks
from posttrain.records import JSON, RankedRecord

HELD_OUT, AUDIT = "held_out", "audit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What went into one file. `pairs` are strict; a ranking of K answers makes up to K (K - 1) / 2 of them."""

    out: Path
    rows: int
    prompts: int
    rankings: int
    pairs: int
    ties: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The files of an export. `held_out` and `audit` are None where nothing went there. `bad` are rows left out."""

    train: Part
    held_out: Part | None
    audit: Part | None
    bad: tuple[Problem, ...]

    def facts(self) -> dict[str, object]:
        """The same as plain values, for JSON."""
        parts = {"train": self.train, HELD_OUT: self.held_out, AUDIT: self.audit}
        told = {name: _facts(part) for name, part in parts.items() if part is not None}
        return {**told, "bad": len(self.bad)}

    def lines(self) -> Iterator[str]:
        """What a person is told: `37 prompts → 181 pairs, 23 ties, split 163/18 by prompt`."""
        trained = [part for part in (self.train, self.held_out) if part is not None]
        prompts, pairs, ties = (sum(getattr(part, name) for part in trained) for name in ("prompts", "pairs", "ties"))
        split = f", split {self.train.pairs:,}/{trained[-1].pairs:,} by prompt" if len(trained) > 1 else ""
        yield f"{counted(prompts, 'prompt')} → {counted(pairs, 'pair')}, {counted(ties, 'tie')}{split}"
        yield from (f"  {part.out}  {counted(part.rows, 'row')}" for part in trained)
        if self.audit is not None:
            said = f"{counted(self.audit.rows, 'row')} of the audit set, {counted(self.audit.pairs, 'pair')}"
            yield f"  {self.audit.out}  {said}: they check people and models, and are not for training"
        for problem in self.bad[:5]:
            yield f"left out: {problem}"
        if len(self.bad) > 5:
            yield f"and {len(self.bad) - 5:,} more"


def export(store: Path, out: Path, *, pairs: bool, share: float, seed: int = 0) -> Exported:
    """Writes the rankings that count to `out`, as ranked rows or as pairs, and returns what went where.

    A `share` of the prompts goes to `out` with `.held_out` in its name, the same prompts as a run with this seed would
    hold out. Raises DataError for a store without rankings.
    """
    bad: list[Problem] = []
    found = list(_rankings(store, bad, audit=False))
    if not found:
        raise DataError(bad or [Problem(place=str(store), what="nothing in it can be exported")])
    keys = np.array([prompt_key(record) for _, record in found], np.uint64)
    held = held_out(keys, share, seed)
    audit = list(_rankings(store, bad, audit=True))
    remarks = _remarks(store)
    for row, _ in (*found, *audit):
        row |= remarks.get(str(row["id"]), {})

    def part(chosen: Sequence[tuple[Row, RankedRecord]], name: str) -> Part | None:
        path = out.with_name(f"{out.stem}.{name}{out.suffix}") if name else out
        return _write(path, chosen, bad, pairs=pairs) if chosen or not name else None

    train = part([one for one, apart in zip(found, held, strict=True) if not apart], "")
    assert train is not None
    return Exported(
        train=train,
        held_out=part([one for one, apart in zip(found, held, strict=True) if apart], HELD_OUT),
        audit=part(audit, AUDIT),
        bad=tuple(bad),
    )


def _remarks(store: Path) -> dict[str, Row]:
    """What people remarked beside a ranking, by the id of its row: `notes`, and `flags` of all answers or of one."""
    found: dict[str, Row] = defaultdict(dict)
    for each in feedback_db.remarks(store):
        row = found[f"{each.item}/{each.annotator}"]
        if each.note:
            cast("list[JSON]", row.setdefault("notes", [])).append(each.note)
        if each.flags:
            cast("list[JSON]", row.setdefault("flags", [])).append({"answer": each.answer, "flags": [*each.flags]})
    return found


def has_pair(store: Path, *, share: float, seed: int = 0) -> bool:
    """Whether `export` with this share and seed leaves a strict pair to train on. A store may be without rankings."""
    for _, record in _rankings(store, [], audit=False, empty=True):
        held = held_out(np.array([prompt_key(record)], np.uint64), share, seed)
        if pairs_from_ranks(record.ranks).strict and not held[0]:
            return True
    return False


def _rankings(
    store: Path, bad: list[Problem], *, audit: bool, empty: bool = False
) -> Iterator[tuple[Row, RankedRecord]]:
    """The rows of rankings with what they are read as; what cannot be read goes into `bad`."""
    for number, row in feedback_db.rankings(store, audit=audit, empty=audit or empty):
        if isinstance(row, Problem):
            bad.append(row)
            continue
        try:
            [record] = with_ranks(row, str(row["id"]))
        except BadRow as reason:
            bad.append(Problem(place=f"{store}:{number}", what=reason.what, fix=reason.fix))
        else:
            yield row, record


def _write(path: Path, found: Sequence[tuple[Row, RankedRecord]], bad: list[Problem], *, pairs: bool) -> Part:
    """Writes the rows beside the file and then in its place; what no pair can say goes into `bad`."""
    rows = [each for row, record in found for each in (_pairs(row, record, bad) if pairs else [row])]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    os.replace(partial, path)
    made = [pairs_from_ranks(record.ranks) for _, record in found]
    return Part(
        out=path,
        rows=len(rows),
        prompts=len({prompt_key(record) for _, record in found}),
        rankings=len(found),
        pairs=sum(len(each.strict) for each in made),
        ties=sum(len(each.ties) for each in made),
    )


def _pairs(row: Row, record: RankedRecord, bad: list[Problem]) -> Iterator[Row]:
    """A row for each strict pair, the better answer as `chosen`; pairs cannot say that two are as good."""
    for better, worse in pairs_from_ranks(record.ranks).strict:
        if not (record.responses[better] and record.responses[worse]):
            fix = "export rankings instead of pairs to keep it"
            bad.append(Problem(place=record.id, what="an answer is empty, which no file of pairs may hold", fix=fix))
            continue
        pair: Row = {
            "id": f"{row['id']}/{better}-{worse}",
            "prompt": row["prompt"],
            "chosen": record.responses[better],
            "rejected": record.responses[worse],
        }
        if record.stopped is not None:
            pair["stopped"] = [record.stopped[better], record.stopped[worse]]
        if record.annotator is not None:
            pair["annotator"] = record.annotator
        yield pair


def files_of(out: Path) -> list[Path]:
    """Every file that an export to `out` may write."""
    return [out, *(out.with_name(f"{out.stem}.{name}{out.suffix}") for name in (HELD_OUT, AUDIT))]


def _facts(part: Part) -> dict[str, object]:
    names = ("rows", "prompts", "rankings", "pairs", "ties")
    return {"out": str(part.out), **{name: getattr(part, name) for name in names}}
