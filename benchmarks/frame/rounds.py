"""Rounds of PPO: our run and TRL's trainer with the same four models, prompts, answers a round and updates, in turns.

A round samples 32 answers, one to each of the same 32 prompts, annotates them, and makes 4 passes of 4 updates of 8
answers. The first round is not counted. Both keep their defaults but for what makes the two the same: learning rate and
schedule, KL weight, the penalty of an answer that did not end, temperature 1. TRL takes 8 answers at a time, ours what
fits. Answers have 64 tokens each, or, with `ends`, end by themselves (`benchmarks.frame.generation.set_ending`) with at
most 128, and almost nothing is learnt, so that they go on to. Losses cannot agree where both sample by themselves; what
is compared is the prompts, the tokens of an answer, the KL to the reference in the first round, which is 0, and the
mean score.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.frame import alternate, flops, generation, texts
from benchmarks.frame.alternate import Spread, peer_python, spread
from benchmarks.frame.sizes import Size, write_model, write_scorer

PEER = "trl-1.11"
ROLLOUTS, EPOCHS, MINIBATCHES = 32, 4, 4
RATE, KL, PENALTY = 1e-5, 0.05, 1.0
ENDING = 1 / 64
STILL = 1e-8
"""The learning rate where answers end by themselves: a policy that learns gives its end token another probability."""
RANK = 16

LAYOUTS: dict[str, dict[str, Any]] = {
    "separate": {"layout": "separate"},
    "adapters": {"layout": "adapters", "lora": {"rank": RANK}},
    "trunk": {"layout": "trunk"},
}
# What a setting of TRL changes, besides bf16 and checkpointing, which are its defaults.
PEERS: dict[str, dict[str, Any]] = {
    "fp32": {"bf16": False, "gradient_checkpointing": False},
    "defaults": {},
}


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What both sides stand on: a folder with models and prompts, and what is asked for."""

    folder: Path
    size: Size
    rounds: int
    longest: int
    group: int
    ends: bool
    prompts: Sequence[Sequence[int]]
    device: str = "cpu"

    @property
    def rate(self) -> float:
        """The learning rate of both sides."""
        return STILL if self.ends else RATE


# --- what both sides get ----------------------------------------------------------------------------------------------


def make_ground(
    folder: Path, size: Size, *, rounds: int, longest: int, ends: bool, group: int = 1, adapters: bool = False,
    device: str = "cpu",
) -> Ground:  # fmt: skip
    """Writes tokenizer, policy, reward model and prompts; with `adapters` a reward model that is an adapter as well."""
    words = folder / "words"
    texts.write_tokenizer(words, vocabulary=size.vocabulary)
    write_model(folder / "model", size, words)
    count = ROLLOUTS // group
    prompts = generation.prompts_of(words, max(count, 2))[:count]
    if ends:
        generation.set_ending(folder / "model", ENDING, prompts)
    write_scorer(folder / "scorer", folder / "model")
    asked = [{"prompt": [{"role": "user", "content": question}]} for question, _ in texts.answers()[:count]]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked), encoding="utf-8")
    if adapters:
        _write_adapter(folder)
    return Ground(
        folder=folder, size=size, rounds=rounds, longest=longest, group=group, ends=ends, prompts=prompts,
        device=device,
    )  # fmt: skip


def _write_adapter(folder: Path) -> None:
    """A reward model as an adapter on the policy's weights, trained for a step."""
    pairs = [
        {"prompt": [{"role": "user", "content": asked}], "chosen": good, "rejected": bad}
        for asked, good, bad in texts.pairs()[:4]
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs), encoding="utf-8")
    settings = {
        "model": str(folder / "model"), "data": str(folder / "pairs.jsonl"), "out": str(folder / "adapter"),
        "steps": 1, "batch_size": 2, "lora": {"rank": RANK}, "eval_data": None, "save_every": None,
    }  # fmt: skip
    job = folder / "adapter.json"
    job.write_text(json.dumps({"method": "reward", "settings": settings}), encoding="utf-8")
    alternate.run(["benchmarks.sides.ours", job], cache=folder / "cache")


