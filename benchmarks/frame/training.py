"""The rows of training: our run and TRL's trainer on the same rows, weights, steps and optimizer, in turns.

What is counted is the training steps after the first: no loading, tokenising, first-step warm-up or saving. A useful
token is one that must pass the trunk (`benchmarks.frame.flops`). TRL keeps its defaults but for what makes the two the
same (learning rate and its schedule, betas, order of rows, global batch: 8 a device, accumulated) and what the named
setting changes. Ours keeps its defaults but for the same, no evaluation and no checkpoint on the way.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.frame import alternate, flops, texts
from benchmarks.frame.alternate import Spread, peer_python, spread
from benchmarks.frame.digest import row_hash, step_hashes
from benchmarks.frame.sizes import Size, write_model, write_scorer

PEER = "trl-1.16"
BATCH, DEVICE_BATCH = 32, 8
RATE = 1e-4
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}
"""The largest part by which the last losses may differ."""

# What a setting of TRL changes. Its defaults are bf16 by autocast, checkpointing, and 8 rows a device.
FP32 = {"bf16": False, "gradient_checkpointing": False}
BF16 = {"gradient_checkpointing": False}
WEIGHTS = {**BF16, "model_init_kwargs": {"dtype": "bfloat16"}}
FREE = {"padding_free": True}
SMALL = {"per_device_train_batch_size": 2}
PEERS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "defaults-fp32": {"bf16": False},
    "fp32": FP32,
    "bf16": BF16,
    "bf16-weights": WEIGHTS,
    "fp32-small": {**FP32, **SMALL},
    "bf16-weights-small": {**WEIGHTS, **SMALL},
    "fp32-large": {**FP32, "per_device_train_batch_size": BATCH},
    "fp32-padding-free": {**FP32, **FREE},
    "fp32-padding-free-small": {**FP32, **FREE, **SMALL},
    "bf16-padding-free-small": {**BF16, **FREE, **SMALL},
    "bf16-weights-padding-free-small": {**WEIGHTS, **FREE, **SMALL},
    "fp32-precomputed-small": {**FP32, **SMALL, "precompute_ref_log_probs": True},
    "bf16-weights-precomputed-small": {**WEIGHTS, **SMALL, "precompute_ref_log_probs": True},
}
OF_METHOD = {"padding-free": "sft", "precomputed": "dpo"}
"""Parts of names of settings that one method alone has; packing needs the flash attention of a GPU."""


def settings_of(method: str) -> list[str]:
    """The names of TRL's settings that this method has."""
    return [name for name in PEERS if all(of == method for part, of in OF_METHOD.items() if part in name)]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows in the order of training, `batch` a step, and their tokens: the ids of the prompt and of each answer."""

    file: Path
    tokens: Sequence[tuple[Sequence[int], ...]]
    batch: int = BATCH

    def steps(self) -> list[str]:
        """The hash of each step, which both sides have to show."""
        return step_hashes((row_hash(*row) for row in self.tokens), self.batch)

    def work(self, first: int) -> flops.Work:
        """The work of the steps from `first` on."""
        return flops.work_of([len(span) for span in row] for row in self.tokens[first * self.batch :])


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What both sides stand on: a folder with model and rows, in the order in which ours draws them from `ours`."""

    folder: Path
    method: str
    size: Size
    steps: int
    rows: Rows
    ours: Path
    device: str = "cpu"

    @property
    def model(self) -> Path:
        """The model that ours starts from."""
        return self.folder / "model"

    @property
    def peer_model(self) -> Path:
        """The same for TRL: for a reward model with the head that ours draws."""
        return self.folder / ("scorer" if self.method == "reward" else "model")


# --- what both sides get ----------------------------------------------------------------------------------------------


def make_ground(
    folder: Path, method: str, size: Size, steps: int, *, batch: int = BATCH, rows: Sequence[dict[str, Any]] = (),
    device: str = "cpu",
) -> Ground:  # fmt: skip
    """Writes tokenizer, model and rows, those of the method's texts unless they are given.

    TRL's file has the order in which ours draws its only epoch.
    """
    from posttrain.data.source import epoch_order  # noqa: PLC0415 - only where a run is prepared

    words = folder / "words"
    texts.write_tokenizer(words, vocabulary=size.vocabulary)
    write_model(folder / "model", size, words)
    if method == "reward":
        write_scorer(folder / "scorer", folder / "model")
    count = steps * batch
    rows = (rows or records(method))[:count]
    if len(rows) < count:
        raise SystemExit(f"{len(rows)} rows are too few for {steps} steps of {batch}")
    ordered = [rows[place] for place in epoch_order([(count, 1.0)], seed=0, epoch=0)]
    _write(folder / "ours.jsonl", rows)
    _write(folder / "peer.jsonl", ordered)
    made = Rows(file=folder / "peer.jsonl", tokens=tokens_of(ordered, words), batch=batch)
    ours = folder / "ours.jsonl"
    return Ground(folder=folder, method=method, size=size, steps=steps, rows=made, ours=ours, device=device)


def records(method: str) -> list[dict[str, Any]]:
    """Rows of the method's texts, in the conversational layout that both sides read."""
    if method == "sft":
        return [row(asked, completion=answer) for asked, answer in texts.answers()]
    return [row(asked, chosen=good, rejected=bad) for asked, good, bad in texts.pairs()]


def row(asked: str, **answers: str) -> dict[str, Any]:
    """A question of a user and its answers by column, each of them a turn of the assistant."""
    said = {name: _said("assistant", answer) for name, answer in answers.items()}
    return {"prompt": _said("user", asked), **said}


