"""Evaluation of a policy on fixed prompts while it trains: the same prompts and random numbers each time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from posttrain.config import PPOConfig
from posttrain.data.pack import Budget
from posttrain.engine.checkpoint import RandomNumbers
from posttrain.engine.local import LocalEngine
from posttrain.recipes.functions import asked
from posttrain.recipes.roles import Roles
from posttrain.recipes.setup import Telling
from posttrain.rollout.annotate import over_answers
from posttrain.rollout.grading import graded, grades_of
from posttrain.types import Completion, Prompt, Sampler, SamplingSpec

ROUND = -1
"""The round of the random numbers: no round of training has it, and every evaluation has the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptEvaluation:
    """Answers the prompts greedily and by sampling, scores both by the run's reward, and writes them down.

    It changes nothing: samplers draw from streams of their own, and what a reward may draw from the process-wide
    generators is given back.
    """

    prompts: Sequence[Prompt]
    sampler: Sampler
    roles: Roles
    engine: LocalEngine
    budget: Budget
    config: PPOConfig
    run: Telling

    def __call__(self, number: int) -> Mapping[str, float]:
        """The `eval_` metrics after step `number`; scores are the reward's own, neither scaled nor clipped.

        Length, KL and the share that ended are of the sampled answers; the KL is the exact one, in nats per answer.
        """
        generators = RandomNumbers()
        before = generators.state()
        try:
            with self.engine.precision(), self.roles.lent():
                return self._measured(number)
        finally:
            generators.load_state(before)

    def _measured(self, number: int) -> dict[str, float]:
        greedy, sampled = self._answers(0.0), self._answers(self.config.temperature)
        count = len(self.prompts)
        away = over_answers(self.roles.divergence(), sampled, range(count), self.budget.tokens)
        return {
            "eval_score_greedy": self._score(number, "greedy", greedy),
            "eval_score_sampled": self._score(number, "sampled", sampled),
            "eval_stopped": sum(answer.stopped for answer in sampled) / count,
            "eval_length": sum(len(answer.tokens) for answer in sampled) / count,
            "eval_kl_exact": float(away.sum()) / count,
        }

    def _answers(self, temperature: float) -> list[Completion]:
        config = self.config
        spec = SamplingSpec(
            max_new_tokens=config.max_new_tokens,
            temperature=temperature,
            stop=config.stop,
            seed=config.seed,
            round=ROUND,
        )
        return self.sampler(self.prompts, spec)

    def _score(self, number: int, drawn: str, answers: Sequence[Completion]) -> float:
        """The mean over the answers that have a score, NaN without any; every answer goes to samples.jsonl."""
        grades = grades_of(self.roles.scorer, answers)
        kept = graded(grades)
        for row, answer in enumerate(answers):
            score = {"score": float(grades.total[row])} if row in kept else {}
            prompt, text = asked(answer.prompt.record), answer.text
            self.run.writer.sample(number, prompt=prompt, answer=text, stopped=answer.stopped, drawn=drawn, **score)
        return float(grades.total[kept].mean())
