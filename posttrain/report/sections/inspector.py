"""The token inspector: every quantity of every token of some of the answers that the run kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from posttrain.counted import counted
from posttrain.errors import Problem
from posttrain.measures.finding import Finding
from posttrain.records import JSON
from posttrain.report.inspection import files_of, heading, inspection
from posttrain.report.parts import Inspector, Part, Prose, Section, Warned
from posttrain.report.reading import Read

ID, TITLE = "tokens", "Token by token"
_ONE = {"ppo": "answer", "dpo": "pair", "online-dpo": "pair", "reward": "ranking"}


def inspector(run: Read) -> Section | None:
    """The section with the rollouts that the page carries; None where the run kept none."""
    files, problems = files_of(run)
    if not files:
        return _section([*map(_damaged, problems)], {}) if problems else None
    data = inspection(files, run)
    shown = [rollout for step in cast("list[dict[str, Any]]", data["steps"]) for rollout in step["rollouts"]]
    parts: list[Part] = [Prose(text=_carried(data, len(shown))), *map(_damaged, problems)]
    return _section([*parts, Inspector(data=data)] if shown else parts, _facts(data))


def followed(run: Read) -> Section | None:
    """The section of a page that is served: it asks for the rollouts that it shows, of which it has all."""
    files, problems = files_of(run)
    if not files:
        return _section([*map(_damaged, problems)], {}) if problems else None
    steps: list[JSON] = [{"step": each.step, "of": len(each.briefs), "columns": len(each.columns)} for each in files]
    data: dict[str, JSON] = {**heading(files), "live": True, "steps": steps, "pieces": {}}
    text = _all(files[-1].method, sum(len(file.briefs) for file in files), len(files))
    return _section([Prose(text=text), *map(_damaged, problems), Inspector(data=data)], {})


def _section(parts: Sequence[Part], facts: Mapping[str, JSON]) -> Section:
    return Section(id=ID, title=TITLE, parts=parts, facts=facts)


def _damaged(problem: Problem) -> Warned:
    sentence = f"{problem.place} is left out: {problem.what.rstrip('.')}."
    return Warned(finding=Finding(name="inspector", state="watch", sentence=sentence, rule="files that cannot be read"))


def _carried(data: Mapping[str, Any], shown: int) -> str:
    """`The page carries 60 of 1,280 answers of 10 steps: …`."""
    one, of = _ONE.get(data["method"], "rollout"), data["of"]
    if shown == of["rollouts"]:
        return _all(data["method"], shown, of["steps"])
    kept = f"{counted(of['rollouts'], one)} that the run kept, of {counted(of['steps'], 'step')}"
    which = "the best and the worst of a step, the first, the last, and some at random"
    long = f" Too long for it: {counted(data['too_long'], one)}." if data["too_long"] else ""
    return f"The page carries {shown:,} of {kept}: {which}.{long} posttrain report RUN --serve opens all of them."


def _all(method: str, kept: int, steps: int) -> str:
    return f"All {counted(kept, _ONE.get(method, 'rollout'))} that the run kept, of {counted(steps, 'step')}."


def _facts(data: Mapping[str, Any]) -> dict[str, JSON]:
    """Which rollouts the page carries."""
    names = ("row", "prompt_id", "score", "length", "picked")
    rollouts: list[JSON] = [
        {"step": step["step"], **{name: rollout[name] for name in names}}
        for step in data["steps"]
        for rollout in step["rollouts"]
    ]
    return {"of": data["of"], "rollouts": rollouts}
