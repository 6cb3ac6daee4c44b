"""The judge of an evaluation: the scores of answers, and those that it failed on."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.config import EvalConfig
from posttrain.console import Console
from posttrain.models.load import load_scalar
from posttrain.models.parity import gate_scalar
from posttrain.recipes import setup
from posttrain.recipes.functions import Loaded, refuse_failures, told
from posttrain.recipes.rewarding import RewardModel, assembled
from posttrain.recipes.scoring import RewardCard, RewardScorer, same_words, say_raw
from posttrain.rollout.grading import Failed, failed, graded, grades_of
from posttrain.text.chat import Codec
from posttrain.types import Completion, Grades, Scorer


class Judging:
    """Judges by an evaluation's settings; what they failed on is kept."""

    def __init__(self, config: EvalConfig, functions: Loaded, where: setup.Machine, console: Console) -> None:
        self.where = where
        self.console = console
        self._config = config
        self._functions = functions
        self._failed: list[Failed] = []

    def judge(self, codec: Codec) -> Scorer:
        """The judge of the answers of models that use `codec`."""
        config = self._config

        def load(path: str, number: int) -> RewardModel:
            card, own = RewardCard.read(path), Codec.load(path)
            say_raw(path, card, self.console)
            alike = same_words(own, codec)
            scalar, own_attention = load_scalar(path, device=self.where.device, bf16=self.where.bf16)
            gate_scalar(scalar, own_attention)
            scorer = RewardScorer(scalar, card, own, shared=alike, budget=config.micro_batch_tokens)
            return RewardModel(
                path=path, scalar=scalar, own_attention=own_attention, card=card, reads_alike=alike, scorer=scorer
            )

        return assembled(config.judge or (), self._functions, config.functions, load).scorer

    def grades(self, judge: Scorer, answers: Sequence[Completion], whose: str) -> Grades:
        """The scores of answers, NaN for those that the judge failed on; said.

        Raises ModelError when it failed on more than `functions.max_failures`.
        """
        grades = grades_of(judge, answers)
        found = failed(grades, answers)
        lost = len(answers) - len(graded(grades))
        if found:
            self.console.say(f"judge{whose}: {told(found, lost, len(answers))}")
        refuse_failures(found, lost, len(answers), self._config.functions)
        self._failed += found
        return grades

    def failures(self) -> dict[str, object]:
        """What the judge failed on, for the result; nothing where it never did."""
        if not self._failed:
            return {}
        rows = [failure.facts() for failure in self._failed]
        return {"unjudged": len(rows), "judge_failures": rows}
