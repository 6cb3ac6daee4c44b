"""The report of several runs side by side: what was set differently on top, then what each came to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import join
from typing import cast

from posttrain.counted import counted
from posttrain.records import JSON
from posttrain.report.evaluated import answer_of
from posttrain.report.facts import is_number, mapping, numbers_in, text
from posttrain.report.parts import Answers, Cell, Chart, Code, Folded, Part, Prose, Section, Series, Table, Warned
from posttrain.report.reading import Read
from posttrain.report.report import Report, line_of
from posttrain.report.sections.answers import AT_ONCE, MOST, grouped
from posttrain.report.sections.cost import tokens_of, training_seconds
from posttrain.report.sections.curves import HELD_OUT, series_of, slug
from posttrain.report.sections.verdict import verdict
from posttrain.report.shown import duration
from posttrain.report.terms import of_metric
from posttrain.run.folder import Facts

_FIRST = ("loss", "eval_loss", "eval_accuracy", "eval_margin", "accuracy", "margin", "score", "kl", "length")
_NO_METRICS = ("step", "seconds", "round")
Named = Mapping[str, Read]


def comparison_of(runs: Sequence[Read], *, title: str = "", first: Sequence[Section] = ()) -> Report:
    """The report of runs that may be of different commands. `first`: sections to stand on top."""
    named = dict(zip(names_of([run.path for run in runs]), runs, strict=True))
    sections = [_differing(named), _verdicts(named), _results(named), _curves(named), _answers(named), _cost(named)]
    return Report(
        title=title or " · ".join(named),
        line=f"{counted(len(runs), 'run')} side by side",
        runs=runs,
        sections=[*first, *(section for section in sections if section is not None), _again(runs)],
    )


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each: the last part of its path, with as many before it as tell it from the others."""
    parts = [path.resolve().parts for path in paths]
    most = max(len(each) for each in parts)
    for count in range(1, most + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(each[-1:])} ({number})" for number, each in enumerate(parts, 1)]  # one run, given twice


def _differing(runs: Named) -> Section:
    """Settings, data and versions that are not the same everywhere; folded those that only some runs have."""
    settings = _unlike({name: dict(_flat(run.settings)) for name, run in runs.items()}, without=("out",))
    shared = {name: row for name, row in settings.items() if len(row) == len(runs)}
    own = {name: row for name, row in settings.items() if len(row) < len(runs)}
    others = _unlike({name: _circumstances(run) for name, run in runs.items()})
    which = [[name, line_of(run), str(run.path)] for name, run in runs.items()]
    parts: list[Part] = [Table(columns=["run", "", "folder"], rows=which)]
    parts.append(
        _beside(shared, runs, "setting") if shared else Prose(text="All settings that they share are the same.")
    )
    if others:
        parts.append(_beside(others, runs, "data, versions, machine"))
    if own:
        what = f"{counted(len(own), 'setting')} that only some of them have"
        parts.append(Folded(title=what, parts=[_beside(own, runs, "setting")]))
    return Section(id="differing", title="What differs", parts=parts, facts={"settings": _facts(settings)})


def _facts(rows: Mapping[str, Mapping[str, Cell]]) -> dict[str, JSON]:
    return {setting: dict(values) for setting, values in rows.items()}


def _flat(settings: Facts, before: str = "") -> Iterator[tuple[str, Cell]]:
    """Settings by dotted names."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(cast("Facts", value), f"{before}{name}.")
        else:
            yield before + name, _spelled(value)


def _spelled(value: object) -> str:
    """A setting as a settings file has it, as far as it fits on a line; what is null within others is left out."""
    if isinstance(value, list):
        return ", ".join(_spelled(each) for each in cast("list[object]", value)) or "[]"
    if isinstance(value, dict):
        known = {name: each for name, each in cast("Facts", value).items() if each is not None}
        return " · ".join(f"{name}: {_spelled(each)}" for name, each in known.items())
    return str(value) if isinstance(value, str) else json.dumps(value)


def _circumstances(run: Read) -> dict[str, Cell]:
    found = {f"data {Path(name).name}": str(value)[:12] for name, value in mapping(run.record, "data").items()}
    found |= {f"version of {name}": str(value) for name, value in mapping(run.record, "versions").items()}
    return {**found, "machine": text(mapping(run.record, "machine"), "where")}


def _unlike(found: Mapping[str, Mapping[str, Cell]], without: Sequence[str] = ()) -> dict[str, Mapping[str, Cell]]:
    """By name the values of each run that has one, of those names whose values are not all the same."""
    names = dict.fromkeys(name for values in found.values() for name in values if name not in without)
    rows = {name: {run: values[name] for run, values in found.items() if name in values} for name in names}
    return {name: row for name, row in rows.items() if len(row) < len(found) or len(set(row.values())) > 1}


def _beside(rows: Mapping[str, Mapping[str, Cell]], runs: Named, what: str) -> Table:
    return Table(columns=[what, *runs], rows=[[name, *(row.get(run) for run in runs)] for name, row in rows.items()])


def _verdicts(runs: Named) -> Section:
    """What each run's own page says first, and what it warns of."""
    found = {name: verdict(run).parts for name, run in runs.items()}
    said = {name: [part for part in parts if isinstance(part, Prose)] for name, parts in found.items()}
    rows = [[name, first.text] for name, (first, *_) in ((name, prose) for name, prose in said.items() if prose)]
    parts: list[Part] = [Table(columns=["run", "came to"], rows=rows)]
    for name, of_run in found.items():
        warned = [part for part in of_run if isinstance(part, Warned)]
        parts += [Prose(text=f"{name}:"), *warned] if warned else []
    return Section(id="verdicts", title="What each came to", parts=parts)


