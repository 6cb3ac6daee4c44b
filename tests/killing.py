"""Real processes of the command line, killed at chosen or random instants and started again until they are done.

A nursery process (`nursery.py`) imports everything once and forks a child for each command, so that a start costs no
import; the child is an ordinary process, and SIGKILL is the real one.
"""

from __future__ import annotations

import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

LIMIT = 120.0
"""Seconds after which a process that should have ended is given up; nothing else depends on time."""

When = Callable[[Path], bool]
"""From the run folder to whether the moment has come."""


@dataclass(frozen=True, slots=True)
class At:
    """The `count`th time that a process passes a named point (`points.py`), where it stops and waits to be killed."""

    point: str
    count: int = 1


class Nursery:
    """Starts commands as processes of their own, one at a time, whose runs end with their `pages` or without."""

    def __init__(self, *, pages: bool = False) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("nursery.py"))]
        self._process = subprocess.Popen(
            [*command, "--pages"] if pages else command,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
        )  # fmt: skip
        self._heard: deque[str] = deque()
        self._part = ""
        self._code: int | None = None
        self._child = 0
        assert self._line() == "ready"

    def start(self, words: Sequence[str], log: Path, **more: object) -> int:
        """The process id of a new `posttrain` with these words. `more`: a `point` and its `count`, or a `tally`."""
        assert self._process.stdin is not None
        if self._left_behind():
            self.code()
        self._code = None
        self._process.stdin.write(json.dumps({"words": list(words), "log": str(log), **more}).encode() + b"\n")
        self._process.stdin.flush()
        self._child = int(self._line())
        return self._child

    def stopped(self) -> bool:
        """True once the process has stopped itself; False when it has ended instead."""
        assert self._hears(LIMIT), "the process neither stops nor ends"
        if self._heard[0] != "stopped":
            return False
        self._heard.popleft()
        return True

    def ended(self, wait: float) -> bool:
        """True when the process has ended, or does so within `wait` seconds."""
        while self._code is None and self._hears(wait):
            line = self._line()
            self._code = None if line == "stopped" else int(line)
        return self._code is not None

    def code(self) -> int:
        """The exit code of the process, once it ends: negative for a signal."""
        assert self.ended(LIMIT), "the process does not end"
        assert self._code is not None
        return self._code

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._left_behind()
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _left_behind(self) -> bool:
        """Whether a test that failed left a process behind, which is killed then."""
        if not self._child or self._code is not None:
            return False
        with suppress(ProcessLookupError):
            os.kill(self._child, signal.SIGKILL)
        return True

    def _hears(self, wait: float) -> bool:
        """Whether there is a whole line, or comes one within `wait` seconds."""
        assert self._process.stdout is not None
        number = self._process.stdout.fileno()
        if not self._heard and select.select([number], [], [], wait)[0]:
            data = os.read(number, 1 << 16)
            assert data, "the nursery has ended"
            *lines, self._part = (self._part + data.decode()).split("\n")
            self._heard.extend(lines)
        return bool(self._heard)

    def _line(self) -> str:
        while not self._hears(LIMIT):
            pass
        return self._heard.popleft()


INSTANT = "instant"
"""The name under which kills are counted that are at no named point."""


@dataclass(kw_only=True)
class Tale:
    """What became of a command: the signals that found it alive, by point, and how it ended at last."""

    landed: Counter[str] = field(default_factory=Counter[str])
    code: int = 0
    inside_saves: int = 0
    codes: list[int] = field(default_factory=list[int])

    @property
    def kills(self) -> int:
        """How many signals found the process alive."""
        return self.landed.total()


