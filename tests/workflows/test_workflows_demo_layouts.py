"""A critic on the actor's trunk teaches the demo's writer what a critic of its own does.

    python tests/workflows/test_workflows_demo_layouts.py FOLDER

prints the numbers of each seed; stages that FOLDER holds already are not run again.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from posttrain.config import PPOConfig
from posttrain.console import Console, Silent
from posttrain.ops.statistics import Interval, bootstrap_mean
from posttrain.recipes import setup
from posttrain.recipes.ppo import ppo
from posttrain.recipes.reward import reward
from posttrain.recipes.sft import sft
from posttrain.types import Message, PromptRecord, SamplingSpec
from posttrain.workflows import demo
from posttrain.workflows.demo import LONGEST_ANSWER, Plan
from posttrain.workflows.world.generate import Row, make_world
from posttrain.workflows.world.gold import gold_score

SEEDS = (0, 1, 2)
PLAN = Plan(pretrain_steps=900, sft_epochs=1.0, ranked_prompts=600, judged_prompts=120, reward_epochs=2.0)
EVALUATED = 400
SILENT = Console(Silent())


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """Gold scores of fresh answers to held-out prompts, float [N]: before PPO, and after it for [seeds, N]."""

    before: Tensor
    separate: Tensor
    trunk: Tensor

    @property
    def difference(self) -> Interval:
        """Where the mean of `trunk` less `separate` lies, over prompts, each with the mean of its seeds."""
        return bootstrap_mean((self.trunk - self.separate).mean(0))


def learned(folder: Path) -> Learned:
    """Runs the demo up to its reward model, then PPO in both layouts from every seed."""
    world = make_world(0, PLAN.sizes)
    files = demo._write_data(folder, world, PLAN, 0)
    start, runs = demo._untrained(folder, world, 0), folder / "runs"
    sft(demo._pretraining(start, files, runs, PLAN, 0), console=SILENT)
    sft(demo._finetuning(files, runs, PLAN, 0), console=SILENT)
    if not files.ranked.is_file():
        demo._pool(files, runs, 0, SILENT)
        demo._rank(files, 0)
    reward(demo._reward(files, runs, PLAN, 0), console=SILENT)
    asked = [row for row in world.rows["held_out_combination"] if row.family == "generation"][:EVALUATED]
    found: dict[str, list[Tensor]] = {"separate": [], "trunk": []}
    for seed in SEEDS:
        settings = demo._ppo(files, runs, PLAN, seed)
        for layout, scores in found.items():
            out = runs / f"ppo-{layout}-{seed}"
            ppo(_in_layout(settings, layout, out), console=SILENT)
            scores.append(gold(out, asked))
    before = gold(runs / "sft", asked)
    return Learned(before=before, separate=torch.stack(found["separate"]), trunk=torch.stack(found["trunk"]))


def _in_layout(settings: PPOConfig, layout: str, out: Path) -> PPOConfig:
    given = settings.model_dump(exclude_defaults=True)
    return PPOConfig.model_validate({**given, "layout": layout, "out": str(out), "save_every": None, "best": None})


def gold(run: Path, rows: list[Row]) -> Tensor:
    """The hidden gold score of one fresh answer to each row, float [N]."""
    where = setup.machine()
    start = setup.load_start(str(run), setup.load_codec(str(run), None, SILENT), where, SILENT)
    records = [
        PromptRecord(id=f"held out {number}", messages=(Message(role="user", content=row.prompt),))
        for number, row in enumerate(rows)
    ]
    spec = SamplingSpec(max_new_tokens=LONGEST_ANSWER, seed=0, round=1_000_000)
    answers = setup.sampler(start.policy, start.codec, start.context, where)(start.codec.prompts(records), spec)
    scores = [gold_score(row.columns(), done.text, ended=done.stopped) for row, done in zip(rows, answers, strict=True)]
    return torch.tensor(scores)


@pytest.mark.slow
def test_a_critic_on_the_trunk_teaches_as_much_as_one_of_its_own(tmp_path: Path) -> None:
    found = learned(tmp_path)
    low, high = found.difference
    assert low <= 0.0 <= high, f"gold of trunk less separate lies in {low:.3f} to {high:.3f}"
    for scores in (found.separate, found.trunk):
        assert bootstrap_mean(scores.mean(0) - found.before)[0] > 0.0


def main() -> None:
    """Prints the gold scores by seed and the interval of the difference."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    found = learned(folder)
    low, high = found.difference
    lines = [f"before {_shown(found.before)}"]
    for seed, separate, trunk in zip(SEEDS, found.separate, found.trunk, strict=True):
        lines.append(f"seed {seed}: separate {_shown(separate)}, trunk {_shown(trunk)}")
    mean = float((found.trunk - found.separate).mean())
    lines.append(f"trunk less separate {mean:+.3f} ({low:+.3f} to {high:+.3f})")
    sys.stdout.write("\n".join(lines) + "\n")


def _shown(scores: Tensor) -> str:
    low, high = bootstrap_mean(scores)
    return f"{float(scores.mean()):.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
