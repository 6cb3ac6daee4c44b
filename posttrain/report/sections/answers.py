"""The same prompts before and after: what the model said along the way, and beside the one that it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from posttrain.counted import counted
from posttrain.errors import PosttrainError
from posttrain.report.evaluated import answer_of, compared_answers
from posttrain.report.facts import mapping, text
from posttrain.report.parts import Answer, Answers, Folded, Part, Prose, Section
from posttrain.report.reading import Read
from posttrain.run.folder import Facts, Run

AT_ONCE, MOST = 6, 40
_DRAWN = ("", "greedy", "sampled")


def answers(run: Read) -> Section | None:
    """Prompts with their first answer and their last, then those that were answered once, in their order."""
    compared = compared_answers(run)
    by_prompt = grouped(run.samples)
    before = parent_answers(run)
    several = [
        Answers(prompt=prompt, answers=[*_before(before, prompt), *_first_and_last(run, rows)])
        for prompt, rows in by_prompt.items()
        if prompt in before[1] or _repeats(rows)
    ]
    once = [
        Answers(prompt=prompt, answers=[_answer(run, rows[0])])
        for prompt, rows in by_prompt.items()
        if not (prompt in before[1] or _repeats(rows))
    ]
    parts: list[Part] = [*_shown(compared), *_shown(several)]
    if once:
        what = f"Answers along the way ({len(once)})"
        parts += [Folded(title=what, parts=once[:MOST])] if parts else _shown(once)
    if not parts:
        return None
    facts = {"compared": len(compared), "prompts": len(by_prompt)}
    title = "The same prompts, before and after" if compared or several else "Answers along the way"
    return Section(id="answers", title=title, parts=parts, facts=facts)


def grouped(samples: Sequence[Facts]) -> Mapping[str, Sequence[Facts]]:
    """Samples by their prompt, in the order in which they were written."""
    found: dict[str, list[Facts]] = {}
    for row in samples:
        found.setdefault(row["prompt"], []).append(row)
    return found


def parent_answers(run: Read) -> tuple[str, Mapping[str, Facts]]:
    """The name of the run that this one started from, and its last answers by prompt; none where it is gone.

    It is looked for under its own name, and beside this run.
    """
    facts = mapping(run.record, "parents", "model")
    name = text(facts, "name")
    for place in (Path(name), run.path.resolve().parent / Path(name).name) if "started" in facts else ():
        with suppress(PosttrainError, OSError):
            parent = Run.open(place)
            if parent.record["started"] == facts["started"]:
                return place.name, {row["prompt"]: row for row in parent.samples if isinstance(row.get("prompt"), str)}
    return "", {}


def _shown(found: Sequence[Answers]) -> list[Part]:
    """The first ones, and the others folded, as far as a page can bear them."""
    more = len(found) - AT_ONCE
    if more <= 0:
        return [*found]
    left = f"; {counted(more - MOST, 'prompt')} left out here" if more > MOST else ""
    rest: list[Part] = [*found[AT_ONCE : AT_ONCE + MOST]]
    if left:
        rest.append(Prose(text=f"The page carries {AT_ONCE + MOST} of {counted(len(found), 'prompt')}."))
    return [*found[:AT_ONCE], Folded(title=f"{counted(more, 'prompt')} more{left}", parts=rest)]


def _repeats(rows: Sequence[Facts]) -> bool:
    """Whether a prompt was answered at different steps."""
    return len({row["step"] for row in rows}) > 1


def _first_and_last(run: Read, rows: Sequence[Facts]) -> list[Answer]:
    """The first and the last answer of each way of drawing."""
    found: list[Answer] = []
    for drawn in _DRAWN:
        some = [row for row in rows if row.get("drawn", "") == drawn]
        ends = some[:1] + (some[-1:] if len(some) > 1 else [])
        found += [_answer(run, row) for row in ends]
    return found


def _before(before: tuple[str, Mapping[str, Facts]], prompt: str) -> list[Answer]:
    name, rows = before
    return [answer_of(rows[prompt], f"before: {name}")] if prompt in rows else []


def _answer(run: Read, row: Facts) -> Answer:
    # What PPO shows while it samples is of a round, not of an update.
    unit = "round" if run.command == "ppo" and "drawn" not in row else "step"
    drawn = f", {row['drawn']}" if row.get("drawn") else ""
    return answer_of(row, f"{unit} {row['step']:,}{drawn}")