def hunt(
    nursery: Nursery,
    words: Sequence[str],
    out: Path,
    moments: Iterable[When | At],
    *,
    how: int = signal.SIGKILL,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Tale:
    """Starts the command again and again, a signal at each moment; the last start is left to finish.

    `moments` are asked for one by one, when the process before has ended.
    """
    tale, log, own = Tale(), out.with_name(f"{out.name}.log"), {"environment": {**environment}}
    for moment in moments:
        if isinstance(moment, At):
            child = nursery.start(words, log, point=moment.point, count=moment.count, **own)
            come = nursery.stopped()
        else:
            child = nursery.start(words, log, **own)
            come = wait_for(moment, out, nursery)
        if come:
            tale.inside_saves += bool(list(out.glob("run/checkpoints/*.part")))
            os.kill(child, how)
        code = nursery.code()
        tale.codes.append(code)
        if code in (-how, 130):
            tale.landed[moment.point if isinstance(moment, At) else INSTANT] += 1
        elif code == 0:
            break
    nursery.start(words, log, **own)
    tale.code = nursery.code()
    assert tale.code == 0, log.read_text()[-3000:]
    return tale


def wait_for(moment: When, out: Path, nursery: Nursery) -> bool:
    """True when the moment came while the process lived. Looks every millisecond."""
    last = time.monotonic() + LIMIT
    while not nursery.ended(0.001):
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


# --- what a run left ----------------------------------------------------------------------------------------------


VOLATILE = {"id", "started", "ended", "process", "host", "resumes", "forecast"}
"""What run.json says of when, where and how often, and of the memory and disk that happened to be free."""
SAID = ("run/run.json", "run/config.yaml", "README.md")
UNTOLD = ("run/log.txt", "run/lock", "report.html")
MEASURED = ("measures", "count", "estimates", "per_prompt", "prompts")
"""What an evaluation found, whatever its models and files are called."""


def remains(out: Path) -> dict[str, Any]:
    """What a finished run has learnt and measured: every file but the log and those that tell of settings and times.

    The seconds of metrics are left out, and what trackers were told.
    """
    found: dict[str, Any] = {}
    for file in sorted(item for item in out.rglob("*") if item.is_file()):
        name = str(file.relative_to(out))
        if name in (*SAID, *UNTOLD) or name.startswith("run/tensorboard/"):
            continue
        content = file.read_bytes()
        if name in ("run/metrics.jsonl", "run/problems.jsonl"):
            rows = [json.loads(line) for line in content.splitlines()]
            content = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
        if name.startswith("run/evaluations/"):
            facts = json.loads(content)
            found.setdefault("run/evaluations", []).append([facts[key] for key in MEASURED])
        else:
            found[name] = content
    if "run/evaluations" in found:  # whose names go by those of models and files
        found["run/evaluations"].sort(key=str)
    record = json.loads((out / "run" / "run.json").read_text())
    return {**found, "results": record["results"], "status": record["status"]}


def everything(out: Path) -> dict[str, Any]:
    """What must not depend on how often a run was killed: `remains`, and what is said of it but times and places."""
    found = remains(out)
    record = json.loads((out / "run" / "run.json").read_text())
    found["run/run.json"] = {key: value for key, value in record.items() if key not in VOLATILE}
    for name in SAID[1:]:
        text = re.sub(r"^out: .*?#", "out: OUT  #", (out / name).read_text(), flags=re.MULTILINE)
        found[name] = text.replace(f"\n# {out.name}\n", "\n# NAME\n").replace(f'("{out.name}")', '("NAME")')
    return found


def differing(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """The names of what is not the same in both."""
    return [name for name in sorted(first.keys() | second.keys()) if first.get(name) != second.get(name)]


# --- many kills -----------------------------------------------------------------------------------------------------

LAST = ("kept", "end", "tokenizer", "finish", "done", "clearing")
"""Points that come when all steps are done, in their order; after one of the last two there is nothing to start."""
AGAIN = ("restore", "cut")
"""Points that only a run which goes on passes."""


@dataclass(kw_only=True)
class Toll:
    """What many kills of one command came to: where they landed, and what of its lives was lost or torn.

    `wanted` are the points that it passes.
    """

    wanted: set[str]
    tale: Tale = field(default_factory=Tale)
    lives: int = 0
    wrong: list[str] = field(default_factory=list[str])

    @property
    def missed(self) -> set[str]:
        """Points at which no kill has landed."""
        return self.wanted - self.tale.landed.keys()

    def told(self, method: str) -> str:
        """The counts, in two lines."""
        at = ", ".join(f"{name} {times}" for name, times in sorted(self.tale.landed.items()))
        kills = f"{self.tale.kills} kills landed in {self.lives} runs, {self.tale.inside_saves} of them inside a save"
        return f"{method}: {kills}; {len(self.wrong)} lost or torn\n  {at}"


@dataclass(kw_only=True)
class Undisturbed:
    """A run that nobody disturbed: what it left, how often it passed each point, and its seconds."""

    left: Mapping[str, Any]
    passed: Mapping[str, int]
    seconds: float


def undisturbed(nursery: Nursery, words: Sequence[str], out: Path) -> Undisturbed:
    """Runs a command to its end."""
    tally, began = out.with_name(f"{out.name}.tally"), time.monotonic()
    log = out.with_name(f"{out.name}.log")
    nursery.start([*words, "--out", str(out)], log, tally=str(tally))
    code = nursery.code()
    assert code == 0, log.read_text()[-3000:]
    return Undisturbed(left=everything(out), passed=json.loads(tally.read_text()), seconds=time.monotonic() - began)


def kill_often(
    nursery: Nursery, words: Sequence[str], folder: Path, chance: random.Random, *, kills: int, lives: int = 60
) -> Toll:
    """Kills a command until `kills` have landed, and one at each point that it passes; at most `lives` runs."""
    whole = undisturbed(nursery, words, folder / "whole")
    toll = Toll(wanted={name for name, times in whole.passed.items() if times} | {*AGAIN})
    while toll.lives < lives and (toll.tale.kills < kills or toll.missed):
        toll.lives += 1
        out = folder / f"life-{toll.lives}"
        tale = hunt(nursery, [*words, "--out", str(out)], out, _life(out, chance, whole, toll.missed))
        toll.tale.landed += tale.landed
        toll.tale.inside_saves += tale.inside_saves
        toll.wrong += [f"life {toll.lives}: {name}" for name in differing(whole.left, everything(out))]
    return toll


def _life(out: Path, chance: random.Random, whole: Undisturbed, missing: set[str]) -> Iterable[When | At]:
    """Some kills early and on the way, at random instants and points, one of them inside a save, and one at the end."""
    passed = {name: times for name, times in whole.passed.items() if times}
    early = sorted(name for name in passed if name not in LAST)
    for number in range(4):
        if number == 1:
            yield At(chance.choice(("save", "rename")), chance.randint(1, passed["rename"]))
            continue
        if chance.random() < 0.5:
            yield some_time(chance.uniform(0.0, whole.seconds * 0.8))
            continue
        again = [name for name in AGAIN if list(out.glob("run/checkpoints/step-*[0-9]"))]
        names = sorted(missing.intersection([*early, *again])) or [*early, *again]
        name = chance.choice(names)
        missing.discard(name)
        times = passed.get(name, 1)
        yield At(name, chance.randint(1, max(1, times // (1 + number))))
    left = [name for name in LAST if name in missing] or [chance.choice([name for name in LAST if name in passed])]
    for name in left:
        yield At(name, chance.randint(1, passed[name]))
