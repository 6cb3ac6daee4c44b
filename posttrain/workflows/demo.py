"""The whole lecture on one laptop: base → SFT → ranking (simulated) → reward model → PPO and DPO → evaluation.

Everything is the project's own: the text is generated, the base model is pretrained here. Every stage is the command of
the same name with the settings below, so that each can be run again alone.
"""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from transformers import LlamaForCausalLM

from posttrain.config import (
    Beta,
    Critic,
    DataItem,
    DPOConfig,
    PPOConfig,
    RewardConfig,
    RewardItem,
    SampleConfig,
    SFTConfig,
)
from posttrain.console import Console
from posttrain.errors import RunExists
from posttrain.feedback.simulated import Annotator
from posttrain.recipes.dpo import dpo
from posttrain.recipes.ppo import ppo
from posttrain.recipes.reward import reward
from posttrain.recipes.sample import sample
from posttrain.recipes.setup import quiet_libraries
from posttrain.recipes.sft import sft
from posttrain.types import JSON
from posttrain.workflows import reporting
from posttrain.workflows.demo_page import section
from posttrain.workflows.outcome import KNOWN, UNSEEN, Outcome, compare, keep, summary
from posttrain.workflows.world.annotator import Agreement, agreement
from posttrain.workflows.world.generate import Row, Sizes, Split, World, draw_rows, make_world
from posttrain.workflows.world.gold import gold_score
from posttrain.workflows.world.model import model_config, train_tokenizer

LONGEST_ANSWER = 40
RUNS = ("base", "sft", "reward", "ppo", "dpo")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much the demo does; the default takes minutes on two cores, and `small` proves in seconds that it runs."""

    sizes: Sizes = field(default_factory=Sizes)
    pretrain_steps: int = 1800
    sft_epochs: float = 2.0
    ranked_prompts: int = 900
    judged_prompts: int = 180
    reward_epochs: float = 3.0
    ppo_rounds: int = 14
    rollouts: int = 128
    dpo_epochs: float = 2.0
    evaluated: int = 600
    evaluated_unseen: int = 396


SMALL = Plan(
    sizes=Sizes(texts=400, train=120, held_out_combination=24, held_out_template=24),
    pretrain_steps=4,
    sft_epochs=0.2,
    ranked_prompts=24,
    judged_prompts=12,
    reward_epochs=1.0,
    ppo_rounds=1,
    rollouts=8,
    dpo_epochs=1.0,
    evaluated=24,
    evaluated_unseen=24,
)


def demo(out: str, *, seed: int, console: Console, plan: Plan | None = None, fresh: bool = False) -> Outcome:
    """Runs every stage into `out` and returns the comparison; stages that are done already are not run again.

    Raises RunExists when `out` holds something that no demo wrote.
    """
    plan = plan or Plan()
    quiet_libraries()
    folder = Path(out)
    _claim(folder, plan, seed, fresh=fresh)
    stage = _Clock(console)
    world = stage("world", lambda: make_world(seed, plan.sizes))
    files = stage("data", lambda: _write_data(folder, world, plan, seed))
    start = stage("tokenizer and an untrained model", lambda: _untrained(folder, world, seed))
    runs = folder / "runs"
    stage("base: pretraining on plain text", lambda: sft(_pretraining(start, files, runs, plan, seed), console=console))
    stage("SFT: instruction tuning", lambda: sft(_finetuning(files, runs, plan, seed), console=console))
    stage("sampling four answers a prompt", lambda: _pool(files, runs, seed, console))
    noise = stage("ranking, simulated", lambda: _rank(files, seed))
    console.say(
        f"simulated annotator: agrees with the hidden gold on {noise.gold:.3f} of {noise.pairs:,} strict pairs "
        f"(the ceiling), with another of its kind on {noise.between:.3f}"
    )
    judged = stage("reward model", lambda: reward(_reward(files, runs, plan, seed), console=console))
    stage("PPO", lambda: ppo(_ppo(files, runs, plan, seed), console=console))
    stage("DPO", lambda: dpo(_dpo(files, runs, plan, seed), console=console))
    rows = evaluation_rows(world, plan, seed)
    outcome = stage("evaluation by fresh samples", lambda: compare(runs, rows, seed=seed, longest=LONGEST_ANSWER))
    keep(runs, outcome, seed=seed, longest=LONGEST_ANSWER)
    found = summary(outcome, accuracy=judged.results["held_out_accuracy"], noise=noise, seconds=stage.seconds)
    (folder / "results.json").write_text(json.dumps(found.facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "results.md").write_text(found.markdown, encoding="utf-8")
    for title, table in found.tables:
        console.table(table, title)
    for line in found.sentences:
        console.say(line)
    pages = [runs / name for name in RUNS]
    stage("report", lambda: reporting.together(pages, folder, console, title="Demo", first=[section(found)]))
    console.finish(f"everything is in {folder}: report.html, results.md, data/, runs/")
    return outcome


class _Clock:
    """Runs stages one after another and keeps how long each took."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, run: Callable[[], Result]) -> Result:
        self._console.say(f"── {name}")
        began = time.monotonic()
        found = run()
        self.seconds[name] = round(time.monotonic() - began, 1)
        return found


