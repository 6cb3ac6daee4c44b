"""The evaluations that are stored with a run, as its report reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.counted import counted
from posttrain.report.reading import Read
from posttrain.report.words import listed
from posttrain.run.evaluations import FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An evaluation. `measures`: what it printed, by name; `estimates`: means over prompts with intervals.

    `per_prompt`: the numbers of each of `count` prompts by name. `prompts`: some of them with their answers.
    """

    made: str
    by: str
    model: str
    against: str | None
    judges: Sequence[str]
    data: Sequence[str]
    count: int
    measures: Mapping[str, Any]
    estimates: Mapping[str, Any]
    per_prompt: Mapping[str, Sequence[Any]]
    prompts: Sequence[Mapping[str, Any]]

    @property
    def where(self) -> str:
        """`600 prompts of held_out.jsonl`."""
        names = listed([name.rstrip("/").rpartition("/")[2] for name in self.data])
        return f"{counted(self.count, 'prompt')} of {names}" if self.count else names

    @property
    def judge(self) -> str:
        """Who judged, in words."""
        return listed(self.judges)


def stored(run: Read) -> list[Stored]:
    """The evaluations of this very run, oldest first: what an earlier run in the same folder left is passed over."""
    known = [facts for facts in run.evaluations if facts.get("format") == FORMAT]
    own = [facts for facts in known if facts.get("run") == run.record.get("id")]
    return [_stored(facts) for facts in own]


def _stored(facts: Mapping[str, Any]) -> Stored:
    return Stored(
        made=str(facts.get("made", "")),
        by=str(facts.get("by", "")),
        model=str(facts.get("model", "")),
        against=facts.get("against"),
        judges=[str(name) for name in facts.get("judges", [])],
        data=[str(name) for name in facts.get("data", [])],
        count=int(facts.get("count", 0)),
        measures=facts.get("measures", {}),
        estimates=facts.get("estimates", {}),
        per_prompt=facts.get("per_prompt", {}),
        prompts=facts.get("prompts", []),
    )