def our_settings(ground: Ground, layout: str, precision: str, out: Path) -> dict[str, Any]:
    """The settings of our run."""
    reward = ground.folder / ("adapter" if layout == "adapters" else "scorer")
    return {
        "model": str(ground.folder / "model"), "reward": str(reward), "prompts": str(ground.folder / "prompts.jsonl"),
        "out": str(out), "steps": ground.rounds, "rollouts": ROLLOUTS, "group": ground.group, "ppo_epochs": EPOCHS,
        "minibatches": MINIBATCHES, "max_new_tokens": ground.longest, "critic": {"warmup": 0},
        "learning_rate": ground.rate, "schedule": "constant", "warmup": 0.0,
        "beta": {"coef": KL}, "missing_eos_penalty": PENALTY,
        "precision": precision, "save_every": None, "rollouts_every": None, "best": None, **LAYOUTS[layout],
    }  # fmt: skip


def peer_arguments(ground: Ground, setting: str) -> dict[str, Any]:
    """The arguments of TRL's trainer: what makes the two the same, and what the setting changes.

    Minibatches are made of a batch of one device: with accumulation TRL 1.11 would update once a pass, whatever their
    number.
    """
    return {
        "per_device_train_batch_size": ROLLOUTS, "gradient_accumulation_steps": 1, "num_mini_batches": MINIBATCHES,
        "num_ppo_epochs": EPOCHS, "total_episodes": ROLLOUTS * ground.rounds, "response_length": ground.longest,
        "temperature": 1.0, "learning_rate": ground.rate, "lr_scheduler_type": "constant", "adam_beta2": 0.95,
        "kl_coef": KL, "missing_eos_penalty": PENALTY, "stop_token": "eos" if ground.ends else None,
        "num_sample_generations": 0,
        "save_strategy": "no", "report_to": "none", "logging_steps": 1, "disable_tqdm": True,
        "use_cpu": ground.device == "cpu", **PEERS[setting],
    }  # fmt: skip


# --- a run of each side -----------------------------------------------------------------------------------------------


def run_ours(ground: Ground, layout: str, precision: str) -> dict[str, Any]:
    """What our side tells of one run."""
    with tempfile.TemporaryDirectory(dir=ground.folder) as name:
        job = Path(name) / "job.json"
        settings = our_settings(ground, layout, precision, Path(name) / "out")
        job.write_text(json.dumps({"device": ground.device, "settings": settings}), encoding="utf-8")
        return alternate.run(["benchmarks.sides.our_ppo", job], cache=Path(name) / "cache")


def run_peer(ground: Ground, setting: str) -> dict[str, Any]:
    """What TRL tells of one run."""
    with tempfile.TemporaryDirectory(dir=ground.folder) as name:
        job = Path(name) / "job.json"
        # TRL knows no groups: a prompt that is to be answered several times stands there several times.
        prompts = [list(ids) for ids in ground.prompts for _ in range(ground.group)]
        facts = {"model": str(ground.folder / "model"), "scorer": str(ground.folder / "scorer"), "prompts": prompts}
        facts |= {"out": str(Path(name) / "out"), "arguments": peer_arguments(ground, setting)}
        facts |= {"device": ground.device}
        job.write_text(json.dumps(facts), encoding="utf-8")
        return alternate.run(["benchmarks.sides.trl_ppo", job], python=peer_python(PEER), cache=Path(name))


# --- what the runs say ------------------------------------------------------------------------------------------------


def update_flops(size: Size, prompts: Sequence[int], answers: Sequence[int], layout: str) -> int:
    """The operations that the passes of a round need; each prompt and answer once a pass.

    `separate`: actor and critic forwards and backwards. `trunk`: one model for both. `adapters`: as `separate`, without
    the gradients of the weights.
    """
    work = flops.work_of(zip(prompts, answers, strict=True))
    actor = flops.forward(size, work, outputs=size.vocabulary * work.trained)
    critic = flops.forward(size, work, outputs=work.trained)
    if layout == "trunk":
        return EPOCHS * 3 * (actor + 2 * size.hidden * work.trained)
    return EPOCHS * (2 if layout == "adapters" else 3) * (actor + critic)


