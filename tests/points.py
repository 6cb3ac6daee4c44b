"""Named points of a run at which a process stops itself, so that it can be killed exactly there.

Nothing in the package knows of them: the child of a nursery wraps functions before its command begins. A process that
has stopped itself lies still with all of its threads, and what is on the disk is what a SIGKILL finds there.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

Arm = Callable[["Trap"], None]
Where = Callable[..., bool]
"""From the trap and the arguments of a call to whether it is one that counts."""


@dataclass(slots=True)
class Trap:
    """Stops its process when a point is passed for the `count`th time; 0 is never. `out` is the run folder."""

    out: Path
    count: int
    passed: int = 0
    _lock: Any = field(default_factory=threading.Lock)

    def due(self) -> bool:
        """Whether this is the time; each call is a passage."""
        with self._lock:
            self.passed += 1
            return self.passed == self.count

    def close(self) -> None:
        """Stops the process, for good unless somebody lets it go on."""
        while True:
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
            time.sleep(0.05)  # a signal that came with the one to go on, and that another thread took, is heard first

    def step(self) -> None:
        """Stops the process if it is time."""
        if self.due():
            self.close()


def _before(name: str, where: Where = lambda *_: True) -> Arm:
    """A point just before a function is called: `posttrain.engine.local:LocalEngine.step`."""

    def around(trap: Trap, inner: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(inner)
        def call(*args: Any, **more: Any) -> Any:
            if where(trap, *args):
                trap.step()
            return inner(*args, **more)

        return call

    return _wrapping(name, around)


def _after(name: str, where: Where = lambda *_: True) -> Arm:
    """A point just after a function has returned."""

    def around(trap: Trap, inner: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(inner)
        def call(*args: Any, **more: Any) -> Any:
            found = where(trap, *args)
            result = inner(*args, **more)
            if found:
                trap.step()
            return result

        return call

    return _wrapping(name, around)


def _wrapping(name: str, around: Callable[[Trap, Callable[..., Any]], Callable[..., Any]]) -> Arm:
    def arm(trap: Trap) -> None:
        module, _, path = name.partition(":")
        owner: Any = import_module(module)
        *parents, last = path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, last, around(trap, getattr(owner, last)))

    return arm


# --- halves: what is written in one go, caught in the middle --------------------------------------------------------


def _half_of_tensors(where: Where) -> Arm:
    """A point at which half the bytes of a safetensors file are written."""

    def around(trap: Trap, inner: Callable[..., Any]) -> Callable[..., Any]:
        def write(tensors: Any, filename: Any, *args: Any, **more: Any) -> None:
            inner(tensors, filename, *args, **more)
            file = Path(filename)
            if where(trap, file) and trap.due():
                with file.open("r+b") as opened:
                    opened.truncate(file.stat().st_size // 2)
                trap.close()

        return write

    def arm(trap: Trap) -> None:
        for module in ("safetensors.torch", "safetensors.numpy"):
            _wrapping(f"{module}:serialize_file", around)(trap)

    return arm


def _half_a_file(name: str) -> Arm:
    """A point at which half of a file is written, by a function whose first argument is its path."""

    def around(trap: Trap, inner: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(inner)
        def write(file: Path, *args: Any, **more: Any) -> None:
            inner(file, *args, **more)
            if trap.due():
                with file.open("r+b") as opened:
                    opened.truncate(file.stat().st_size // 2)
                trap.close()

        return write

    return _wrapping(name, around)


def _half_a_line(name: str) -> Arm:
    """A point at which half a line of a file that grows by lines is written."""

    def around(trap: Trap, inner: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(inner)
        def opened(file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
            found = inner(file, mode, *args, **more)
            if mode.startswith("a") and isinstance(file, Path) and file.name == name and trap.due():
                whole = found.write

                def half(text: Any) -> None:
                    whole(text[: len(text) // 2])
                    found.flush()
                    trap.close()

                found.write = half
            return found

        return opened

    return _wrapping("io:open", around)


def _half_of_weights() -> Arm:
    """A point inside the optimizer's step: half of the weights have new values."""

    def around(trap: Trap, inner: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(inner)
        def step(optimizer: Any, *args: Any, **more: Any) -> Any:
            if trap.due():
                parts = [part for group in optimizer.param_groups for part in group["params"]]
                for part in parts[len(parts) // 2 :]:
                    part.grad = None
                inner(optimizer, *args, **more)
                trap.close()
            return inner(optimizer, *args, **more)

        return step

    return _wrapping("torch.optim:AdamW.step", around)


def _half_removed(where: Where) -> Arm:
    """A point at which one file of a folder that is being removed is gone."""

    def around(trap: Trap, inner: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(inner)
        def remove(path: Any, *args: Any, **more: Any) -> None:
            if where(trap, Path(path)) and trap.due():
                files = sorted(file for file in Path(path).rglob("*") if file.is_file())
                files[0].unlink()
                trap.close()
            inner(path, *args, **more)

        return remove

    return _wrapping("shutil:rmtree", around)


# --- which files ----------------------------------------------------------------------------------------------------


def _in_checkpoint(trap: Trap, file: Path, *_: object) -> bool:
    return file.parent.parent.name == "checkpoints" and file.parent.name.startswith("step-")


def _beside_checkpoints(trap: Trap, file: Path, *_: object) -> bool:
    return file.parent.parent.name == "checkpoints" and not file.parent.name.startswith("step-")


def _of_the_model(trap: Trap, file: Path, *_: object) -> bool:
    return file.parent == trap.out


def _of_kept(trap: Trap, file: Path, *_: object) -> bool:
    return file.parent.name in ("best.part", "ema.part")


def _new_checkpoint(trap: Trap, path: Path, *_: object) -> bool:
    return path.parent.name == "checkpoints" and path.name.startswith("step-") and path.name.endswith(".part")


def _old_checkpoint(trap: Trap, path: Path, *_: object) -> bool:
    return path.parent.name == "checkpoints" and path.name.endswith(".gone")


def _all_checkpoints(trap: Trap, path: Path, *_: object) -> bool:
    return path.name == "checkpoints"


def _record(trap: Trap, path: Path, *_: object) -> bool:
    return path.name == "run.json.part"


def _last_record(trap: Trap, path: Path, *_: object) -> bool:
    return path.name == "run.json.part" and json.loads(path.read_text())["status"] == "done"


def _settings(trap: Trap, path: Path, *_: object) -> bool:
    return path.name == "config.yaml.part"


def _within_the_run(trap: Trap, path: Path, *_: object) -> bool:
    return trap.out in path.parents


def _new_tokens(trap: Trap, path: Path, target: Path) -> bool:
    return path.name.startswith(".draft-") and not Path(target).name.startswith(".draft-")


POINTS: dict[str, tuple[str, Arm]] = {
    "settings": ("config.yaml is written and has no name", _before("pathlib:Path.replace", _settings)),
    "record": ("run.json is written and has no name", _before("pathlib:Path.replace", _record)),
    "reference": ("half a file of what is computed once", _half_of_tensors(_beside_checkpoints)),
    "start": ("all is loaded, before the first new step", _before("posttrain.recipes.fitting:fly")),
    "restore": ("weights and optimizer are restored", _after("posttrain.engine.local:LocalEngine.load_state")),
    "cut": ("files are cut back to a checkpoint", _after("posttrain.run.writer:RunWriter.load_state")),
    "rollout": ("answers are under way, before their next token", _before("posttrain.rollout.sampler:draw")),
    "annotation": ("answers are packed for the annotator", _after("posttrain.rollout.annotate:pack_answers")),
    "gradient": ("a micro-batch's gradient is there", _after("posttrain.engine.local:LocalEngine.backward")),
    "update": ("all gradients are there", _before("posttrain.engine.local:LocalEngine.step")),
    "optimizer": ("half of the weights are updated", _half_of_weights()),
    "metrics": ("half a line of metrics.jsonl", _half_a_line("metrics.jsonl")),
    "samples": ("half a line of samples.jsonl", _half_a_line("samples.jsonl")),
    "failures": ("half a line of reward_failures.jsonl", _half_a_line("reward_failures.jsonl")),
    "inspected": ("half a file of the token inspector", _half_a_file("posttrain.run.inspect:_put")),
    "save": ("half a file of a checkpoint", _half_of_tensors(_in_checkpoint)),
    "rename": ("a checkpoint is sealed and has no name", _before("pathlib:Path.rename", _new_checkpoint)),
    "renamed": ("a checkpoint has its name, old ones stay", _after("pathlib:Path.rename", _new_checkpoint)),
    "removal": ("an old checkpoint is half removed", _half_removed(_old_checkpoint)),
    "kept": ("half a file of the best or the averaged model", _half_of_tensors(_of_kept)),
    "end": ("half a file of the final model", _half_of_tensors(_of_the_model)),
    "tokenizer": ("the final weights are written, no tokenizer", _before("posttrain.text.chat:Codec.save")),
    "finish": ("the model is written, and not said to be", _before("pathlib:Path.replace", _last_record)),
    "done": ("the run is done, its checkpoints are there", _after("pathlib:Path.replace", _last_record)),
    "clearing": ("its checkpoints are half removed", _half_removed(_all_checkpoints)),
}
"""What stands at each point, and how to get there, in the order of a run."""

ASIDE: dict[str, tuple[str, Arm]] = {
    "fresh": ("a file of an earlier run is about to go", _before("pathlib:Path.unlink", _within_the_run)),
    "tokens": ("tokens are kept and have no name", _before("pathlib:Path.rename", _new_tokens)),
    "ranking": ("a simulated annotator is about to say something", _before("posttrain.feedback.simulated:say")),
    "stage": ("a round of the loop has its reward model, and no policy", _before("posttrain.workflows.rlhf:_policy")),
    "compared": ("one comparison of a round is kept", _after("posttrain.workflows.loop_measures:evaluate")),
    "round": ("a round of the loop is about to be told", _before("posttrain.workflows.rlhf:_facts")),
}
"""Points that a run passes only where there was a run before, or where its data are read for the first time."""


def arm(name: str, count: int, out: Path) -> None:
    """From now on this process stops when it passes a point for the `count`th time. Raises KeyError for no point."""
    (POINTS | ASIDE)[name][1](Trap(out=out, count=count))


def arm_all(out: Path) -> Callable[[], dict[str, int]]:
    """Stops nowhere; how often each point was passed until the function is called."""
    traps = {name: Trap(out=out, count=0) for name in POINTS}
    for name, (_, ready) in POINTS.items():
        ready(traps[name])
    return lambda: {name: trap.passed for name, trap in traps.items()}
