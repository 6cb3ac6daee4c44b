"""What each stage of the pipeline does: the package's commands with the settings of this example."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

import posttrain as pt

ANSWER_TOKENS = 200
"""A reference has at most 160: a model that ends its stories does so before this limit."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much each stage does."""

    sft_steps: Annotated[int, Parameter(help="updates of 32 instructions")] = 150
    ranked_prompts: Annotated[int, Parameter(help="training prompts that get four answers and a ranking")] = 1024
    reward_epochs: Annotated[float, Parameter(help="passes over the rankings")] = 2.0
    dpo_epochs: Annotated[float, Parameter(help="passes over the rankings")] = 1.0
    ppo_rounds: Annotated[int, Parameter(help="rounds of 64 answers")] = 12
    free_rounds: Annotated[int, Parameter(help="the same without a KL penalty")] = 24
    held_out_prompts: Annotated[int, Parameter(help="prompts of the evaluation")] = 256
    seed: Annotated[int, Parameter(help="of every run, the annotator and the evaluation")] = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stages:
    """The stages that train or sample, with their files under `out`. Each is skipped when it is done already."""

    model: str
    out: Path
    plan: Plan
    fresh: bool
    quiet: bool

    def place(self, name: str) -> Path:
        """Where a stage's run folder, or a file of data, lies."""
        return self.out / name

    def sft(self) -> pt.Run:
        """Instruction tuning of all weights."""
        return pt.sft(
            model=self.model,
            data=self.place("data/instructions.jsonl"),
            out=self.place("sft"),
            steps=self.plan.sft_steps,
            learning_rate=1e-3,
            eval_every="20%",
            seed=self.plan.seed,
            fresh=self.fresh,
            quiet=self.quiet,
        )

    def pool(self) -> Path:
        """Four answers to each prompt that is to be ranked."""
        pool = self.place("data/pool.jsonl")
        if pool.exists() and not self.fresh:
            return pool
        return pt.sample(
            self.place("sft"),
            prompts=self.place("data/to_rank.jsonl"),
            k=4,
            max_new_tokens=ANSWER_TOKENS,
            out=pool,
            seed=self.plan.seed,
            fresh=self.fresh,
            quiet=self.quiet,
        )

    def reward(self) -> pt.Run:
        """A reward model from the rankings, an eighth of whose prompts are held out."""
        return pt.reward(
            model=self.place("sft"),
            data=self.place("data/ranked.jsonl"),
            out=self.place("reward"),
            eval_data="12.5%",
            eval_every="20%",
            batch_size=8,
            epochs=self.plan.reward_epochs,
            learning_rate=1e-3,
            seed=self.plan.seed,
            fresh=self.fresh,
            quiet=self.quiet,
        )

    def dpo(self) -> pt.Run:
        """DPO on the same rankings: all six pairs of a prompt."""
        return pt.dpo(
            model=self.place("sft"),
            data=self.place("data/ranked.jsonl"),
            out=self.place("dpo"),
            eval_data=None,
            batch_size=8,
            epochs=self.plan.dpo_epochs,
            learning_rate=1e-4,
            seed=self.plan.seed,
            fresh=self.fresh,
            quiet=self.quiet,
        )

    def ppo(self) -> pt.Run:
        """PPO against the reward model, held to the SFT model."""
        return self._ppo("ppo", rounds=self.plan.ppo_rounds, beta=0.05, learning_rate=1e-4)

    def ppo_free(self) -> pt.Run:
        """The same without a KL penalty and with larger steps, to see what becomes of it."""
        return self._ppo("ppo-free", rounds=self.plan.free_rounds, beta=0.0, learning_rate=3e-4)

    def _ppo(self, name: str, *, rounds: int, beta: float, learning_rate: float) -> pt.Run:
        return pt.ppo(
            model=self.place("sft"),
            reward=self.place("reward"),
            prompts=self.place("data/instructions.jsonl"),
            out=self.place(name),
            steps=rounds,
            rollouts=64,
            ppo_epochs=2,
            minibatches=2,
            max_new_tokens=ANSWER_TOKENS,
            beta=pt.Beta(coef=beta),
            critic=pt.Critic(warmup=4),
            learning_rate=learning_rate,
            schedule="constant",
            warmup=0.0,
            seed=self.plan.seed,
            fresh=self.fresh,
            quiet=self.quiet,
        )