def summary(ground: Ground, found: Sequence[Mapping[str, Any]], layout: str, peak: float) -> dict[str, Any]:
    """The measures of a side's repeats: each round of each but the first counts."""
    prompts = [len(ids) for ids in ground.prompts for _ in range(ground.group)]
    measures: dict[str, list[float]] = {name: [] for name in ("seconds", "cpu", *PARTS, "share_of_gemm")}
    lengths: list[int] = []
    for facts in found:
        for number in range(1, ground.rounds):
            update = facts["seconds"][number] - facts["sample"][number] - facts["annotate"][number]
            needed = update_flops(ground.size, _shuffled(prompts, facts), facts["lengths"][number], layout)
            measures["seconds"].append(facts["seconds"][number])
            measures["cpu"].append(facts["cpu"][number])
            measures["sample"].append(facts["sample"][number])
            measures["annotate"].append(facts["annotate"][number])
            measures["update"].append(update)
            measures["share_of_gemm"].append(needed / update / peak)
            lengths += facts["lengths"][number]
    about = {name: spread([float(facts[name]) for facts in found]) for name in ("growth", "peak")}
    return {
        **{name: spread(values) for name, values in measures.items()}, **about,
        "length": sum(lengths) / len(lengths), "kl": max(abs(facts["kl"]) for facts in found),
        "score": sum(facts["score"] for facts in found) / len(found), "prompts": found[0]["prompt_tokens"],
    }  # fmt: skip


PARTS = ("sample", "annotate", "update")


def _shuffled(prompts: Sequence[int], facts: Mapping[str, Any]) -> Sequence[int]:
    # The order of prompts differs between sides and rounds; pairs (prompt, answer) matter only for attention.
    return [sum(prompts) // len(prompts)] * len(facts["lengths"][0])


def disagreements(ground: Ground, sides: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What speaks against the comparison of the sides."""
    asked = sum(map(len, ground.prompts)) * ground.group
    wanted = mean_length(ground)
    problems: list[str] = []
    for name, facts in sides.items():
        if facts["prompts"] != asked:
            problems.append(f"{name} read {facts['prompts']} prompt tokens a round, not {asked}")
        if facts["kl"] > 1e-3:
            problems.append(f"{name} begins with a KL of {facts['kl']:.1e} to the reference")
        if abs(facts["length"] - wanted) > (0.2 if ground.ends else 0.02) * wanted:
            problems.append(f"{name} answers with {facts['length']:.1f} tokens, not {wanted:.1f}")
    # The reward model of `adapters` is one that was trained for a step, with weights of its own.
    scores = [facts["score"] for name, facts in sides.items() if name != "adapters"]
    if scores and max(scores) - min(scores) > 0.5:
        problems.append(f"mean scores of the first round differ: {', '.join(f'{score:.2f}' for score in scores)}")
    return problems


def mean_length(ground: Ground) -> float:
    """The mean number of tokens of an answer: all of them, or of a geometric length that is cut at the longest."""
    if not ground.ends:
        return float(ground.longest)
    return (1 - math.pow(1 - ENDING, ground.longest)) / ENDING


def row_of(name: str, facts: Mapping[str, Any]) -> dict[str, object]:
    """A side's line of the printed table."""
    mega: Spread = facts["growth"]
    return {
        "side": name,
        "s a round": facts["seconds"],
        **{part: f"{facts[part].median:.2f}" for part in PARTS},
        "CPU s": facts["cpu"],
        "growth MB": Spread(median=mega.median / 1e6, least=mega.least / 1e6, most=mega.most / 1e6),
        "peak MB": f"{facts['peak'].median / 1e6:.0f}",
        "of GEMM peak": f"{facts['share_of_gemm'].median:.0%}",
        "tokens": f"{facts['length']:.0f}",
        "score": f"{facts['score']:.3f}",
    }
