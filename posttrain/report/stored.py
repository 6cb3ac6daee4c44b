"""The evaluations that are stored with a run, as its report reads them."""

from __future__ import annotations

import os
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

    def is_against(self, model: object) -> bool:
        """Whether the other model was this one."""
        return self.against is not None and is_same(self.against, model)

    @property
    def judge(self) -> str:
        """Who judged, in words."""
        return listed(self.judges)


def stored(run: Read) -> list[Stored]:
    """The evaluations of this very run, oldest first.

    What an earlier run in the same folder left is passed over, and what is not as an evaluation writes it.
    """
    own = [facts for facts in run.evaluations if facts.get("run") == run.record.get("id")]
    return [_stored(facts) for facts in own if _is_whole(facts)]


def is_own_judge(run: Read, each: Stored) -> bool:
    """Whether who judges is a reward that the run was trained on."""
    rewards = [parent.get("name") for name, parent in run.record.get("parents", {}).items() if name != "model"]
    return any(is_same(judge, reward) for judge in each.judges for reward in rewards)


def is_same(place: str, other: object) -> bool:
    """Whether two names are of one model: the same word, or the same place."""
    return isinstance(other, str) and (place == other or os.path.abspath(place) == os.path.abspath(other))


def _is_whole(facts: Mapping[str, Any]) -> bool:
    kinds = {"count": int, "measures": dict, "estimates": dict, "per_prompt": dict, "prompts": list, "judges": list,
             "data": list, "model": str, "made": str}  # fmt: skip
    if facts.get("format") != FORMAT or not all(isinstance(facts.get(name), kind) for name, kind in kinds.items()):
        return False
    texts = [
        row.get(name) if isinstance(row, dict) else None for row in facts["prompts"] for name in ("prompt", "answer")
    ]
    return all(isinstance(text, str) for text in texts)


def _stored(facts: Mapping[str, Any]) -> Stored:
    against = facts.get("against")
    return Stored(
        made=facts["made"],
        model=facts["model"],
        against=None if against is None else str(against),
        judges=[str(name) for name in facts["judges"]],
        data=[str(name) for name in facts["data"]],
        count=facts["count"],
        measures=facts["measures"],
        estimates=facts["estimates"],
        per_prompt=facts["per_prompt"],
        prompts=facts["prompts"],
    )