def _results(runs: Named) -> Section | None:
    """The numbers that runs noted at their end."""
    found = {name: numbers_in(mapping(run.record, "results")) for name, run in runs.items()}
    names = dict.fromkeys(name for results in found.values() for name in results)
    if not names:
        return None
    rows = [[name, *(cast("Cell", results.get(name)) for results in found.values())] for name in names]
    table = Table(columns=["result", *runs], rows=rows)
    facts: dict[str, JSON] = {name: dict(results) for name, results in found.items()}
    return Section(id="results", title="Results", parts=[table], facts=facts)


def _curves(runs: Named) -> Section | None:
    """Every metric that two runs have, in one chart."""
    names = dict.fromkeys(name for run in runs.values() for row in run.metrics for name in row)
    charts = {name: chart for name in names if name not in _NO_METRICS and (chart := _chart(name, runs))}
    if not charts:
        return None
    shown = [name for name in _FIRST if name in charts]
    rest = [charts[name] for name in charts if name not in shown]
    parts: list[Part] = [charts[name] for name in shown]
    parts += [Folded(title=f"All else that was logged ({len(rest)})", parts=rest)] if rest else []
    return Section(id="curves", title="Curves", parts=parts)


def _chart(metric: str, runs: Named) -> Chart | None:
    lines: list[Series] = [series_of(run, metric, name) for name, run in runs.items()]
    known = [line for line in lines if line.x]
    if len(known) < min(2, len(runs)):
        return None
    stem = metric.removeprefix(HELD_OUT)
    title = stem.replace("_", " ") + (", held out" if stem != metric else "")
    found = of_metric(stem)
    about, link = (found.about, found.link) if found else ("", "")
    return Chart(id=f"curve-{slug(metric)}", title=title, series=known, about=about, link=link)


def _answers(runs: Named) -> Section | None:
    """Prompts that at least two runs answered, with the last answer of each."""
    said = {name: grouped(run.samples) for name, run in runs.items()}
    prompts = dict.fromkeys(prompt for rows in said.values() for prompt in rows)
    found = [
        Answers(
            prompt=prompt, answers=[answer_of(each[prompt][-1], name) for name, each in said.items() if prompt in each]
        )
        for prompt in prompts
    ]
    shared: list[Part] = [each for each in found if len(each.answers) > 1]
    if not shared:
        return None
    rest = [Folded(title=f"{len(shared) - AT_ONCE} more", parts=shared[AT_ONCE:MOST])] if len(shared) > AT_ONCE else []
    return Section(id="answers", title="The same prompts", parts=[*shared[:AT_ONCE], *rest])


def _cost(runs: Named) -> Section:
    rows: list[list[Cell]] = []
    for name, run in runs.items():
        seconds, tokens = training_seconds(run), tokens_of(run)
        foreseen = mapping(run.record, "forecast").get("seconds")
        rows.append(
            [
                name,
                run.record["status"],
                len([row for row in run.metrics if row["step"]]),
                "" if seconds is None else duration(seconds),
                duration(foreseen) if is_number(foreseen) else "",
                None if tokens is None else int(tokens),
                text(mapping(run.record, "machine"), "where"),
            ]
        )
    columns = ["run", "state", "steps", "training", "forecast", "tokens", "machine"]
    return Section(id="cost", title="What they took", parts=[Table(columns=columns, rows=rows)])


def _again(runs: Sequence[Read]) -> Section:
    """The commands that show one of them alone, and where two of them part."""
    lines = [join(["posttrain", "report", str(run.path)]) for run in runs]
    lines += [join(["posttrain", "runs", "diff", *(str(run.path) for run in runs[:2])])] if len(runs) > 1 else []
    return Section(id="reproduce", title="To look closer", parts=[Code(text="\n".join(lines))])
