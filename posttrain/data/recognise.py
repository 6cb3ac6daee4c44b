"""Which layout a file has, told from its first rows; and what to ask when none or more than one fits."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Mapping, Sequence

from posttrain.data.formats import COMMANDS, EXAMPLES, FORMATS, Format
from posttrain.data.guess import Mapped, guess, shown
from posttrain.data.json_rows import Placed, Row
from posttrain.data.messages import BadRow, kind_of, with_typos
from posttrain.errors import DataError, Problem
from posttrain.records import (
    JSON,
    ChatRecord,
    Kind,
    LabelledRecord,
    Message,
    PromptRecord,
    RankedRecord,
    Record,
    TargetRecord,
    TextRecord,
)

SNIFFED = 200
# What nearly every row can serve as: it says little of what a row is.
_ANYTHING = ("prompt", "pool")
_PLAIN = re.compile(r"[A-Za-z_~./][A-Za-z0-9_~./+-]*")
_YAML_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n", "~"}


def recognise(path: str, sample: Sequence[Placed], kinds: Sequence[Kind], columns: Mapping[str, str]) -> Format:
    """The layout of the first rows for the first of `kinds` that any layout fits.

    A layout fits when at least half of the rows have its keys and types, and it needs those that `columns` names.
    Raises DataError when none does, or when several do and read the rows differently, with a setting that would help.
    """
    rows = [placed.row for placed in sample]
    if "ranked" in kinds:
        _refuse_bare_ranking(path, sample, kinds)
    for kind in kinds:
        found = _named(_candidates(rows, kind), columns)
        # A prompt is read the same way from any layout that has one, so the fullest layout that fits will do.
        if len(found) == 1 or (found and (kind == "prompt" or _agree(found, rows))):
            return found[0]
        if found:
            raise DataError([_ambiguous(path, sample, found, kinds)])
    raise DataError([_unrecognised(path, sample, kinds)])


def unread_label(rows: Sequence[Row], layout: Format) -> str | None:
    """The column that labels answers as good or bad in rows that `layout` reads as conversations; None for none."""
    if layout.kind != "chat":
        return None
    found = _candidates(rows, "labelled")
    return next((key for each in found for key in each.needs if key not in layout.needs), None)


def misfit(row: Row, layout: Format) -> BadRow | None:
    """Why `layout` could not convert a row, where it has another layout or lacks a column; None where it does not."""
    if layout.fits(row):
        return None
    missing = [key for key in layout.needs if key not in row]
    other = next(
        (each for each in FORMATS if each.name != layout.name and each.kind not in _ANYTHING and each.fits(row)), None
    )
    unlabelled = layout.kind == "target" and missing == ["label"]
    if missing and other is not None and not unlabelled:
        what = f"this row has another layout: {other.name}; most have: {layout.name}"
        return BadRow(what, "convert it, or give it a file of its own")
    if missing:
        keys = with_typos(row, layout.needs)
        fix = "rename the column" if "typo?" in keys else "add it, or delete the row"
        return BadRow(f"{missing[0]} is missing (keys: {keys})", fix)
    return None


def _candidates(rows: Sequence[Row], kind: Kind) -> list[Format]:
    return [f for f in FORMATS if f.kind == kind and 2 * sum(map(f.fits, rows)) >= len(rows)]


def _named(found: list[Format], columns: Mapping[str, str]) -> list[Format]:
    """Those that use every column which a mapping names and any of them needs: it says which are meant."""
    needed = {key for layout in found for key in layout.needs} & columns.keys()
    return [layout for layout in found if needed <= layout.needs.keys()] or found


def _agree(found: Sequence[Format], rows: Sequence[Row]) -> bool:
    """Whether all of these layouts read the same out of every row, or can read nothing."""
    return all(_read(found[0], row) == _read(layout, row) for row in rows for layout in found[1:])


def _read(layout: Format, row: Row) -> list[str] | None:
    try:
        return [str(record) for record in layout.convert(row, "")]
    except BadRow:
        return None


# --- questions --------------------------------------------------------------------------------------------------


def _ambiguous(path: str, sample: Sequence[Placed], found: Sequence[Format], kinds: Sequence[Kind]) -> Problem:
    """Every reading of the first row, and the setting that chooses one."""
    readings = [(layout, reading) for layout in found if (reading := _reading(sample, layout))]
    lines = [f"\n  {layout.name}: {reading}" for layout, reading in readings]
    what = f"the rows can be read in {len(found)} ways{''.join(lines)}"
    choices = [
        f"for {layout.name} give {as_setting(path, {key: key for key in layout.needs}, kinds)}" for layout in found
    ]
    return Problem(
        place=sample[0].place, what=what, fix="\n       ".join(["name the columns that are meant:", *choices])
    )


def _reading(sample: Sequence[Placed], layout: Format) -> str:
    for placed in sample:
        try:
            return spelled(layout.convert(placed.row, "")[0])
        except BadRow:
            continue
    return ""


def spelled(record: Record) -> str:
    """What a record says, in a line."""
    match record:
        case ChatRecord():
            return _talk(record.messages)
        case TextRecord():
            return shown(record.text)
        case PromptRecord():
            return _talk(record.messages or ()) or shown(record.text or "")
        case LabelledRecord():
            judged = zip(record.labels, record.responses, strict=True)
            said = "; ".join(f"{'good' if good else 'bad'}: {shown(answer)}" for good, answer in judged)
            return f"{_talk(record.prompt[-1:])} → {said}"
        case TargetRecord():
            return f"{spelled(record.asked)} → label {shown(record.label)}"
        case RankedRecord():
            ranked = sorted(
                zip(record.ranks, record.responses, strict=True), key=lambda pair: pair[0] or len(record.ranks)
            )
            answers = "; ".join(f"{'not ranked' if rank is None else rank}: {shown(answer)}" for rank, answer in ranked)
            return f"{_talk(record.prompt[-1:])} → {answers}"


def _talk(messages: Sequence[Message]) -> str:
    said = [f"{message.role} {shown(message.content)}" for message in messages]
    return " → ".join([*said[:2], "…", said[-1]] if len(said) > 4 else said)


def as_setting(path: str, columns: Mapping[str, str], kinds: Sequence[Kind]) -> str:
    """The flag that reads `path` with these columns; what stands in its quotes is YAML for a file of settings."""
    flag = "--prompts" if set(kinds) == {"prompt"} else "--data"
    pairs = ", ".join(f"{name}: {_yaml(theirs)}" for name, theirs in columns.items())
    return f"{flag} {shlex.quote(f'{{path: {_yaml(path)}, columns: {{{pairs}}}}}')}"


def _yaml(text: str) -> str:
    plain = _PLAIN.fullmatch(text) and text.lower() not in _YAML_WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)


def _unrecognised(path: str, sample: Sequence[Placed], kinds: Sequence[Kind]) -> Problem:
    rows = [placed.row for placed in sample]
    wanted = " or ".join(kinds)
    example = " or ".join(EXAMPLES[kind] for kind in kinds)
    other = [layout for kind in COMMANDS for layout in _candidates(rows, kind) if layout.kind not in kinds]
    wrong = _wrong_types(sample, kinds)
    # Nearly every row can serve as a prompt: that says less than a column of ours with something else in it.
    if wrong is not None and all(layout.kind == "prompt" for layout in other):
        return wrong
    if other and not guess(rows, kinds, exact=True):
        what = f"this looks like {other[0].kind} data ({other[0].name}), expected {wanted} data"
        fix = f"{COMMANDS[other[0].kind]} takes this file; here give {example}"
        return Problem(place=path, what=what, fix=fix)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    sought = "" if COMMANDS.keys() - {*kinds, "pool"} == set() else f" of {wanted} data"
    what = f"no layout{sought} fits its columns: {_listed(keys)}"
    if any(len(key) > 60 or key.replace(".", "", 1).isdigit() for key in keys):
        what += "\n  these look like a row, not like the names of columns"
        return Problem(place=path, what=what, fix="write the names of the columns above it, such as prompt,completion")
    mapped = guess(rows, kinds)
    return Problem(
        place=path, what=what, fix=_asking(path, mapped, kinds) if mapped else f"rename the columns: {example}"
    )


def _asking(path: str, mapped: Mapped, kinds: Sequence[Kind]) -> str:
    """The nearest layout, with what each column would be, and the setting that says so."""
    renamed = {ours: theirs for ours, theirs in mapped.columns.items() if ours != theirs}
    said = ", ".join(f"{theirs!r} {shown(mapped.row.get(theirs))} as {ours!r}" for ours, theirs in renamed.items())
    return f"is it {mapped.layout.name}, with {said}? then give {as_setting(path, mapped.columns, kinds)}"


def _wrong_types(sample: Sequence[Placed], kinds: Sequence[Kind]) -> Problem | None:
    """The first value of a wrong type, where the columns are those of a layout."""
    placed = sample[0]
    named = [f for f in FORMATS if f.kind in kinds and f.needs and f.needs.keys() <= placed.row.keys()]
    wrong = [[key for key, shape in layout.needs.items() if not shape.fits(placed.row.get(key))] for layout in named]
    layout, keys = min(zip(named, wrong, strict=True), key=lambda pair: len(pair[1]), default=(None, []))
    if layout is None or not keys:
        return None
    value = placed.row.get(keys[0])
    what = f"{keys[0]} is {_described(value)}, expected {layout.needs[keys[0]].name}"
    fix = f'write it as a string: "{keys[0]}": {json.dumps(str(value))}' if isinstance(value, int | float) else ""
    fix = fix or f"here give {' or '.join(EXAMPLES[kind] for kind in kinds)}"
    return Problem(place=placed.place, what=what, fix=fix)


def _described(value: JSON) -> str:
    if isinstance(value, list) and value:
        return f"a list whose first item is {kind_of(value[0])}"
    return (
        f"{kind_of(value)} ({value})"
        if isinstance(value, int | float) and not isinstance(value, bool)
        else kind_of(value)
    )


def _listed(keys: Sequence[str], limit: int = 12) -> str:
    short = [key if len(key) <= 60 else f"{key[:59]}…" for key in keys]
    return ", ".join(short[:limit]) + (f" and {len(keys) - limit} more" if len(keys) > limit else "")


def _refuse_bare_ranking(path: str, sample: Sequence[Placed], kinds: Sequence[Kind]) -> None:
    """Raises DataError for a bare `ranking` column, which is read as ranks by some and as an order by others."""
    placed = next((placed for placed in sample if isinstance(placed.row.get("ranking"), list)), None)
    if placed is None or {"ranks", "order", "scores", "chosen"} & placed.row.keys():
        return
    ranking = placed.row["ranking"]
    assert isinstance(ranking, list)
    responses = placed.row.get("responses")
    answers = responses if isinstance(responses, list) else []
    names = {place: f" {shown(answer)}" for place, answer in enumerate(answers)}
    as_ranks = ", ".join(f"response {i}{names.get(i, '')} has rank {json.dumps(r)}" for i, r in enumerate(ranking))
    as_order = ", then ".join(
        f"response {json.dumps(i)}{names.get(i, '') if isinstance(i, int) else ''}" for i in ranking
    )
    what = (
        f"'ranking': {json.dumps(ranking)} can mean two things\n"
        f"  as ranks (lowest is best): {as_ranks}\n"
        f"  as order (best first): {as_order}"
    )
    fix = (
        f"for ranks give {as_setting(path, {'ranks': 'ranking'}, kinds)}\n"
        f"       for order give {as_setting(path, {'order': 'ranking'}, kinds)}"
    )
    raise DataError([Problem(place=placed.place, what=what, fix=fix)])


def unknown_columns(path: str, columns: Mapping[str, str], known: Sequence[str]) -> list[Problem]:
    """A problem for each column that a mapping names and no row has."""
    problems: list[Problem] = []
    for theirs in columns.values():
        if theirs in known:
            continue
        near = difflib.get_close_matches(theirs, known, n=1, cutoff=0.6)
        meant = f"did you mean {near[0]!r}? " if near else ""
        what = f"columns names {theirs!r}, which no row has"
        problems.append(Problem(place=path, what=what, fix=f"{meant}there are {', '.join(sorted(known))}"))
    return problems
