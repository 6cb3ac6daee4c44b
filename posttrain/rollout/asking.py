"""Which prompts a round asks, and its answers: a stream of reshuffled passes that depends on the seed alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from posttrain.errors import DataError
from posttrain.types import Completion, Prompt, Sampler, SamplingSpec, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Rounds of `rollouts` answers, `group` to a prompt, as `spec` says, by the policy as it stands at each call."""

    prompts: Sequence[Prompt]
    sampler: Sampler
    spec: SamplingSpec
    rollouts: int
    group: int
    seed: int

    def answers(self, number: int) -> tuple[list[Completion], list[int]]:
        """The answers of a round, and of each the number of its prompt; answers of one prompt are neighbours."""
        asked = self.asked(number)
        spec = replace(self.spec, samples=self.group, seed=self.seed, round=number)
        return self.sampler(asked, spec), [place for place in range(len(asked)) for _ in range(self.group)]

    def asked(self, number: int) -> list[Prompt]:
        """The prompts of a round; one that comes twice has another id the second time."""
        return _told_apart([self.prompts[place] for place in self._chosen(number)])

    def _chosen(self, number: int) -> list[int]:
        """The places of a round's prompts in the stream."""
        count = self.rollouts // self.group
        chosen: list[int] = []
        for place in range(number * count, (number + 1) * count):
            epoch, within = divmod(place, len(self.prompts))
            chosen.append(int(np.random.default_rng([self.seed, epoch]).permutation(len(self.prompts))[within]))
        return chosen

    def state(self) -> State:
        """What the stream depends on besides the settings."""
        return {"prompts": len(self.prompts)}

    def load_state(self, state: State) -> None:
        """Raises DataError when there are other prompts than those of `state`."""
        was, found = state["prompts"], len(self.prompts)
        if was != found:
            what = f"the run began with {was:,} prompts, and {found:,} are there now"
            raise DataError(f"{what}: it cannot go on\n  fix: --fresh, or the versions that it began with")


def _told_apart(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Prompts whose ids differ: one that comes twice in a round must not get the same answer twice."""
    seen: Counter[str] = Counter()
    told: list[Prompt] = []
    for prompt in prompts:
        seen[prompt.id] += 1
        again = seen[prompt.id]
        told.append(prompt if again == 1 else replace(prompt, id=f"{prompt.id}#{again}"))
    return told
