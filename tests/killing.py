"""Real processes of the command line, killed at chosen or random instants and started again until they are done.

A nursery process imports everything once and forks a child for each command, so that a start costs no import; the
child is an ordinary process, and SIGKILL is the real one.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NURSERY = """
import json, os, sys
import torch, transformers, peft
from transformers import LlamaForCausalLM, LlamaForSequenceClassification
from posttrain import cli
from posttrain.recipes import dpo, ppo, reward, setup, sft
torch.set_num_threads(1)
setup.SAMPLE_TOKENS = 16  # answers of full length are most of the time of a tiny run
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = cli.main(order["words"])
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
LIMIT = 120.0
"""Seconds after which a process that should have ended is given up; nothing else depends on time."""

When = Callable[[Path], bool]
"""From the run folder to whether the moment has come."""


class Nursery:
    """Starts commands as processes of their own, one at a time."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", NURSERY],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self._line() == "ready"

    def start(self, words: Sequence[str], log: Path) -> int:
        """The process id of a new `posttrain` with these words."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"words": list(words), "log": str(log)}) + "\n")
        self._process.stdin.flush()
        return int(self._line())

    def ended(self, wait: float) -> bool:
        """True when the process has ended, or does so within `wait` seconds."""
        return bool(select.select([self._process.stdout], [], [], wait)[0])

    def code(self) -> int:
        """The exit code of the process, once it ends: negative for a signal."""
        assert self.ended(LIMIT), "the process does not end"
        return int(self._line())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@dataclass(kw_only=True)
class Tale:
    """What became of a command: the signals that found it alive, and how it ended at last."""

    landed: int = 0
    code: int = 0
    inside_saves: int = 0
    codes: list[int] = field(default_factory=list[int])


def hunt(
    nursery: Nursery, words: Sequence[str], out: Path, moments: Sequence[When], *, how: int = signal.SIGKILL
) -> Tale:
    """Starts the command again and again, a signal at each moment; the last start is left to finish."""
    tale, log = Tale(), out.with_name(f"{out.name}.log")
    for moment in moments:
        child = nursery.start(words, log)
        if wait_for(moment, out, nursery):
            tale.inside_saves += bool(list(out.glob("run/checkpoints/*.part")))
            os.kill(child, how)
        code = nursery.code()
        tale.landed += code in (-how, 130)
        tale.codes.append(code)
    nursery.start(words, log)
    tale.code = nursery.code()
    assert tale.code == 0, log.read_text()[-3000:]
    return tale


def wait_for(moment: When, out: Path, nursery: Nursery) -> bool:
    """True when the moment came while the process lived. Looks every half a millisecond."""
    last = time.monotonic() + LIMIT
    while not nursery.ended(0.0005):
        if moment(out):
            return True
        assert time.monotonic() < last, "the moment never came, and the process does not end"
    return False


# --- moments ------------------------------------------------------------------------------------------------------


def lines_written(count: int) -> When:
    """When `count` steps stand in metrics.jsonl."""

    def come(out: Path) -> bool:
        file = out / "run" / "metrics.jsonl"
        return file.is_file() and file.read_bytes().count(b"\n") >= count

    return come


def inside_a_save(number: int = 1) -> When:
    """The `number`th time that the folder of a checkpoint under way appears."""
    seen: set[str] = set()

    def come(out: Path) -> bool:
        seen.update(item.name for item in out.glob("run/checkpoints/*.part"))
        return len(seen) >= number

    return come


def after_checkpoint(step: int) -> When:
    """When the checkpoint of a step, or of a later one, has its name."""

    def come(out: Path) -> bool:
        names = [item.name for item in out.glob("run/checkpoints/step-*") if item.name.removeprefix("step-").isdigit()]
        return any(int(name.removeprefix("step-")) >= step for name in names)

    return come


def some_time(seconds: float) -> When:
    """So long after the process was first looked at."""
    began: list[float] = []

    def come(out: Path) -> bool:
        began.append(time.monotonic()) if not began else None
        return time.monotonic() - began[0] >= seconds

    return come


def any_time(chance: random.Random, longest: float) -> When:
    """At a random instant."""
    return some_time(chance.uniform(0.0, longest))


# --- what a run left ----------------------------------------------------------------------------------------------


def remains(out: Path) -> dict[str, Any]:
    """Everything of a finished run that must not depend on how often it was killed; times are left out."""
    found: dict[str, Any] = {
        str(file.relative_to(out)): file.read_bytes()
        for pattern in (
            "*.safetensors",
            "*.json",
            "run/critic/*",
            "run/best/*",
            "run/ema/*",
            "run/samples.jsonl",
            "run/fingerprints.jsonl",
            "run/inspect/*",
        )
        for file in out.glob(pattern)
    }
    for name in ("metrics", "problems"):
        file = out / "run" / f"{name}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
        found[name] = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    record = json.loads((out / "run" / "run.json").read_text())
    found["results"], found["status"] = record["results"], record["status"]
    return found


def differing(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """The names of what is not the same in both."""
    return [name for name in sorted(first.keys() | second.keys()) if first.get(name) != second.get(name)]
