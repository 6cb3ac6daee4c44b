"""What a run adds to its loaded models at its highest, beside what it forecast before its first step.

    python -m benchmarks memory [--quick] [--tokens 1024] [--twice] [--tokenizer FOLDER]

Random Llamas of two sizes are trained for two steps by every method, with all weights and with adapters of rank 16, on
rows that are made up. Each run is a process of its own with one thread. Its baseline is the resident memory when the
forecast begins, with all models loaded; its peak is the highest from the end of the forecast on, so that evaluation and
saving are part of it, and the forecast's own trial is not; the code of libraries, whose pages are read from their files
as they are first needed, is no part of either. Seconds are of the CPU, after the forecast. With `--twice`
layers run a second time in backward (`activation_checkpointing`). Linux alone tells and resets the peak.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GOAL = 0.15
SHARED = Path(__file__).resolve().parents[2] / "shared" / "models" / "stories260k"
TEXT = "once upon a time there was a little girl who liked to play with her red ball in the big green park"


@dataclass(frozen=True, kw_only=True)
class Size:
    """The shape of a Llama with 32,000 words, and the tokens of its micro-batches."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    tied: bool
    tokens: int


SIZES = {
    "15m": Size(hidden=288, layers=6, heads=6, intermediate=768, tied=True, tokens=1024),
    "60m": Size(hidden=512, layers=10, heads=8, intermediate=1376, tied=False, tokens=512),
}
METHODS = ("sft", "reward", "dpo", "ppo")


# --- what is trained --------------------------------------------------------------------------------------------------


def write_model(folder: Path, size: Size, tokenizer: Path) -> None:
    """A model folder with random weights and the words of `tokenizer`."""
    import torch  # noqa: PLC0415 - only where models are made
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    words = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000, hidden_size=size.hidden, intermediate_size=size.intermediate, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, max_position_embeddings=1024, tie_word_embeddings=size.tied,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)


def write_data(folder: Path) -> None:
    """Conversations of about 57 tokens, rankings of three answers, 121 tokens together, and prompts of 25.

    Rows are short and of nearly one length, so that most micro-batches are nearly full.
    """
    draw = random.Random(0)

    def said(least: int, most: int) -> str:
        return " ".join(draw.choices(TEXT.split(), k=draw.randint(least, most)))

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    asked = [f"{number} {said(8, 12)}" for number in range(192)]
    write("chats.jsonl", [{"prompt": text, "completion": said(15, 25)} for text in asked])
    rankings = [{"prompt": text, "responses": [said(15, 25) for _ in range(3)], "ranks": [1, 2, 3]} for text in asked]
    write("rankings.jsonl", rankings)
    write("prompts.jsonl", [{"prompt": text} for text in asked])


def settings_of(method: str, folder: Path, model: Path, tokens: int, rank: int) -> dict[str, Any]:
    """The settings of a run of two updates, each of two full micro-batches and a bit."""
    name = f"{model.name}-{method}-{rank}"
    settings: dict[str, Any] = {"model": str(model), "out": str(folder / name), "micro_batch_tokens": tokens}
    settings |= {"lora": {"rank": rank} if rank else None, "save_every": 1, "keep": 1, "learning_rate": 1e-5}
    if method == "ppo":
        reward = folder / f"{model.name}-reward-{rank}"
        settings |= {"prompts": str(folder / "prompts.jsonl"), "reward": str(reward), "max_new_tokens": 96}
        return settings | {"steps": 1, "ppo_epochs": 2, "rollouts": tokens // 52, "critic": {"warmup": 0}}
    data = folder / ("chats.jsonl" if method == "sft" else "rankings.jsonl")
    rows = tokens // (24 if method == "sft" else 52)
    return settings | {"data": str(data), "steps": 2, "batch_size": rows, "eval_data": "5%", "eval_every": 1}


# --- one run, in a process of its own ---------------------------------------------------------------------------------


def measure(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The forecast of a run, what it grew by, and the CPU seconds of its training."""
    from posttrain.config import CONFIGS, make_config  # noqa: PLC0415 - only in the process that measures
    from posttrain.console import open_console  # noqa: PLC0415
    from posttrain.recipes import fitting, preflight  # noqa: PLC0415

    facts: dict[str, Any] = {}
    fly, forecast, free = fitting.fly, preflight.forecast, preflight.available

    def asked(device: Any) -> int:
        facts["loaded"], facts["code"] = _memory("VmRSS"), _memory("RssFile")
        return free(device)

    def kept(*given: Any) -> Any:
        found = forecast(*given)
        facts["forecast"] = found.facts()
        return found

    def flown(*given: Any) -> None:
        fly(*given)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        facts["code"] -= _memory("RssFile")
        facts["began"] = time.process_time()

    preflight.available = asked
    preflight.forecast = kept
    fitting.fly = flown
    config: Any = make_config(CONFIGS[method], settings)
    from posttrain import start  # noqa: PLC0415

    start(config, console=open_console(quiet=True), fresh=True)
    return {
        "forecast": facts["forecast"]["growth"],
        "memory": facts["forecast"]["memory"],
        "growth": _memory("VmHWM") - facts["loaded"] + facts["code"],
        "seconds": time.process_time() - facts["began"],
    }


def _memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def apart(method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`measure` in a process of its own, with one thread."""
    asked = json.dumps({"method": method, "settings": settings})
    words = [sys.executable, "-m", "benchmarks", "memory", "--measure", asked]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise RuntimeError(f"{method}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


# --- the tables -------------------------------------------------------------------------------------------------------


def main() -> int:
    """1 when a forecast is off by more than the goal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the smaller model alone")
    parser.add_argument("--tokens", type=int, help="of a micro-batch, in place of each size's own")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--ranks", nargs="+", type=int, default=(0, 16))
    parser.add_argument("--twice", action="store_true", help="with activation checkpointing")
    parser.add_argument("--tokenizer", type=Path, default=SHARED)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        asked = json.loads(given.measure)
        print(json.dumps(measure(asked["method"], asked["settings"])))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        sizes = dict(list(SIZES.items())[:1]) if given.quick else SIZES
        worst = max(_of_size(name, size, folder, given) for name, size in sizes.items())
    print(f"worst {worst:.0%}, goal {GOAL:.0%}: {'reached' if worst <= GOAL else 'missed'}")
    return int(worst > GOAL)


def _of_size(name: str, size: Size, folder: Path, given: argparse.Namespace) -> float:
    """The largest part by which a forecast was off."""
    model, worst = folder / name, 0.0
    write_model(model, size, given.tokenizer)
    for rank in given.ranks:
        for method in given.methods:
            settings = settings_of(method, folder, model, given.tokens or size.tokens, rank)
            settings |= {"activation_checkpointing": given.twice}
            found = apart(method, settings)
            worst = max(worst, abs(found["growth"] / found["forecast"] - 1))
            _print(f"{name}  {method:7}lora {rank or 'null':<5}", found)
    shutil.rmtree(model)
    return worst


def _print(name: str, found: Mapping[str, Any]) -> None:
    parts = ", ".join(f"{part} {taken / 1e6:.0f}" for part, taken in found["memory"].items())
    print(
        f"{name} forecast {found['forecast'] / 1e6:5.0f} MB   grew {found['growth'] / 1e6:5.0f} MB"
        f"   ratio {found['growth'] / found['forecast']:.2f}   {found['seconds']:4.0f} s   {parts}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
