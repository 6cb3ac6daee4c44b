"""Rounds of PPO for the token inspector: as they are annotated, and what the round's updates made of their tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
from torch import Tensor

from posttrain.config import PPOConfig
from posttrain.data.pack import Budget, split_by_tokens
from posttrain.engine.local import LocalEngine
from posttrain.ops.losses import is_clipped
from posttrain.recipes.annotating import credit_rules
from posttrain.recipes.inspecting import Answer, Inspecting, Likeliest, likeliest, numbers, top_columns
from posttrain.recipes.roles import Roles
from posttrain.records import JSON
from posttrain.rollout.annotate import over_answers
from posttrain.rollout.buffer import Rollouts, pack_answers
from posttrain.run.inspect import lists
from posttrain.types import Hook

MOST = 64
"""Answers of a round with alternatives: as many as a page carries. Each costs a pass of actor and reference, and 80
bytes a token."""
_PER_TOKEN = ("old", "reference", "kl", "values", "rewards", "advantages", "returns")


class InspectedRounds:
    """Writes the file of a round when it is annotated, and adds the ratio to it after the round's last update.

    A run that goes on between the two finds the file by its checkpoint, and the answers in the state of its source.
    """

    def __init__(
        self, config: PPOConfig, writing: Inspecting, roles: Roles, engine: LocalEngine, budget: Budget
    ) -> None:
        self._config = config
        self._writing = writing
        self._roles = roles
        self._engine = engine
        self._budget = budget

    def keep(self, number: int, rollouts: Rollouts) -> None:
        """Writes a round, while the actor is still the policy that sampled."""
        answers = [
            Answer(done.prompt.id, done.prompt.tokens, done.sample, done.tokens, done.text, done.stopped)
            for done in rollouts.completions
        ]
        lengths = [len(answer.tokens) for answer in answers]
        with self._writing.spared(number):
            rows = shown_rows(rollouts.settled)
            shown = {*rows}
            of = [length if row in shown else None for row, length in enumerate(lengths)]
            tops = self._alternatives(rollouts, rows)
            columns = {
                "score": pa.array(rollouts.scores.tolist(), pa.float64()),
                "settled_score": pa.array(rollouts.settled.tolist(), pa.float64()),
                **{name: pa.array(values.tolist(), pa.float64()) for name, values in rollouts.parts.items()},
                **{name: lists(numbers(getattr(rollouts, name)), lengths) for name in _PER_TOKEN},
            }
            for role, top in tops.items():
                columns |= top_columns(role, top, of)
            self._writing.write(number, answers, columns, self._settings(rollouts), tops.values())

    def finish(self, number: int, rollouts: Rollouts) -> None:
        """Adds what the actor as it stands makes of a round's tokens, if the round was kept."""
        if not self._writing.kept(number):
            return
        lengths = [len(done.tokens) for done in rollouts.completions]
        with self._writing.spared(number), self._engine.precision():
            actor, tokens = self._roles.actor_logprobs(), self._budget.tokens
            now = over_answers(actor, rollouts.completions, rollouts.prompts, tokens)
            ratio = (now - rollouts.old).exp()
            clipped = is_clipped(now, rollouts.old, rollouts.advantages, self._config.clip)
            self._writing.add(
                number, {"ratio": lists(numbers(ratio), lengths), "clipped": lists(clipped.numpy(), lengths)}
            )

    def after(self, updates: int, held: Callable[[], Rollouts | None]) -> Hook:
        """A hook that finishes a round after its last update; `held` gives the answers of the round under way."""

        def hook(number: int, metrics: dict[str, float]) -> None:
            rollouts = held()
            if number % updates == 0 and rollouts is not None:
                self.finish(number // updates, rollouts)

        return hook

    def _alternatives(self, rollouts: Rollouts, rows: Sequence[int]) -> dict[str, Likeliest]:
        """Of each role, at the tokens of these answers."""
        done, prompts = rollouts.completions, rollouts.prompts
        runs = list(
            split_by_tokens(
                rows, self._budget.tokens, size=lambda row: len(done[row].prompt.tokens) + len(done[row].tokens)
            )
        )
        roles = {"actor": self._roles.actor, "reference": self._roles.reference}
        with self._engine.precision(), self._roles.lent():
            return {
                role: likeliest(
                    policy,
                    (pack_answers([done[row] for row in run], [prompts[row] for row in run]) for run in runs),
                )
                for role, policy in roles.items()
            }

    def _settings(self, rollouts: Rollouts) -> dict[str, JSON]:
        config, rules = self._config, credit_rules(self._config)
        return {
            "gamma": rules.gamma,
            # Without a critic the advantage is the return itself.
            "lam": 1.0 if rules.baseline == "none" else rules.lam,
            "form": rules.form,
            "estimator": rules.estimator,
            "kl_in": config.kl_in,
            "whiten": rules.whiten,
            "baseline": rules.baseline,
            "clip": config.clip,
            "score_clip": rules.score_clip,
            "missing_eos_penalty": rules.missing_eos_penalty,
            "temperature": config.temperature,
            **rollouts.numbers,
        }


def shown_rows(settled: Tensor) -> Sequence[int]:
    """The answers with alternatives: all, or of more than 64 the best and the worst 16 and others at even distances."""
    count = len(settled)
    if count <= MOST:
        return range(count)
    order: list[int] = settled.argsort(stable=True).tolist()
    ends = {*order[: MOST // 4], *order[-(MOST // 4) :]}
    others = [row for row in range(count) if row not in ends]
    wanted = MOST - len(ends)
    return sorted(ends | {others[place * len(others) // wanted] for place in range(wanted)})
