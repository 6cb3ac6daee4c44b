"""What of the data was lost, and why: rows by source, problems by kind, answers without a score."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from posttrain.counted import counted
from posttrain.measures.finding import Finding
from posttrain.records import JSON
from posttrain.report.facts import is_number, mapping
from posttrain.report.parts import Cell, Folded, Part, Prose, Section, Table, Warned
from posttrain.report.reading import Read
from posttrain.run.folder import Facts

ROWS = "_rows"
MUCH = 0.05
"""The share of bad rows above which a run stops, unless `max_bad` says otherwise."""
_KEPT = "kept"
# Counted beside the losses, and no row is left out for it.
_HARMLESS = ("turns as samples of their own", "answers whose tokens decode to another text", "held out")
_SHOWN = 30


def losses(run: Read) -> Section | None:
    """The counts of rows of every source, then what was wrong with some of them."""
    sources = {name.removesuffix(ROWS): mapping(run.record, name) for name in run.record if name.endswith(ROWS)}
    parts: list[Part] = []
    if sources:
        parts += [*_lost(sources, run.problems), _table(sources)]
    parts += [*_problems(run.problems), *_failures(run.failures)]
    if not parts:
        return None
    told: dict[str, JSON] = {
        "sources": {**sources},
        "problems": len(run.problems),
        "without_a_score": len(run.failures),
    }
    return Section(id="losses", title="What data were lost", parts=parts, facts=told)


def _lost(sources: Mapping[str, Facts], problems: Sequence[Facts]) -> list[Part]:
    """One sentence on all sources together."""
    lost = sum(count for counts in sources.values() for why, count in counts.items() if _is_loss(why, count))
    kept = sum(counts[_KEPT] for counts in sources.values() if is_number(counts.get(_KEPT)))
    bad = lost + len(problems)
    if not bad:
        return [Prose(text=f"Nothing was lost: all {counted(kept, 'row')} are used.")]
    share = bad / (kept + bad)
    sentence = f"{counted(bad, 'row')} of {kept + bad:,} ({share:.1%}) took no part; {kept:,} are used."
    state = "watch" if share > MUCH else "fine"
    return [Warned(finding=Finding(name="lost rows", state=state, sentence=sentence, rule=f"watch: over {MUCH:.0%}"))]


def _is_loss(why: str, count: object) -> bool:
    return is_number(count) and why not in (_KEPT, *_HARMLESS)


def _table(sources: Mapping[str, Facts]) -> Table:
    rows: list[list[Cell]] = []
    for name, counts in sources.items():
        told = [(why, count) for why, count in counts.items() if is_number(count) and (count or why == _KEPT)]
        rows.extend([name if place == 0 else "", why, count] for place, (why, count) in enumerate(told))
    return Table(columns=["source", "rows", "count"], rows=rows)


def _problems(problems: Sequence[Facts]) -> list[Part]:
    """Problems of one kind as one row, with the first place; numbers do not tell kinds apart."""
    if not problems:
        return []
    kinds: dict[str, list[Facts]] = {}
    for problem in problems:
        kinds.setdefault(re.sub(r"\d+", "#", str(problem.get("what", ""))), []).append(problem)
    often = sorted(kinds.values(), key=len, reverse=True)
    rows: list[list[Cell]] = [
        [str(found[0].get("what", "")), len(found), str(found[0].get("place", "")), str(found[0].get("fix", ""))]
        for found in often[:_SHOWN]
    ]
    more = f"; {counted(len(often) - _SHOWN, 'kind')} more in run/problems.jsonl" * (len(often) > _SHOWN)
    caption = f"{counted(len(problems), 'problem')} with rows{more}"
    return [Table(columns=["problem", "rows", "the first", "fix"], rows=rows, caption=caption)]


def _failures(failures: Sequence[Facts]) -> list[Part]:
    """Answers that a reward gave no score, by reward and error."""
    if not failures:
        return []
    kinds: dict[tuple[str, str], list[Facts]] = {}
    for failure in failures:
        kinds.setdefault((str(failure.get("reward", "")), str(failure.get("error", ""))), []).append(failure)
    often = sorted(kinds.items(), key=lambda each: len(each[1]), reverse=True)[:_SHOWN]
    rows: list[list[Cell]] = [
        [reward, error, len(found), found[0]["step"], str(found[0].get("answer", ""))[:200]]
        for (reward, error), found in often
    ]
    table = Table(columns=["reward", "error", "answers", "first at step", "the first answer"], rows=rows)
    what = f"{counted(len(failures), 'answer')} had no score and took no part"
    rule = "a reward function failed on them"
    found = Warned(finding=Finding(name="no score", state="watch", sentence=f"{what}.", rule=rule))
    return [found, Folded(title="Which, and why", parts=[table])]
