"""`posttrain rank stats`, `export`, `import` and `link`: what is done with a ranking store besides serving it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from posttrain.config.automatic import share
from posttrain.config.shared import SHARE
from posttrain.console import Console
from posttrain.counted import counted
from posttrain.data import feedback_db
from posttrain.data.readers import open_data
from posttrain.errors import ConfigError, Problem, RunExists
from posttrain.feedback.asked import name_of
from posttrain.feedback.assigning import Rules
from posttrain.feedback.exporting import Exported, export, files_of
from posttrain.feedback.importing import Imported, import_rankings
from posttrain.feedback.kept import kept_settings
from posttrain.feedback.people import new_link
from posttrain.feedback.statistics import Overview
from posttrain.pages.refused import Refused

_SHOWN = 10


def rank_stats(db: str, *, console: Console) -> Mapping[str, object]:
    """The state of a ranking; says it in tables."""
    store = Path(db)
    with closing(feedback_db.reader(store)) as connection:
        kept = kept_settings(connection) if feedback_db.version_of(store) > 1 else {}
    rules = Rules(seed=cast("int", kept.get("seed", 0)), overlap=cast("float", kept.get("overlap", 0.0)))
    with closing(Overview(store, rules)) as overview:
        found: dict[str, Any] = {**overview.statistics(), "remarks": _remarks(store)}
    progress = found["progress"]
    second = progress["second"]
    console.say(
        f"{progress['done']:,} of {counted(progress['of'], 'item')} ranked, {counted(progress['rankings'], 'ranking')};"
        f" second rankings {second['done']:,} of {second['of']:,}; {progress['audit']:,} audit items"
    )
    if found["pace_per_hour"] is not None:
        console.say(f"{found['pace_per_hour']:.0f} rankings an hour of work, {found['last_hour']:,} in the last hour")
    tables = {
        "agreement and bias": _measures(found),
        "annotators": [_person(row) for row in found["annotators"]],
        "disputed": _disputed(found["disputed"]),
        "settled": [{"item": row["item"], "by": row["annotator"]} for row in found["adjudications"]],
        "newest notes and flags": found["remarks"][-_SHOWN:],
    }
    for title, rows in tables.items():
        if rows:
            console.table(rows, title)
    return found


def rank_export(db: str, *, out: str, pairs: bool, held_out: str, fresh: bool, console: Console) -> Exported:
    """The rankings of a store as files; says the rows, pairs and ties. Raises RunExists for files that are there."""
    if not re.match(SHARE, held_out):
        raise ConfigError([Problem(place="--held-out", what=f"expected a share such as 10%, got {held_out!r}")])
    path = Path(out)
    there = next((file for file in files_of(path) if file.exists()), None)
    if there is not None and not fresh:
        raise RunExists(f"{there} exists\n  fix: give another --out, or --fresh to write over it")
    found = export(Path(db), path, pairs=pairs, share=share(held_out))
    for file in files_of(path):  # what an earlier export wrote, and this one did not
        if file not in {part.out for part in (found.train, found.held_out, found.audit) if part is not None}:
            file.unlink(missing_ok=True)
    for line in found.lines():
        console.say(line)
    return found


def rank_import(data: str, *, db: str, annotator: str, console: Console) -> Imported:
    """Rankings of a file into a store, which is made where there is none; says what was new."""
    reading = open_data(data, "ranked")
    records, who = list(reading), _name(annotator, "--annotator")
    store = Path(db)
    connection = feedback_db.connect(store) if store.exists() else feedback_db.create(store)
    with closing(connection):
        kept = kept_settings(connection)
        seed, audit = cast("int", kept.get("seed", 0)), cast("float", kept.get("audit", 0.0))
        found = import_rankings(connection, records, annotator=who, seed=seed, audit=audit)
    tally = reading.tally
    lost = f"; {tally.bad:,} bad (left out)" if tally.bad else ""
    console.say(f"{data}: {counted(tally.rows, 'row')}, {reading.format}{lost}")
    for problem in tally.problems[:5]:
        console.say(str(problem))
    for line in found.lines():
        console.say(line)
    return found


def rank_link(db: str, name: str, *, at: str, console: Console) -> Mapping[str, object]:
    """A personal link for a name; the store keeps a hash of it alone, so that it cannot be shown again."""
    who = _name(name, "NAME")
    with closing(feedback_db.connect(Path(db))) as connection, connection:
        link = f"{at.rstrip('/')}/a/{new_link(connection, who)}"
    console.say(f"{who} ranks at {link}")
    console.say("an earlier link of this name has ended; this one is shown once, and lets in whoever has it")
    return {"name": who, "link": link}


def _name(text: str, place: str) -> str:
    try:
        return name_of(text)
    except Refused as refused:
        raise ConfigError([Problem(place=place, what=str(refused))]) from refused


def _remarks(store: Path) -> Sequence[Mapping[str, object]]:
    """The notes and flags that stand, oldest first; an answer is told by its place in the item, from 1."""
    return [
        {
            "item": each.item,
            "by": each.annotator,
            "answer": "" if each.answer is None else each.answer + 1,
            "flags": ", ".join(each.flags),
            "note": each.note,
        }
        for each in feedback_db.remarks(store)
    ]


def _measures(found: Mapping[str, Any]) -> Sequence[Mapping[str, object]]:
    """A row for each measure that there are rankings for."""
    about = {
        "alpha": "Krippendorff's alpha of better, worse, tie",
        "agreement": "pairs on which two people agree",
        "self_consistency": "pairs on which one agrees with oneself",
        "position_bias": "better answer shown first",
        "length_bias": "better answer the longer one",
    }
    return [
        {
            "measure": what,
            "value": f"{found[name]['value']:.2f}",
            "95 %": f"{found[name]['low']:.2f} to {found[name]['high']:.2f}",
            "pairs": f"{found[name]['count']:,}",
            "prompts": f"{found[name]['prompts']:,}",
        }
        for name, what in about.items()
        if found[name] is not None
    ]


def _person(row: Mapping[str, Any]) -> Mapping[str, object]:
    shares = {name: row[name] for name in ("agreement", "self_consistency")}
    told = {name.replace("_", " "): "" if value is None else f"{value:.0%}" for name, value in shares.items()}
    seconds = "" if row["median_seconds"] is None else f"{row['median_seconds']:.0f}"
    counts = {name.replace("_", " "): row[name] for name in ("name", "ranked", "skipped", "cant_judge", "flags")}
    return {**counts, "median s": seconds, **told}


def _disputed(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, object]]:
    """The items that people disagree on and nobody settled."""
    return [
        {"item": row["id"], "by": ", ".join(row["annotators"]), "pairs": row["pairs"], "prompt": row["prompt"]}
        for row in rows
        if row["adjudicated"] is None
    ]