def tokens_of(rows: Sequence[Mapping[str, Any]], words: Path) -> list[tuple[list[int], ...]]:
    """The ids of each row's prompt and of each answer, by the chat template."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - only where a run is prepared

    tokenizer = AutoTokenizer.from_pretrained(words)
    found: list[tuple[list[int], ...]] = []
    for row in rows:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
        answers = [row[name] for name in ("completion", "chosen", "rejected") if name in row]
        answers += [_said("assistant", text) for text in row.get("responses", ())]
        whole = [tokenizer.apply_chat_template(row["prompt"] + answer)["input_ids"] for answer in answers]
        found.append((prompt, *(ids[len(prompt) :] for ids in whole)))
    return found


def our_settings(ground: Ground, precision: str, out: Path, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of our run."""
    return {
        "model": str(ground.model), "data": str(ground.ours), "out": str(out), "batch_size": ground.rows.batch,
        "epochs": 1, "learning_rate": RATE, "schedule": "constant", "warmup": 0.0, "precision": precision,
        "eval_data": None, "save_every": None, **extra,
    }  # fmt: skip


def peer_arguments(ground: Ground, setting: str) -> dict[str, Any]:
    """The arguments of TRL's trainer: what makes the two the same, and what the setting changes."""
    batch = ground.rows.batch
    changed: dict[str, Any] = {"per_device_train_batch_size": DEVICE_BATCH, **PEERS[setting]}
    changed["per_device_train_batch_size"] = min(batch, changed["per_device_train_batch_size"])
    return {
        "max_length": None, "max_steps": ground.steps,
        "gradient_accumulation_steps": batch // changed["per_device_train_batch_size"],
        "learning_rate": RATE, "lr_scheduler_type": "constant", "adam_beta2": 0.95,
        "train_sampling_strategy": "sequential", "save_strategy": "no", "report_to": "none", "logging_steps": 1,
        "use_cpu": ground.device == "cpu", "disable_tqdm": True, **changed,
    }  # fmt: skip


def _said(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def _write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# --- a run of each side -----------------------------------------------------------------------------------------------


def run_ours(ground: Ground, precision: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """What our side tells of one run."""
    with tempfile.TemporaryDirectory(dir=ground.folder) as name:
        job = Path(name) / "job.json"
        settings = our_settings(ground, precision, Path(name) / "out", extra)
        job.write_text(
            json.dumps({"method": ground.method, "device": ground.device, "settings": settings}), encoding="utf-8"
        )
        return alternate.run(["benchmarks.sides.ours", job], cache=Path(name) / "cache")


def run_peer(ground: Ground, setting: str) -> dict[str, Any]:
    """What TRL tells of one run."""
    with tempfile.TemporaryDirectory(dir=ground.folder) as name:
        job = Path(name) / "job.json"
        facts = {"method": ground.method, "model": str(ground.peer_model), "data": str(ground.rows.file)}
        facts |= {"out": str(Path(name) / "out"), "arguments": peer_arguments(ground, setting)}
        facts |= {"device": ground.device}
        job.write_text(json.dumps(facts), encoding="utf-8")
        return alternate.run(["benchmarks.sides.trl_training", job], python=peer_python(PEER), cache=Path(name))


# --- what the runs say ------------------------------------------------------------------------------------------------


def summary(ground: Ground, found: Sequence[Mapping[str, Any]], peak: float, *, reused: bool = False) -> dict[str, Any]:
    """The measures of a side's repeats. Work done before the first step counts by the share of steps that count.

    `reused`: without that work, as when it was cached by an earlier run.
    """
    work = ground.rows.work(1)
    share = (ground.steps - 1) / ground.steps
    needed = flops.training(ground.size, work, ground.method, reference=not reused)

    def taken(facts: Mapping[str, Any], clock: str) -> float:
        before = 0.0 if reused or not facts["before"] else facts["before"][clock] * share
        return sum(facts[clock][1:]) + before

    seconds = [taken(facts, "seconds") for facts in found]
    return {
        "tokens_per_second": spread([work.useful / taken for taken in seconds]),
        "rows_per_second": spread([work.rows / taken for taken in seconds]),
        "cpu_seconds": spread([taken(facts, "cpu") for facts in found]),
        "growth": spread([facts["growth"] for facts in found]),
        "peak": spread([facts["peak"] for facts in found]),
        "share_of_gemm": spread([needed / taken / peak for taken in seconds]),
        "loss": spread([facts["losses"][-1] for facts in found]),
        "losses": found[0]["losses"],
    }


def disagreements(ground: Ground, found: Mapping[str, Sequence[Mapping[str, Any]]], tolerance: float) -> list[str]:
    """What speaks against the comparison: other tokens in a step, or last losses that differ by more than allowed."""
    problems: list[str] = []
    expected = ground.rows.steps()
    for name, runs in found.items():
        if any(facts["steps"] != expected for facts in runs):
            problems.append(f"{name} trained on other tokens")
    ours = found["posttrain"][0]["losses"][-1]
    for name, runs in found.items():
        theirs = runs[0]["losses"][-1]
        if abs(ours - theirs) > tolerance * abs(theirs):
            problems.append(f"last loss {ours:.5f} of ours against {theirs:.5f} of {name}, allowed {tolerance:.2%}")
    return problems


def row_of(name: str, facts: Mapping[str, Any]) -> dict[str, object]:
    """A side's line of the printed table."""
    mega: Spread = facts["growth"]
    share: Spread = facts["share_of_gemm"]
    return {
        "side": name,
        "tokens/s": facts["tokens_per_second"],
        "rows/s": facts["rows_per_second"],
        "CPU s": facts["cpu_seconds"],
        "growth MB": Spread(median=mega.median / 1e6, least=mega.least / 1e6, most=mega.most / 1e6),
        "of GEMM peak": f"{share.median:.0%}",
        "last loss": f"{facts['loss'].median:.5f}",
    }