def _claim(folder: Path, plan: Plan, seed: int, *, fresh: bool) -> None:
    """Takes the folder, or goes on in it when the same demo began there."""
    marker = folder / "demo.json"
    facts = {"seed": seed, **asdict(plan)}
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not marker.is_file()):
        raise RunExists(f"{folder} holds files that no demo wrote\n  fix: give another --out")
    if marker.is_file() and not fresh and json.loads(marker.read_text(encoding="utf-8")) != facts:
        raise RunExists(f"{folder} holds a demo of another seed or size\n  fix: give another --out, or --fresh")
    if marker.is_file() and fresh:
        for name in ("data", "runs", "untrained"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("results.json", "results.md", "report.html"):
            (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(facts) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    pretraining: Path
    instructions: Path
    to_rank: Path
    pool: Path
    ranked: Path
    judged: Path
    prompts: Path


def _write_data(folder: Path, world: World, plan: Plan, seed: int) -> _Files:
    data = folder / "data"
    data.mkdir(exist_ok=True)
    files = _Files(
        pretraining=data / "pretraining.jsonl",
        instructions=data / "instructions.jsonl",
        to_rank=data / "to_rank.jsonl",
        pool=data / "pool.jsonl",
        ranked=data / "ranked.jsonl",
        judged=data / "ranked_held_out.jsonl",
        prompts=data / "prompts.jsonl",
    )
    train = world.rows["train"]
    write_rows(files.pretraining, ({"text": text} for text in world.texts))
    write_rows(files.instructions, (row.chat() for row in train))
    for split in (KNOWN, UNSEEN):
        write_rows(data / f"{split}.jsonl", (row.chat() for row in world.rows[split]))
    # Preferences are asked for where many answers are right: the others have one, and finetuning taught it.
    sentences = [row for row in train if row.family == "generation"]
    cut = plan.ranked_prompts + plan.judged_prompts
    write_rows(files.to_rank, (row.question() for row in sentences[:cut]))
    write_rows(files.prompts, (row.question() for row in sentences))
    return files


def write_rows(path: Path, rows: Iterable[Mapping[str, JSON]]) -> None:
    """Writes JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _untrained(folder: Path, world: World, seed: int) -> Path:
    """A model folder with random weights and a tokenizer trained on the world's text."""
    start = folder / "untrained"
    if (start / "tokenizer.json").is_file():
        return start
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(
        [*world.texts[:10_000], *(f"{row.prompt}\n{row.answer}" for row in world.rows["train"])]
    )
    LlamaForCausalLM(model_config(tokenizer)).save_pretrained(start)
    tokenizer.save_pretrained(start)
    return start


def _pool(files: _Files, runs: Path, seed: int, console: Console) -> None:
    config = SampleConfig(
        model=str(runs / "sft"), prompts=_data(files.to_rank), out=str(files.pool), k=4,
        max_new_tokens=LONGEST_ANSWER, seed=seed,
    )  # fmt: skip
    sample(config, console=console, fresh=True)


def _rank(files: _Files, seed: int) -> Agreement:
    """Lets the simulated annotator rank the pool; the last sixth of the prompts is kept to judge the reward model."""
    annotator = Annotator(seed=seed)
    pool = [json.loads(line) for line in files.pool.read_text(encoding="utf-8").splitlines()]
    ranked: list[dict[str, JSON]] = []
    scored: list[tuple[list[float], list[int]]] = []
    for row in pool:
        golds = [
            gold_score(row, text, ended=ended) for text, ended in zip(row["responses"], row["stopped"], strict=True)
        ]
        ranks = annotator.rank(row["id"], row["responses"], golds)
        scored.append((golds, ranks))
        ranked.append(
            {
                "messages": row["messages"],
                "responses": row["responses"],
                "stopped": row["stopped"],
                "ranks": [*ranks],
                "annotator": "simulated",
            }
        )
    held = len(pool) // 6
    decided = [len(set(ranks)) > 1 for _, ranks in scored]
    write_rows(files.ranked, itertools.compress(ranked[:-held], decided[:-held]))
    write_rows(files.judged, itertools.compress(ranked[-held:], decided[-held:]))
    return agreement(scored[-held:], annotator.scale)


def evaluation_rows(world: World, plan: Plan, seed: int) -> dict[Split, Sequence[Row]]:
    """Held-out rows by split, half of them sentences to write."""
    counts: dict[Split, int] = {KNOWN: plan.evaluated, UNSEEN: plan.evaluated_unseen}
    return {split: draw_rows(world.rows[split], count, seed=seed) for split, count in counts.items()}


# --- the settings of every stage ----------------------------------------------------------------------------------


def _data(path: Path) -> tuple[DataItem, ...]:
    return (DataItem(path=str(path)),)


def _pretraining(start: Path, files: _Files, runs: Path, plan: Plan, seed: int) -> SFTConfig:
    return SFTConfig(
        model=str(start),
        data=_data(files.pretraining),
        out=str(runs / "base"),
        steps=plan.pretrain_steps,
        batch_size=26,
        learning_rate=3e-3,
        weight_decay=0.05,
        eval_data="1%",
        eval_every="20%",
        seed=seed,
    )


def _finetuning(files: _Files, runs: Path, plan: Plan, seed: int) -> SFTConfig:
    return SFTConfig(
        model=str(runs / "base"),
        data=_data(files.instructions),
        out=str(runs / "sft"),
        epochs=plan.sft_epochs,
        batch_size=32,
        learning_rate=8e-4,
        eval_every="20%",
        samples=("Write a sentence with the words fox and river.", "What is 7 + 5?"),
        seed=seed,
    )


def _reward(files: _Files, runs: Path, plan: Plan, seed: int) -> RewardConfig:
    return RewardConfig(
        model=str(runs / "sft"),
        data=_data(files.ranked),
        eval_data=str(files.judged),
        out=str(runs / "reward"),
        epochs=plan.reward_epochs,
        batch_size=16,
        learning_rate=1e-3,
        eval_every="25%",
        seed=seed,
    )


def _ppo(files: _Files, runs: Path, plan: Plan, seed: int) -> PPOConfig:
    return PPOConfig(
        model=str(runs / "sft"),
        reward=(RewardItem(reward=str(runs / "reward")),),
        prompts=_data(files.prompts),
        out=str(runs / "ppo"),
        steps=plan.ppo_rounds,
        rollouts=plan.rollouts,
        max_new_tokens=LONGEST_ANSWER,
        beta=Beta(coef=0.1),
        ppo_epochs=2,
        minibatches=2,
        critic=Critic(warmup=4),
        learning_rate=1.5e-4,
        rollouts_every="25%",
        seed=seed,
    )


def _dpo(files: _Files, runs: Path, plan: Plan, seed: int) -> DPOConfig:
    return DPOConfig(
        model=str(runs / "sft"),
        data=_data(files.ranked),
        eval_data=str(files.judged),
        out=str(runs / "dpo"),
        epochs=plan.dpo_epochs,
        batch_size=32,
        learning_rate=1e-4,
        beta=0.2,
        eval_every="25%",
        seed=seed,
    )
